package netstack_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/epoll"
	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

var quickly = net.KeepAliveConfig{Enable: true, Idle: 100 * time.Millisecond, Interval: 50 * time.Millisecond, Count: 3}

// A peer that answers no probe is given up, and one that does is not.
func TestKeepAlive(t *testing.T) {
	dev, _, conn, _ := establish(t, netstack.TCPConfig{KeepAlive: quickly})
	events := make(chan uint32, 100)
	conn.Watch(func(ev uint32) { events <- ev })
	defer conn.Unwatch()
	var next uint32
	for range 3 * quickly.Count { // each of them is answered
		probe := parse(t, answer(t, dev)).payload
		next = be.Uint32(probe[4:]) + 1
		inject(t, dev, tcp(peerEnd, foreignEnd, flagACK, 2, next, nil))
	}
	if err := conn.Broken(); err != nil {
		t.Fatalf("with probes answered: %v", err)
	}
	for range quickly.Count {
		if seq := be.Uint32(parse(t, answer(t, dev)).payload[4:]); seq != next-1 {
			t.Errorf("probe with sequence number %d, want %d", seq, next-1)
		}
	}
	for recv(t, events)&epoll.Err == 0 {
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("error %v, want ETIMEDOUT", err)
	}
}

// So is one that acknowledges nothing that it is sent, in about as much time
// or, if that is longer, after one retransmission.
func TestKeepAliveOfData(t *testing.T) {
	_, _, conn, _ := establish(t, netstack.TCPConfig{KeepAlive: quickly})
	began := time.Now()
	if _, err := conn.Write([]byte("hello?")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("error %v, want ETIMEDOUT", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// A reader that stands still but answers is there, however long it takes.
func TestKeepAliveOfClosedWindow(t *testing.T) {
	dev, _, conn, _ := establish(t, netstack.TCPConfig{KeepAlive: quickly})
	const full = 65535 // what the peer has room for, to the last byte
	if _, err := conn.Write(make([]byte, full+1000)); err != nil {
		t.Fatal(err)
	}
	next := drain(t, dev, full).seq
	for range 5 {
		inject(t, dev, window(tcp(peerEnd, foreignEnd, flagACK, 2, next, nil), 0))
		answer(t, dev) // a probe
	}
	if err := conn.Broken(); err != nil {
		t.Fatal(err)
	}
}

// Without keep-alive an idle connection sends nothing.
func TestNoKeepAlive(t *testing.T) {
	app, own := pair(t, tuntest.Config{}, netstack.Config{})
	client, server := connected(t, app, own)
	if client.KeepsAlive() || server.KeepsAlive() {
		t.Error("keep-alive is on")
	}
}

var (
	peerEnd    = netip.AddrPortFrom(appV4.Addr(), 5555)
	foreignEnd = netip.AddrPortFrom(foreignV4, 80)
)

// window sets the window of a segment without payload.
func window(packet []byte, size uint16) []byte {
	b := packet[20:]
	be.PutUint16(b[14:], size)
	b[16], b[17] = 0, 0
	be.PutUint16(b[16:], sum(pseudo(peerEnd.Addr(), foreignEnd.Addr(), protoTCP, len(b)), b))
	return packet
}
