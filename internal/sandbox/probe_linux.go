package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"netstackd/internal/flow"

	"golang.org/x/sys/unix"
)

// probeTimeout bounds the proof that traffic is captured. All of its way is in
// this host's memory.
const probeTimeout = 5 * time.Second

// probeAddrs is where the helper connects to: documentation addresses (RFC 5737,
// RFC 3849), which no host has, so that only a default route leads there.
func probeAddrs() []netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{192, 0, 2, 1}),
		netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}),
	}
}

// Run proves that the sandbox's traffic is captured, and then starts the
// command. For the proof, what the helper sends must reach Dialer by way of the
// TUN, over each address family. The error is an *Error: with StatusNotFound or
// StatusCannotRun if it is the command's fault. The command has not run then.
func (s *Sandbox) Run(ctx context.Context) error {
	if err := s.probe(ctx); err != nil {
		return asError(err)
	}
	if s.cfg.JobControl {
		s.catchSignals()
	}
	if _, _, err := s.ask(ctx, message{Op: opStart}, opStarted); err != nil {
		return asError(err)
	}
	if s.cfg.JobControl {
		letGo(2, s.lent) // standard error is for the log
	}
	return nil
}

func (s *Sandbox) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errNotCaptured)
	p := newProof(s.cfg)
	s.proof.Store(p)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.serve(ctx)
	}()
	m, _, err := s.ask(ctx, message{Op: opProbe, Probe: &probe{
		Addrs: p.addrs, Secret: p.question, Timeout: probeTimeout - time.Second, // it knows more of why
	}}, opProbed)
	s.proof.Store(nil)
	cancel()
	<-done
	p.drain()
	if err == nil && m.Text != strings.Repeat(p.answer, len(p.addrs)) {
		err = errNotCaptured
	}
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Errorf("the command was not started, its traffic would not go through the TUN: %w", err)
}

var errNotCaptured = errors.New("the connection that proves it did not arrive")

// proof is one probe: what has to arrive through the TUN, and what is answered.
type proof struct {
	addrs            []netip.AddrPort
	question, answer string
	arrived          chan net.Conn
}

func newProof(cfg Config) *proof {
	p := &proof{question: rand.Text(), answer: rand.Text(), arrived: make(chan net.Conn, len(probeAddrs()))}
	for _, a := range probeAddrs() {
		same := func(own netip.Prefix) bool { return own.Addr().Is6() == a.Is6() }
		if slices.ContainsFunc(cfg.Addresses, same) && (a.Is4() || !cfg.NoIPv6) {
			p.addrs = append(p.addrs, netip.AddrPortFrom(a, probePort))
		}
	}
	return p
}

// probePort is discard's (RFC 863).
const probePort = 9

// serve answers the connections that arrive, if they know the question.
func (p *proof) serve(ctx context.Context) {
	for {
		select {
		case c := <-p.arrived:
			got := make([]byte, len(p.question))
			_ = c.SetDeadline(time.Now().Add(probeTimeout))
			stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
			if _, err := io.ReadFull(c, got); err == nil && string(got) == p.question {
				_, _ = io.WriteString(c, p.answer)
			}
			stop()
			c.Close()
		case <-ctx.Done():
			return
		}
	}
}

// drain closes what came too late.
func (p *proof) drain() {
	for {
		select {
		case c := <-p.arrived:
			c.Close()
		default:
			return
		}
	}
}

// dial takes a connection of the forwarder's to one of the proof's addresses.
func (p *proof) dial(dest netip.AddrPort) (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs, err := newProbeConn(fds[0], dest)
	ours, err2 := newProbeConn(fds[1], dest)
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	select {
	case p.arrived <- ours:
		return theirs, nil
	default: // more than one for each address
		ours.Close()
		theirs.Close()
		return nil, unix.ECONNREFUSED
	}
}

// probeConn is one end of a socketpair that looks like a TCP connection.
type probeConn struct {
	*net.UnixConn
	dest netip.AddrPort
}

func (c *probeConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.dest) }

func newProbeConn(fd int, dest netip.AddrPort) (*probeConn, error) {
	f := os.NewFile(uintptr(fd), "probe")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return &probeConn{c.(*net.UnixConn), dest}, nil
}

// Probing reports whether a connection to dst is Run's probe, which must reach
// Dialer whatever the rules on destinations are. It is, until the command runs.
func (s *Sandbox) Probing(dst netip.AddrPort) bool {
	p := s.proof.Load()
	return p != nil && slices.Contains(p.addrs, dst)
}

// Dialer wraps the dialer of the stack's forwarder, so that Run sees its probe
// arrive. Everything else, and everything when no probe is under way, goes to next.
func (s *Sandbox) Dialer(next Dialer) Dialer { return &prober{next, s} }

type prober struct {
	Dialer
	s *Sandbox
}

func (d *prober) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	if p := d.s.proof.Load(); p != nil && m != nil && m.Network == "tcp" && slices.Contains(p.addrs, m.Dest) {
		return p.dial(m.Dest)
	}
	return d.Dialer.DialContext(ctx, m, network, address)
}
