package datagram_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
)

// TestUDPPortUnreachable: the real host's ICMP error reaches the application
// as one about its own datagram, and the session works on.
func TestUDPPortUnreachable(t *testing.T) {
	eachFamily(t, func(t *testing.T, app netip.AddrPort, host string) {
		r := newRig(t, rigConfig{})
		srv := listen(t, host)
		gone := closedPort(t, host)
		payload := []byte("nobody home")
		for range 20 {
			r.send(appPacket{src: app, dst: gone, payload: payload}, appPacket{src: app, dst: srv.addr, payload: []byte("ping")})
			if got, _ := srv.next(t); string(got) != "ping" {
				t.Fatalf("server got %q", got)
			}
			e := parseICMPError(t, r.link.next(t).data)
			typ, code := uint8(3), uint8(3)
			if !app.Addr().Is4() {
				typ, code = 1, 4
			}
			if e.typ != typ || e.code != code || e.from != gone.Addr() || e.to != app.Addr() || e.src != app || e.dst != gone {
				t.Fatalf("error %+v", e)
			}
			if !bytes.HasSuffix(e.quoted, payload) {
				t.Fatalf("quoted %q", e.quoted)
			}
		}
		if st := r.udp.Stats(); st.Errors != 20 || st.DroppedSend != 0 || st.Sessions != 1 {
			t.Errorf("stats %+v", st)
		}
	})
}

// closedPort returns an address that no socket is bound to.
func closedPort(t *testing.T, host string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// A train to a closed port is one datagram after the other to it.
func TestUDPPortUnreachableTrain(t *testing.T) {
	r := newRig(t, rigConfig{})
	app := families[0].app
	gone := closedPort(t, "127.0.0.1")
	r.send(appPacket{src: app, dst: gone, payload: random(4000), seg: 1000})
	e := parseICMPError(t, r.link.next(t).data)
	if e.typ != 3 || e.code != 3 || e.dst != gone {
		t.Errorf("error %+v", e)
	}
}
