// Package tun opens or adopts a Linux TUN device and moves whole IP packets
// through it, with the offloads of its virtio header, on several queues.
// On other systems it compiles, and Open returns [errors.ErrUnsupported].
package tun
