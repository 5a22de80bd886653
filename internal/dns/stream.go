package dns

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"netstackd/internal/flow"
)

const (
	// streamIdle is how long a connection to a nameserver lives unused, and how
	// long it may be silent. It is longer than a query.
	streamIdle = 10 * time.Second
	// streamQueries bounds the queries under way on one connection. More wait.
	streamQueries = 256
)

// pool holds one connection for each nameserver. The zero value is ready.
type pool struct {
	mu     sync.Mutex
	all    map[netip.AddrPort]*stream
	closed bool
}

// close ends all connections, and those to come.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, st := range p.all {
		st.cancel()
	}
}

// stream returns the connection to server, making it if there is none. Used
// says that it had worked before.
func (s *Server) stream(server, source netip.AddrPort) (st *stream, used bool, err error) {
	p := &s.streams
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, net.ErrClosed
	}
	if st := p.all[server]; st != nil {
		return st, true, nil // one that ends fails its queries after it is gone from here
	}
	if p.all == nil {
		p.all = make(map[netip.AddrPort]*stream)
	}
	ctx, cancel := context.WithCancel(context.Background())
	st = &stream{
		ready:   make(chan struct{}),
		done:    make(chan struct{}),
		slots:   make(chan struct{}, streamQueries),
		cancel:  cancel,
		pending: make(map[uint16]pending),
	}
	p.all[server] = st
	s.tasks.Go(func() {
		defer cancel()
		err := st.run(ctx, s.cfg.Timeout, func(ctx context.Context) (net.Conn, error) {
			meta := &flow.Meta{Inbound: flow.Internal, Network: "tcp", Source: source, Dest: server}
			return s.dialer.DialContext(ctx, meta, "tcp", server.String())
		})
		p.mu.Lock()
		delete(p.all, server)
		p.mu.Unlock()
		st.end(err)
	})
	return st, false, nil
}

// stream is a TCP connection to a nameserver, with many queries on it.
type stream struct {
	ready  chan struct{} // closed when conn is set
	done   chan struct{} // closed when err is set
	slots  chan struct{} // one for each query under way
	cancel context.CancelFunc
	conn   net.Conn
	err    error

	mu      sync.Mutex // also serializes writes
	pending map[uint16]pending
}

// pending is a query that waits for its answer.
type pending struct {
	outgoing
	answer chan []byte
}

// run connects and reads answers until the connection or ctx ends.
func (st *stream) run(ctx context.Context, timeout time.Duration, dial func(context.Context) (net.Conn, error)) error {
	dialing, cancel := context.WithTimeout(ctx, timeout)
	conn, err := dial(dialing)
	cancel()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	st.conn = conn
	close(st.ready)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(streamIdle))
		msg, err := readMessage(conn)
		if err != nil {
			return err
		}
		st.deliver(msg)
	}
}

// deliver gives an answer to the query that it is for.
func (st *stream) deliver(msg []byte) {
	if len(msg) < headerLen {
		return
	}
	id := binary.BigEndian.Uint16(msg)
	st.mu.Lock()
	defer st.mu.Unlock()
	if p, ok := st.pending[id]; ok && p.check(msg) == fits {
		delete(st.pending, id)
		p.answer <- msg
	}
}

// end fails the queries that wait.
func (st *stream) end(err error) {
	st.err = err
	close(st.done)
}

// exchange asks q and returns the answer.
func (st *stream) exchange(ctx context.Context, q *query) ([]byte, error) {
	select {
	case <-st.ready:
	case <-st.done:
		return nil, st.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case st.slots <- struct{}{}:
	case <-st.done:
		return nil, st.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-st.slots }()
	p, id := st.send(q)
	defer func() {
		st.mu.Lock()
		delete(st.pending, id)
		st.mu.Unlock()
	}()
	select {
	case msg := <-p.answer:
		return msg, nil
	case <-st.done:
		select {
		case msg := <-p.answer: // it came before the end of the stream
			return msg, nil
		default:
			return nil, st.err
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// send writes q under an ID that no other query has. A write that fails ends
// the stream, and so the query.
func (st *stream) send(q *query) (pending, uint16) {
	st.mu.Lock()
	defer st.mu.Unlock()
	id := uint16(rand.Uint32())
	for _, taken := st.pending[id]; taken; _, taken = st.pending[id] {
		id++
	}
	// An answer can't be forged without sight of the connection, so the case
	// of letters stays.
	p := pending{q.ask(id, nil), make(chan []byte, 1)}
	st.pending[id] = p
	_ = st.conn.SetDeadline(time.Now().Add(streamIdle))
	if err := writeMessage(st.conn, p.msg); err != nil {
		st.cancel()
	}
	return p, id
}

// readMessage reads one message with its length before it (RFC 1035 §4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(r, msg); err != nil {
		return nil, err
	}
	return msg, nil
}

// writeMessage writes one in a single write, so that it leaves as one segment.
func writeMessage(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
}
