package tuntest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"netstackd/tun"
	"netstackd/tun/tuntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ipv4 is the least that a device takes for a packet, with a number to tell it by.
func ipv4(n byte) []byte { return []byte{0x45, n} }

func write(t *testing.T, d *tuntest.Device, queue int, data []byte) {
	t.Helper()
	var hdr [tun.HdrLen]byte
	if err := d.WritePacket(queue, &hdr, [][]byte{data}); err != nil {
		t.Fatalf("WritePacket = %v", err)
	}
}

func read(t *testing.T, d *tuntest.Device, queue int) []byte {
	t.Helper()
	var hdr [tun.HdrLen]byte
	buf := make([]byte, 100)
	n, err := d.ReadPacket(queue, &hdr, [][]byte{buf})
	if err != nil {
		t.Fatalf("ReadPacket = %v", err)
	}
	return buf[:n]
}

func TestPair(t *testing.T) {
	a, b := tuntest.Pair(tuntest.Config{Queues: 3}, tuntest.Config{Queues: 2})
	for queue := range byte(3) {
		write(t, a, int(queue), ipv4(queue))
	}
	for _, want := range []struct {
		queue int
		n     byte
	}{{0, 0}, {0, 2}, {1, 1}} {
		if got := read(t, b, want.queue); got[1] != want.n {
			t.Errorf("queue %d gave packet %d, want %d", want.queue, got[1], want.n)
		}
	}
	write(t, b, 1, ipv4(9))
	if got := read(t, a, 1); got[1] != 9 {
		t.Errorf("the way back gave packet %d, want 9", got[1])
	}
}

func TestHeaderPasses(t *testing.T) {
	a, b := tuntest.Pair(tuntest.Config{}, tuntest.Config{})
	data := make([]byte, 60)
	data[0] = 0x45
	want := [tun.HdrLen]byte{1, 1, 40, 0, 100, 0, 20, 0, 16, 0}
	if err := a.WritePacket(0, &want, [][]byte{data[:20], data[20:]}); err != nil {
		t.Fatal(err)
	}
	var got [tun.HdrLen]byte
	if _, err := b.ReadPacket(0, &got, [][]byte{data}); err != nil || got != want {
		t.Errorf("header = %x, %v; want %x", got, err, want)
	}
}

// TestFilter loses, doubles and swaps packets.
func TestFilter(t *testing.T) {
	var kept []tuntest.Packet
	d := tuntest.New(tuntest.Config{Filter: func(p tuntest.Packet) []tuntest.Packet {
		switch p.Data[1] {
		case 1:
			return nil
		case 2:
			return []tuntest.Packet{p, p}
		case 3:
			kept = append(kept, p)
			return nil
		}
		return append([]tuntest.Packet{p}, kept...)
	}})
	for n := range byte(5) {
		write(t, d, 0, ipv4(n))
	}
	var got []byte
	for _, p := range d.Packets() {
		got = append(got, p.Data[1])
	}
	if string(got) != "\x00\x02\x02\x04\x03" {
		t.Errorf("delivered %v, want [0 2 2 4 3]", got)
	}
}

func TestFullQueueDrops(t *testing.T) {
	a, b := tuntest.Pair(tuntest.Config{}, tuntest.Config{Depth: 2})
	for n := range byte(5) {
		write(t, a, 0, ipv4(n))
	}
	if a.Dropped() != 3 {
		t.Errorf("Dropped = %d, want 3", a.Dropped())
	}
	read(t, b, 0)
	if got := read(t, b, 0); got[1] != 1 {
		t.Errorf("the second packet is %d, want 1", got[1])
	}
}

func TestDiscard(t *testing.T) {
	d := tuntest.New(tuntest.Config{Discard: true})
	data := [][]byte{ipv4(0)}
	var hdr [tun.HdrLen]byte
	if n := testing.AllocsPerRun(100, func() { _ = d.WritePacket(0, &hdr, data) }); n != 0 {
		t.Errorf("a discarded write allocates %v times, want 0", n)
	}
	if st := d.Stats(); st.WritePackets != 101 || len(d.Packets()) != 0 {
		t.Errorf("Stats = %+v, want 101 packets written and none kept", st)
	}
}

