package datagram_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"netstackd/internal/flow"
)

// wrapDialer opens sockets that UDP does not know for what they are, as those
// of an upstream.
type wrapDialer struct {
	addrPort bool // with methods for netip.AddrPort
}

func (d wrapDialer) ListenPacket(_ context.Context, _ *flow.Meta, network, _ string) (net.PacketConn, error) {
	c, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, err
	}
	if d.addrPort {
		return struct{ *net.UDPConn }{c}, nil
	}
	return struct{ net.PacketConn }{c}, nil
}

func TestUDPProxied(t *testing.T) {
	for _, d := range []wrapDialer{{false}, {true}} {
		t.Run(fmt.Sprintf("addrport=%v", d.addrPort), func(t *testing.T) {
			eachFamily(t, func(t *testing.T, app netip.AddrPort, host string) {
				r := newRig(t, rigConfig{dialer: d})
				srv := listen(t, host)
				for _, size := range []int{0, 1, 1200, 5000, 60000} {
					msg := random(size)
					r.send(appPacket{src: app, dst: srv.addr, payload: msg, views: 3})
					got, from := srv.next(t)
					if !bytes.Equal(got, msg) {
						t.Fatalf("server got %d bytes, want %d", len(got), size)
					}
					srv.write(t, got, from)
					if a := r.link.answers(t, 1)[0]; !bytes.Equal(a.payload, msg) || a.src != srv.addr || a.dst != app {
						t.Fatalf("application got %d bytes from %v", len(a.payload), a.src)
					}
				}
				msg := random(2500)
				r.send(appPacket{src: app, dst: srv.addr, payload: msg, seg: 1000})
				for want := range bytesChunks(msg, 1000) {
					if got, _ := srv.next(t); !bytes.Equal(got, want) {
						t.Fatalf("server got %d bytes, want %d", len(got), len(want))
					}
				}
			})
		})
	}
}
