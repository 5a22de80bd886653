//go:build linux

package netstack_test

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/epoll"
	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// All bytes that ReceiveFrom takes from a socket are queued, although the
// buffers are limited and an ACK empties the queue in the meantime: gVisor's
// auto-tuning would shrink the send buffer then, and cut off what no longer fits.
func TestReceiveFromAfterLimit(t *testing.T) {
	const buffer, limit, queued = 64 << 10, 16 << 10, 40 << 10
	dev, own, conn, ack := establish(t, netstack.TCPConfig{SendBuffer: buffer})
	writable := make(chan struct{}, 100)
	conn.Watch(func(events uint32) {
		if events&epoll.Out != 0 {
			writable <- struct{}{}
		}
	})
	defer conn.Unwatch()
	recv(t, writable)
	if _, err := conn.Write(make([]byte, queued)); err != nil {
		t.Fatal(err)
	}
	seen := ack(drain(t, dev, queued)) // to be injected below

	ours, theirs := blockingPair(t)
	want := bytes.Repeat([]byte("netstack"), (buffer-queued)/8)
	if _, err := unix.Write(theirs, want[:8<<10]); err != nil {
		t.Fatal(err)
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := conn.ReceiveFrom(ours, len(want))
		done <- result{n, err}
	}()
	until(t, "ReceiveFrom reads", func() bool { n, err := unix.IoctlGetInt(ours, unix.SIOCINQ); return err == nil && n == 0 })
	limited := make(chan struct{})
	go func() {
		own.LimitBuffers(limit)
		close(limited)
	}()
	until(t, "buffers are limited", func() bool { _, send, err := own.LargestBuffers(); return err == nil && send == limit })
	inject(t, dev, seen)
	recv(t, writable)
	if _, err := unix.Write(theirs, want[8<<10:]); err != nil {
		t.Fatal(err)
	}
	got := recv(t, done)
	recv(t, limited)
	if got.err != nil || got.n != len(want) {
		t.Fatalf("queued %d of the %d bytes that were taken from the socket, %v", got.n, len(want), got.err)
	}
	if b := drain(t, dev, len(want)); !bytes.Equal(b.data, want) {
		t.Error("the peer gets other bytes")
	}
}

// When the room for what was taken from the socket goes to another writer, the
// connection breaks: bytes are missing from it.
func TestReceiveFromTellsOfLoss(t *testing.T) {
	const buffer = 64 << 10
	_, _, conn, _ := establish(t, netstack.TCPConfig{SendBuffer: buffer})
	for _, others := range []int{buffer / 2, buffer} { // some room is left, none is
		ours, theirs := blockingPair(t)
		if _, err := unix.Write(theirs, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := conn.ReceiveFrom(ours, buffer)
			done <- err
		}()
		until(t, "ReceiveFrom reads", func() bool { n, err := unix.IoctlGetInt(ours, unix.SIOCINQ); return err == nil && n == 0 })
		if _, err := conn.TryWrite(make([]byte, others)); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(theirs, make([]byte, buffer-1)); err != nil {
			t.Fatal(err)
		}
		if err := recv(t, done); err == nil || err == unix.EAGAIN || err == io.EOF {
			t.Errorf("%d bytes of another: %v", others, err)
		}
		_, _, conn, _ = establish(t, netstack.TCPConfig{SendBuffer: buffer})
	}
}

// A socket that holds less than it was said to breaks the connection as well.
func TestReceiveFromComesUpShort(t *testing.T) {
	_, _, conn, _ := establish(t, netstack.TCPConfig{})
	ours, theirs := blockingPair(t)
	if _, err := unix.Write(theirs, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.ReceiveFrom(ours, 11); err == nil || err == unix.EAGAIN || err == io.EOF {
		t.Errorf("%d bytes and %v", n, err)
	}
}

// Discard tells when there is less to discard than it should.
func TestDiscardTooMuch(t *testing.T) {
	app, own := pair(t, tuntest.Config{}, netstack.Config{})
	client, server := connected(t, app, own)
	if _, err := client.Write(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	until(t, "the bytes arrive", func() bool { _, n, err := server.Peek(make([][]byte, 0, 4)); return err == nil && n == 10 })
	if err := server.Discard(4); err != nil {
		t.Error(err)
	}
	if err := server.Discard(7); err == nil {
		t.Error("discarded 7 bytes where there are 6")
	}
}

// Canary: once a send buffer's size was set, gVisor leaves it alone.
func TestCanarySendBufferStays(t *testing.T) {
	const buffer, queued = 64 << 10, 40 << 10
	dev, own, conn, ack := establish(t, netstack.TCPConfig{SendBuffer: buffer})
	events := make(chan uint32, 100)
	conn.Watch(func(ev uint32) { events <- ev })
	defer conn.Unwatch()
	recv(t, events) // writable from the start
	if _, err := conn.Write(make([]byte, queued)); err != nil {
		t.Fatal(err)
	}
	own.LimitBuffers(16 << 10)
	inject(t, dev, ack(drain(t, dev, queued)))
	for recv(t, events)&epoll.Out == 0 {
	}
	if n := conn.SendBuffer(); n != buffer {
		t.Errorf("%d bytes, want %d", n, buffer)
	}
}

// sent is what the stack has sent on a connection.
type sent struct {
	data []byte
	seq  uint32 // after it
}

// establish returns a connection to which the test is the peer, and a function
// that makes the packet which acknowledges what was sent.
func establish(t *testing.T, cfg netstack.TCPConfig) (*tuntest.Device, *netstack.Stack, *netstack.Conn, func(sent) []byte) {
	t.Helper()
	accepted := make(chan *netstack.Conn, 1)
	dev, own := alone(t, tuntest.Config{MTU: 65000}, netstack.Config{TCP: cfg, Connect: func(r *netstack.Request) {
		c, err := r.Accept(context.Background())
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}})
	from, to := peerEnd, foreignEnd
	inject(t, dev, synMSS(from, to, 1, 16000))
	synack := parse(t, answer(t, dev))
	next := be.Uint32(synack.payload[4:]) + 1
	inject(t, dev, tcp(from, to, flagACK, 2, next, nil))
	conn := recv(t, accepted)
	deadline(t, conn)
	t.Cleanup(conn.Reset)
	return dev, own, conn, func(s sent) []byte { return tcp(from, to, flagACK, 2, s.seq, nil) }
}

// synMSS is a SYN with a maximum segment size (RFC 9293 3.7.1).
func synMSS(from, to netip.AddrPort, seq uint32, mss uint16) []byte {
	b := tcpSegment(from, to, flagSYN, seq, 0, []byte{2, 4, byte(mss >> 8), byte(mss)})
	b[12] = 6 << 4 // the header's length in words
	b[16], b[17] = 0, 0
	be.PutUint16(b[16:], sum(pseudo(from.Addr(), to.Addr(), protoTCP, len(b)), b))
	return ip(from.Addr(), to.Addr(), protoTCP, b)
}

// drain takes n bytes of payload that the stack sends.
func drain(t *testing.T, dev *tuntest.Device, n int) (s sent) {
	t.Helper()
	for len(s.data) < n {
		p := parse(t, answer(t, dev))
		payload := p.payload[int(p.payload[12]>>4)*4:]
		if len(payload) > 0 {
			s.data = append(s.data, payload...)
			s.seq = be.Uint32(p.payload[4:]) + uint32(len(payload))
		}
	}
	return s
}

// blockingPair returns two joined sockets whose reads wait.
func blockingPair(t *testing.T) (ours, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	return fds[0], fds[1]
}

// until waits for what no event tells of.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