func TestPairAllocates(t *testing.T) {
	a, b := tuntest.Pair(tuntest.Config{}, tuntest.Config{})
	data, buf := [][]byte{ipv4(0)}, [][]byte{make([]byte, 10)}
	var hdr [tun.HdrLen]byte
	if n := testing.AllocsPerRun(100, func() {
		_ = a.WritePacket(0, &hdr, data)
		_, _ = b.ReadPacket(0, &hdr, buf)
	}); n != 0 {
		t.Errorf("a packet through a pair allocates %v times, want 0", n)
	}
}

// TestInjectWaits checks that Inject returns when its context ends and
// no reader has come, and when the device closes.
func TestInjectWaits(t *testing.T) {
	d := tuntest.New(tuntest.Config{Depth: 1})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Inject(t.Context(), tuntest.Packet{Data: ipv4(0)}); err != nil {
		t.Fatal(err)
	}
	if err := d.Inject(ctx, tuntest.Packet{Data: ipv4(1)}); !errors.Is(err, context.Canceled) {
		t.Errorf("Inject into a full queue = %v, want Canceled", err)
	}
	if _, err := d.Packet(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Packet of none = %v, want Canceled", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.Inject(t.Context(), tuntest.Packet{Data: ipv4(1)}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Inject = %v, want os.ErrClosed", err)
		}
	})
	d.Close()
	wg.Wait()
}

// TestRefusesBadHeaders checks that what a kernel refuses is refused here.
func TestRefusesBadHeaders(t *testing.T) {
	header := func(flags, gso byte, fields ...uint16) (h [tun.HdrLen]byte) {
		h[0], h[1] = flags, gso
		for i, f := range fields {
			binary.LittleEndian.PutUint16(h[2+2*i:], f)
		}
		return h
	}
	for name, test := range map[string]struct {
		cfg  tuntest.Config
		hdr  [tun.HdrLen]byte
		data byte
		ok   bool
	}{
		"none":                 {ok: true, data: 0x45},
		"IPv6":                 {ok: true, data: 0x60},
		"no IP":                {data: 0x10},
		"checksum":             {hdr: header(1, 0, 0, 0, 20, 16), data: 0x45, ok: true},
		"checksum past end":    {hdr: header(1, 0, 0, 0, 20, 79), data: 0x45},
		"headers past end":     {hdr: header(1, 1, 101, 1000, 20, 16), data: 0x45},
		"TCP":                  {hdr: header(1, 1, 40, 1000, 20, 16), data: 0x45, ok: true},
		"TCP with ECN":         {hdr: header(1, 0x81, 40, 1000, 20, 16), data: 0x45, ok: true},
		"TCP without size":     {hdr: header(1, 4, 40, 0, 20, 16), data: 0x45},
		"unknown":              {hdr: header(1, 9, 40, 1000, 20, 16), data: 0x45},
		"UDP":                  {hdr: header(1, 5, 28, 1000, 20, 6), data: 0x45, ok: true},
		"UDP without checksum": {hdr: header(0, 5, 28, 1000, 20, 6), data: 0x45},
		"UDP without USO":      {cfg: tuntest.Config{NoUSO: true}, hdr: header(1, 5, 28, 1000, 20, 6), data: 0x45},
		"header when plain":    {cfg: tuntest.Config{Plain: true}, hdr: header(1, 0, 0, 0, 20, 16), data: 0x45},
	} {
		t.Run(name, func(t *testing.T) {
			d := tuntest.New(test.cfg)
			data := make([]byte, 100)
			data[0] = test.data
			err := d.WritePacket(0, &test.hdr, [][]byte{nil, data})
			if test.ok && err != nil || !test.ok && !errors.Is(err, syscall.EINVAL) {
				t.Errorf("WritePacket = %v, want success %v or EINVAL", err, test.ok)
			}
		})
	}
}
