package socks

import "sync"

// maxUDP is the largest UDP payload that any address family can carry.
const maxUDP = 65527

// headroom is what the header of a datagram from an IP address takes at most,
// so that it can be written in front of a payload where that lies.
const headroom = 3 + 1 + 16 + 2

// packetBuffer holds any datagram with its header.
type packetBuffer [headroom + 65536]byte

var packetBuffers = sync.Pool{New: func() any { return new(packetBuffer) }}
