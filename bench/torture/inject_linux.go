package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// injector sends packets as they are on one interface.
type injector struct {
	fd   int
	to   unix.SockaddrLinklayer
	vnet bool // a virtio header goes first (packet(7), PACKET_VNET_HDR)
}

// newInjector opens one on h's device. Where that is an Ethernet's, frames go
// to the neighbor's device.
func newInjector(h *host, name string, neighbor *host, neighborDevice string, vnet bool) (*injector, error) {
	j := &injector{fd: -1, vnet: vnet}
	if neighbor != nil {
		err := neighbor.do(func() error {
			i, err := net.InterfaceByName(neighborDevice)
			if err == nil {
				j.to.Halen = uint8(copy(j.to.Addr[:], i.HardwareAddr))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	err := h.do(func() error {
		i, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		j.to.Ifindex = i.Index
		kind := unix.SOCK_DGRAM
		if vnet {
			kind = unix.SOCK_RAW // a TUN has no link header
		}
		if j.fd, err = unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return os.NewSyscallError("socket AF_PACKET", err)
		}
		if vnet {
			return os.NewSyscallError("PACKET_VNET_HDR", unix.SetsockoptInt(j.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
		}
		return nil
	})
	if err != nil {
		j.close()
		return nil, fmt.Errorf("inject on %s of %s: %w", name, h.name, err)
	}
	return j, nil
}

// send sends one packet. The kernel refuses some of those that are wrong, and
// drops what a queue has no room for: neither is an error here.
func (j *injector) send(b []byte) error {
	at := b
	if j.vnet {
		at = b[vnetLen:]
	}
	j.to.Protocol = htons(unix.ETH_P_IP)
	if len(at) > 0 && at[0]>>4 == 6 {
		j.to.Protocol = htons(unix.ETH_P_IPV6)
	}
	err := unix.Sendto(j.fd, b, unix.MSG_DONTWAIT, &j.to)
	for _, harmless := range []error{unix.EINVAL, unix.ENOBUFS, unix.EAGAIN, unix.EMSGSIZE, unix.EINTR} {
		if errors.Is(err, harmless) {
			return nil
		}
	}
	return os.NewSyscallError("sendto", err)
}

func (j *injector) close() {
	if j.fd >= 0 {
		unix.Close(j.fd)
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// paced calls fn up to most times, so many a second, until ctx ends.
func paced(ctx context.Context, perSecond, most int, fn func(i int) error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for i := 0; i < most; {
		due := min(most, int(time.Since(began).Seconds()*float64(perSecond)))
		for ; i < due; i++ {
			if err := fn(i); err != nil {
				return err
			}
			if i%64 == 63 && ctx.Err() != nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// fromLAN opens an injector on C, towards A.
func (n *network) fromLAN() (*injector, error) {
	return newInjector(n.c, device, n.a, lanDevice, false)
}

// intoTUN opens an injector on netstackd's own interface: what it sends is
// what netstackd reads.
func (n *network) intoTUN(vnet bool) (*injector, error) {
	return newInjector(n.a, tunDevice, nil, "", vnet)
}
