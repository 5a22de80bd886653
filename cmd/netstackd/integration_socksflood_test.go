//go:build linux

package main_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/testnet"
)

// A flood of connections from one address to the SOCKS listener does not keep
// other clients out, whether the connections say nothing and stay, stop in the
// middle of the handshake, or end at once.
func TestIntegrationSOCKSFlood(t *testing.T) {
	for _, c := range []struct {
		name  string
		flood socksFlood
	}{
		{"silent", socksFlood{load: load{perSecond: 5000, total: 30_000}, open: 3000}},
		{"stalled", socksFlood{load: load{perSecond: 5000, total: 30_000}, open: 3000, greeting: []byte{5, 1}}},
		{"short", socksFlood{load: load{perSecond: 15_000, total: 60_000}, open: 50}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := testnet.New(t)
			d := n.A.Start(t, program.Path(t), "--socks", "10.77.0.1:1080", "--allow-open", "--drain", "0s", "--max-flows", "1000")
			proxy := netip.AddrPortFrom(n.A.IP4, 1080)
			port := n.B.ServeTCP(t, ":0", testnet.Echo)
			healthy := &net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: testnet.Dest(testnet.IPv4, 1).AsSlice()}}
			request := append([]byte{5, 1, 0, 5, socksConnect, 0}, socksAddr(t, netip.AddrPortFrom(n.B.IP4, port).String())...)
			f := c.flood
			f.proxy = proxy
			underFlood(t, n.B, d, &f, func(int) error {
				conn, err := n.B.Dial(healthy, "tcp", proxy.String())
				if err != nil {
					return err
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				if _, err := conn.Write(request); err != nil {
					return err
				}
				reply := make([]byte, 2+4+4+2)
				if _, err := io.ReadFull(conn, reply); err != nil {
					return fmt.Errorf("reply to CONNECT: %w", err)
				}
				if reply[3] != socksOK {
					return fmt.Errorf("CONNECT: reply %d", reply[3])
				}
				return tryExchange(conn, "a few bytes")
			})
		})
	}
}

// socksFlood connects to a proxy again and again. Its newest connections stay
// open; older ones are reset.
type socksFlood struct {
	load
	proxy    netip.AddrPort
	open     int    // connections that stay open
	greeting []byte // what each says, as soon as it can
}

// run connects from the namespace of the calling thread.
func (f *socksFlood) run() error {
	to := &unix.SockaddrInet4{Addr: f.proxy.Addr().As4(), Port: int(f.proxy.Port())}
	held := make([]int, f.open) // descriptors and, before they are there, -1
	for i := range held {
		held[i] = -1
	}
	drop := func(fd int) {
		if fd >= 0 {
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			_ = unix.Close(fd)
		}
	}
	defer func() {
		for _, fd := range held {
			drop(fd)
		}
	}()
	return f.pace(func(i int) error {
		slot := &held[i%f.open]
		drop(*slot)
		*slot = -1
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		*slot = fd
		if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
			return fmt.Errorf("connect: %w", err)
		}
		// A few connections later the handshake has usually ended.
		if fd := held[(i+f.open-f.open/4)%f.open]; fd >= 0 && len(f.greeting) > 0 {
			_ = unix.Send(fd, f.greeting, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) // it may be reset
		}
		return nil
	})
}
