package tun

// FromSocket returns a device on the fds of SOCK_SEQPACKET sockets, which keep
// packets apart as a TUN does, so that reading and writing can be
// tested without one. Each packet comes after a struct tun_pi if info,
// and then after a struct virtio_net_hdr if vnet.
func FromSocket(info, vnet bool, fds ...int) (*Device, error) {
	d, err := assemble(format{info: info, vnet: vnet}, fds)
	if err != nil {
		return nil, err
	}
	closeAll(fds)
	d.control = &control{name: "socket", mtu: 1500, sock: -1}
	if vnet {
		d.offloads = offloadTSO | offloadUSO
	}
	return d, nil
}
