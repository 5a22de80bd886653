package link_test

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/link"
	"netstackd/tun/tuntest"
)

// segment is a TCP packet as the stack hands it over: headers pushed one by
// one, payload in several views.
func segment(size int, v6 bool, gso stack.GSO) (*stack.PacketBuffer, []byte) {
	var payload buffer.Buffer
	whole := make([]byte, size)
	for i := range whole {
		whole[i] = byte(i * 7)
	}
	for b := whole; len(b) > 0; {
		n := min(len(b), 10000)
		payload.Append(buffer.NewViewWithData(b[:n]))
		b = b[n:]
	}
	from, to, ipLen := v4a, v4b, header.IPv4MinimumSize
	if v6 {
		from, to, ipLen = v6a, v6b, header.IPv6MinimumSize
	}
	want := tcpPacket(from, to, whole)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: 100, Payload: payload})
	copy(pkt.TransportHeader().Push(header.TCPMinimumSize), want[ipLen:])
	copy(pkt.NetworkHeader().Push(ipLen), want)
	pkt.GSOOptions = gso
	return pkt, want
}

func TestEgressHeader(t *testing.T) {
	const csum = 16 // of TCP's checksum field
	for _, c := range []struct {
		name string
		size int
		v6   bool
		gso  stack.GSO
		want [link.VNetHdrLen]byte
	}{
		{"finished", 100, false, stack.GSO{}, noHdr},
		{"tcp4 one segment", 1460, false, stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: csum, MSS: 1460, L3HdrLen: 20, MaxSize: 65535}, vnet(1, 0, 40, 0, 20, csum)},
		{"tcp4", 60000, false, stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: csum, MSS: 1460, L3HdrLen: 20, MaxSize: 65535}, vnet(1, link.GSOTCPv4, 40, 1460, 20, csum)},
		{"tcp6 one segment", 0, true, stack.GSO{Type: stack.GSOTCPv6, NeedsCsum: true, CsumOffset: csum, MSS: 1440, L3HdrLen: 40, MaxSize: 65535}, vnet(1, 0, 60, 0, 40, csum)},
		{"tcp6", 1441, true, stack.GSO{Type: stack.GSOTCPv6, NeedsCsum: true, CsumOffset: csum, MSS: 1440, L3HdrLen: 40, MaxSize: 65535}, vnet(1, link.GSOTCPv6, 60, 1440, 40, csum)},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := tuntest.New(tuntest.Config{Queues: 3})
			e := open(t, dev, link.Config{}, newSink())
			var list stack.PacketBufferList
			for hash := range uint32(7) {
				pkt, _ := segment(c.size, c.v6, c.gso)
				pkt.Hash = hash
				list.PushBack(pkt)
			}
			_, want := segment(c.size, c.v6, c.gso)
			if n, err := e.WritePackets(list); n != 7 || err != nil {
				t.Fatalf("wrote %d: %v", n, err)
			}
			list.DecRef()
			for hash := range 7 {
				p := written(t, dev)
				if p.Hdr != c.want {
					t.Fatalf("header %x, want %x", p.Hdr, c.want)
				}
				if !bytes.Equal(p.Data, want) {
					t.Fatalf("wrote %d bytes, want %d", len(p.Data), len(want))
				}
				if p.Queue != hash%3 {
					t.Fatalf("hash %d left on queue %d", hash, p.Queue)
				}
			}
			if st := e.Stats(); st.TxPackets != 7 || st.TxBytes != 7*uint64(len(want)) || st.TxErrors != 0 {
				t.Fatalf("stats %+v", st)
			}
		})
	}
}

func TestWriteRaw(t *testing.T) {
	dev := tuntest.New(tuntest.Config{Queues: 2})
	e := open(t, dev, link.Config{}, newSink())
	o := link.Offload{GSOType: link.GSOUDP, NeedsCsum: true, HdrLen: 28, GSOSize: 1200, CsumStart: 20, CsumOffset: 6}
	train := udpPacket(v4a, v4b, make([]byte, 3000))
	if err := e.WriteRaw(5, o, [][]byte{train[:1], nil, train[1:]}); err != nil {
		t.Fatal(err)
	}
	p := written(t, dev)
	if !bytes.Equal(p.Data, train) || p.Queue != 1 || p.Hdr != vnet(1, link.GSOUDP, 28, 1200, 20, 6) {
		t.Fatalf("wrote %+v", p)
	}
	dev.Close()
	if err := e.WriteRaw(0, link.Offload{}, [][]byte{train}); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("error %v", err)
	}
	var list stack.PacketBufferList
	pkt, _ := segment(10, false, stack.GSO{})
	list.PushBack(pkt)
	defer list.DecRef()
	if _, err := e.WritePackets(list); err != nil { // lost like on any network
		t.Fatal(err)
	}
	if st := e.Stats(); st.TxErrors != 2 || st.TxPackets != 1 {
		t.Fatalf("stats %+v", st)
	}
}

func TestConcurrentWrites(t *testing.T) {
	dev := tuntest.New(tuntest.Config{Depth: 5000})
	e := open(t, dev, link.Config{}, newSink())
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			b := udpPacket(v4a, v4b, bytes.Repeat([]byte{byte(w)}, 100))
			for range 500 {
				if err := e.WriteRaw(0, link.Offload{NeedsCsum: w%2 == 0, CsumStart: 20, CsumOffset: 6}, [][]byte{b[:50], b[50:]}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for range 4 * 500 {
		p := written(t, dev)
		w := p.Data[len(p.Data)-1]
		if p.Hdr[0] != 1-w%2 || !bytes.Equal(p.Data[28:], bytes.Repeat([]byte{w}, 100)) {
			t.Fatalf("packets were mixed: %x %x", p.Hdr, p.Data)
		}
	}
}
