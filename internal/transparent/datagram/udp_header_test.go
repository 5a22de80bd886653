package datagram_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUDPHeaderFields: the traffic class is carried both ways, and a TTL that
// the application has lowered is carried on, less one.
func TestUDPHeaderFields(t *testing.T) {
	eachFamily(t, func(t *testing.T, app netip.AddrPort, host string) {
		r := newRig(t, rigConfig{})
		srv := listen(t, host)
		opts := [][2]int{{unix.IP_RECVTOS, 1}, {unix.IP_RECVTTL, 1}, {unix.IP_TOS, 0x2d << 2}}
		level, tosType, ttlType := unix.SOL_IP, unix.IP_TOS, unix.IP_TTL
		if !app.Addr().Is4() {
			opts = [][2]int{{unix.IPV6_RECVTCLASS, 1}, {unix.IPV6_RECVHOPLIMIT, 1}, {unix.IPV6_TCLASS, 0x2d << 2}}
			level, tosType, ttlType = unix.SOL_IPV6, unix.IPV6_TCLASS, unix.IPV6_HOPLIMIT
		}
		rc, err := srv.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range opts {
			if cerr := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, o[0], o[1]) }); cerr != nil || err != nil {
				t.Fatal(cerr, err)
			}
		}
		for _, c := range []struct{ tos, ttl, wantTTL uint8 }{
			{0, 64, 64}, {0x2e << 2, 64, 64}, {1, 128, 64}, {0, 63, 62}, {0xff, 2, 1},
		} {
			r.send(appPacket{src: app, dst: srv.addr, payload: []byte("x"), tos: c.tos, ttl: c.ttl})
			srv.SetReadDeadline(time.Now().Add(5 * time.Second))
			buf, oob := make([]byte, 16), make([]byte, 256)
			_, n, _, from, err := srv.ReadMsgUDPAddrPort(buf, oob)
			if err != nil {
				t.Fatal(err)
			}
			msgs, err := unix.ParseSocketControlMessage(oob[:n])
			if err != nil {
				t.Fatal(err)
			}
			tos, ttl := -1, -1
			for _, m := range msgs {
				switch {
				case int(m.Header.Type) == tosType:
					tos = int(m.Data[0])
				case int(m.Header.Type) == ttlType:
					ttl = int(m.Data[0])
				}
			}
			if tos != int(c.tos) || ttl != int(c.wantTTL) {
				t.Errorf("TOS %#x, TTL %d: arrived as %#x and %d", c.tos, c.ttl, tos, ttl)
			}
			srv.write(t, []byte("y"), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
			if a := r.link.answers(t, 1)[0]; a.tos != 0x2d<<2 {
				t.Errorf("answer's TOS %#x", a.tos)
			}
		}
	})
}
