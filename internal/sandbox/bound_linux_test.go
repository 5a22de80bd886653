package sandbox_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"netstackd/internal/sandbox"
)

// A UDP server is found at whatever address it is bound to.
func TestBoundUDP(t *testing.T) {
	for _, tt := range []struct{ listen, want string }{
		{"127.0.0.1", "127.0.0.1"},
		{"127.0.0.9", "127.0.0.9"},
		{"::1", "::1"},
		{"0.0.0.0", "127.0.0.1"},
		{"::", "::1"},
	} {
		t.Run(tt.listen, func(t *testing.T) {
			network := "udp4"
			if netip.MustParseAddr(tt.listen).Is6() {
				network = "udp6"
			}
			c, err := net.ListenPacket(network, net.JoinHostPort(tt.listen, "0"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			want := netip.AddrPortFrom(netip.MustParseAddr(tt.want), port)
			if got, err := sandbox.BoundUDP(os.DirFS("/proc"), port); got != want || err != nil {
				t.Errorf("%v, %v, want %v", got, err, want)
			}
			c.Close()
			if got, err := sandbox.BoundUDP(os.DirFS("/proc"), port); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("after Close: %v, %v", got, err)
			}
		})
	}
}

// A client's connected socket is no server.
func TestBoundUDPIgnoresClients(t *testing.T) {
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if got, err := sandbox.BoundUDP(os.DirFS("/proc"), port); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v, %v", got, err)
	}
}
