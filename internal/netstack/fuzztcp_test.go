package netstack_test

import (
	"context"
	"io"
	"net/netip"
	"testing"
	"time"

	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// FuzzTCP has an application's kernel go mad on an open connection: segments
// with any flags, options and lengths, near the sequence numbers that are
// expected. The stack neither panics nor stops answering.
func FuzzTCP(f *testing.F) {
	f.Add([]byte{flagACK, 0, 0, 10, 0, flagACK | flagFIN, 0, 0, 0, 0, flagACK, 1, 0, 0, 0})
	f.Add([]byte{flagSYN, 0, 0, 0, 4, flagRST, 5, 0, 0, 0, flagRST, 0, 0, 0, 0})
	f.Add([]byte{flagACK | 32, 20, 0, 200, 9, flagACK, 0, 0, 200, 1, flagACK | flagFIN | flagSYN, 250, 250, 1, 3, flagACK, 10, 3, 0, 250})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 5*200 {
			return
		}
		accepted := make(chan *netstack.Conn, 10)
		dev, _ := alone(t, tuntest.Config{Depth: 4096}, netstack.Config{Connect: func(r *netstack.Request) {
			c, err := r.Accept(context.Background())
			if err != nil {
				return
			}
			accepted <- c
		}})
		from, to := netip.AddrPortFrom(appV4.Addr(), 4000), netip.AddrPortFrom(foreignV4, 80)
		const ours = 1 << 31
		inject(t, dev, tcpWithOptions(from, to, flagSYN, ours, 0, []byte{2, 4, 5, 0xb4, 4, 2, 3, 3, 7, 1, 1, 1}, nil))
		theirs := be.Uint32(parse(t, answer(t, dev)).payload[4:]) + 1
		inject(t, dev, tcp(from, to, flagACK, ours+1, theirs, nil))
		c := recv(t, accepted)
		deadline(t, c)
		served := make(chan struct{})
		go func() { // echoes
			defer close(served)
			io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			c.Close()
		}()
		seq := uint32(ours + 1)
		for ; len(script) >= 5; script = script[5:] {
			flags, dseq, dack, n, opts := script[0]&0x3f, int8(script[1]), int8(script[2]), int(script[3])*11, script[4]
			p := tcpWithOptions(from, to, flags, seq+uint32(int32(dseq)), theirs+uint32(int32(dack)*7), options(opts), make([]byte, n))
			if dseq == 0 {
				seq += uint32(n)
			}
			inject(t, dev, p)
		}
		c.SetDeadline(time.Unix(1, 0))
		recv(t, served)
		inject(t, dev, echo(appV4.Addr(), ownV4.Addr(), 0xdead, nil))
		for {
			if got, ok := tryParse(answer(t, dev)); !ok {
				t.Fatal("the stack wrote an impossible packet")
			} else if got.proto == protoICMP {
				return
			}
		}
	})
}

// options are TCP options of one kind or another, well formed or not.
func options(b byte) []byte {
	switch b % 8 {
	case 1: // a timestamp that was not negotiated
		return []byte{8, 10, 0, 0, 0, b, 0, 0, 0, 0, 1, 1}
	case 2: // SACK blocks
		return []byte{5, 10, 0, 0, b, 0, 0, 0, b, 9, 1, 1}
	case 3: // a length of nothing
		return []byte{b, 0, 0, 0}
	case 4: // a length beyond the header
		return []byte{b, 200, 0, 0}
	case 5: // an odd SACK
		return []byte{5, 7, b, b, b, b, b, 0}
	case 6:
		return []byte{2, 4, 0, 0, 3, 3, 255, 0}
	}
	return nil
}

func tcpWithOptions(src, dst netip.AddrPort, flags uint8, seq, ack uint32, options, payload []byte) []byte {
	b := tcpSegment(src, dst, flags, seq, ack, nil)
	b = append(append(b, options...), payload...)
	b[12] = byte(20+len(options)) / 4 << 4
	b[16], b[17] = 0, 0
	be.PutUint16(b[16:], sum(pseudo(src.Addr(), dst.Addr(), protoTCP, len(b)), b))
	return ip(src.Addr(), dst.Addr(), protoTCP, b)
}
