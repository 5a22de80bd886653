package datagram_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"

	"netstackd/internal/flow"
	"netstackd/internal/transparent/datagram"
)

// portDialer opens host sockets, unless the address says a port and err is set.
type portDialer struct {
	hostDialer
	asked []string
	err   error
}

func (d *portDialer) ListenPacket(ctx context.Context, m *flow.Meta, network, address string) (net.PacketConn, error) {
	d.asked = append(d.asked, address)
	if address != "" && d.err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: os.NewSyscallError("bind", d.err)}
	}
	return d.hostDialer.ListenPacket(ctx, m, network, address)
}

// freePort returns a UDP port that no socket has.
func freePort(t *testing.T, host string) uint16 {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// The first application with a port keeps it, the next with the same port gets
// another one.
func TestUDPKeepsPort(t *testing.T) {
	eachFamily(t, func(t *testing.T, app netip.AddrPort, host string) {
		d := &portDialer{}
		r := newRig(t, rigConfig{dialer: d, udp: datagram.UDPConfig{
			Inline:   true,
			KeepPort: func(src netip.AddrPort) bool { return true },
		}})
		srv := listen(t, host)
		port := freePort(t, host)
		r.send(appPacket{src: netip.AddrPortFrom(app.Addr(), port), dst: srv.addr, payload: []byte("first")})
		if _, from := srv.next(t); from.Port() != port {
			t.Errorf("source port %d, want %d", from.Port(), port)
		}
		r.send(appPacket{src: netip.AddrPortFrom(app.Addr().Next(), port), dst: srv.addr, payload: []byte("second")})
		if _, from := srv.next(t); from.Port() == port {
			t.Errorf("two applications share port %d", port)
		}
		if st := r.udp.Stats(); st.Sessions != 2 || st.Refused != 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

// A port that may not be had costs one more try, and nothing else.
func TestUDPKeepsPortFallback(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EACCES, syscall.EADDRINUSE} {
		t.Run(errno.Error(), func(t *testing.T) {
			d := &portDialer{err: errno}
			r := newRig(t, rigConfig{dialer: d, udp: datagram.UDPConfig{
				Inline:   true,
				KeepPort: func(src netip.AddrPort) bool { return src.Port() == 500 },
			}})
			srv := listen(t, "127.0.0.1")
			for _, port := range []uint16{500, 501} {
				r.send(appPacket{src: netip.AddrPortFrom(families[0].app.Addr(), port), dst: srv.addr, payload: []byte(strconv.Itoa(int(port)))})
				srv.next(t)
			}
			if len(d.asked) != 3 || d.asked[0] != ":500" || d.asked[1] != "" || d.asked[2] != "" {
				t.Errorf("asked for %q", d.asked)
			}
		})
	}
}
