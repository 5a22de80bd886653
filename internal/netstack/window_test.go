package netstack_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// A peer that has sent all that its window allows is still heard: what it
// acknowledges counts, though its sequence number is past what the scaled window
// field can say now (RFC 9293 3.10.7.4 accepts ACKs in a closed window). Else a
// reader that stands still would stop the other direction as well.
func TestACKOfFullWindow(t *testing.T) {
	accepted := make(chan *netstack.Conn, 1)
	dev, _ := alone(t, tuntest.Config{MTU: 65000}, netstack.Config{Connect: func(r *netstack.Request) {
		c, err := r.Accept(context.Background())
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}})
	from, to := peerEnd, foreignEnd
	inject(t, dev, synScaled(from, to, 1, 16000))
	synack := parse(t, answer(t, dev)).payload
	scale := windowScale(t, synack)
	own, next := be.Uint32(synack[4:])+1, uint32(2)
	inject(t, dev, tcp(from, to, flagACK, next, own, nil))
	conn := recv(t, accepted)
	deadline(t, conn)
	t.Cleanup(conn.Reset)

	// The right edge is the furthest that was allowed: rounding takes some back.
	edge := next + uint32(be.Uint16(synack[14:]))
	send := func(n uint32) (window uint32) {
		inject(t, dev, tcp(from, to, flagACK, next, own, make([]byte, n)))
		next += n
		p := parse(t, answer(t, dev)).payload
		window = uint32(be.Uint16(p[14:])) << scale
		if e := be.Uint32(p[8:]) + window; int32(e-edge) > 0 {
			edge = e
		}
		return window
	}
	for edge-next > 2000 {
		send(1459)
	}
	for window := uint32(1); window > 0 && edge != next; {
		window = send(50)
	}
	const room = 4 * 16000 // whole segments, within the peer's window
	if _, err := conn.Write(make([]byte, 2*room)); err != nil {
		t.Fatal(err)
	}
	own = drain(t, dev, room).seq
	// What was left of the window is lost; what follows it is not.
	inject(t, dev, tcp(from, to, flagACK, edge, own, nil))
	for end := time.Now().Add(patience); int32(drain(t, dev, 1).seq-own) <= 0; {
		if time.Now().After(end) { // a retransmission may have crossed the ACK, but no more
			t.Fatalf("with %d bytes lost: only what was acknowledged is sent, again and again", edge-next)
		}
	}
}

// synScaled is a SYN with a maximum segment size and a window scale of 0, which
// allows the other side to scale (RFC 7323 2.2).
func synScaled(from, to netip.AddrPort, seq uint32, mss uint16) []byte {
	b := tcpSegment(from, to, flagSYN, seq, 0, []byte{2, 4, byte(mss >> 8), byte(mss), 1, 3, 3, 0})
	b[12] = 7 << 4 // the header's length in words
	b[16], b[17] = 0, 0
	be.PutUint16(b[16:], sum(pseudo(from.Addr(), to.Addr(), protoTCP, len(b)), b))
	return ip(from.Addr(), to.Addr(), protoTCP, b)
}

// windowScale is that option of a SYN-ACK.
func windowScale(t *testing.T, segment []byte) int {
	t.Helper()
	for o := segment[20 : int(segment[12]>>4)*4]; len(o) > 0 && o[0] != 0; {
		switch {
		case o[0] == 1:
			o = o[1:]
		case o[0] == 3:
			return int(o[2])
		default:
			o = o[o[1]:]
		}
	}
	t.Fatal("no window scale")
	return 0
}
