package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// behavior is what an upstream does with those who connect.
type behavior int32

const (
	works   behavior = iota
	hangs            // takes connections and says nothing
	garbage          // answers with random bytes
	cut              // ends in the middle of its reply
	shuts            // closes at once
)

// upstream is a SOCKS5 server on B.
type upstream struct {
	host *host
	does atomic.Int32
}

// withUpstream starts one on B before netstackd starts.
func withUpstream(ctx context.Context, r *run) error {
	r.upstream = &upstream{host: r.net.b}
	return r.net.servers.serve(r.net.b, ":1080", func(c net.Conn) { r.upstream.handle(ctx, c) })
}

func (u *upstream) set(b behavior) { u.does.Store(int32(b)) }

func (u *upstream) handle(ctx context.Context, c net.Conn) {
	switch behavior(u.does.Load()) {
	case hangs:
		_, _ = io.Copy(io.Discard, c)
	case garbage:
		_, _ = c.Write(at(time.Now().UnixNano(), 4096))
		_, _ = io.Copy(io.Discard, c)
	case cut:
		_, _ = c.Read(make([]byte, 512))
		_, _ = c.Write([]byte{5, 0, 5, 0, 0, 3, 200, 'x'})
	case shuts:
	default:
		u.proxy(ctx, c)
	}
}

// proxy is a server as it should be: CONNECT to an address.
func (u *upstream) proxy(ctx context.Context, c net.Conn) {
	to, err := u.handshake(c)
	if err != nil {
		return
	}
	server, err := u.host.dial(ctx, netip.Addr{}, to)
	if err != nil {
		_, _ = c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	defer server.Close()
	if _, err := c.Write([]byte{5, 0, 0, 1, 10, 77, 0, 2, 0, 80}); err != nil {
		return
	}
	var down sync.WaitGroup
	down.Go(func() {
		_, err := io.Copy(c, server)
		end(c.(*net.TCPConn), err)
	})
	_, err = io.Copy(server, c)
	end(server, err)
	down.Wait()
}

// end passes on the end of a direction: a FIN, or after an error a reset.
func end(c *net.TCPConn, err error) {
	if err == nil {
		_ = c.CloseWrite()
		return
	}
	_ = c.SetLinger(0)
	_ = c.Close()
}

func (u *upstream) handshake(c net.Conn) (netip.AddrPort, error) {
	var b [262]byte
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return netip.AddrPort{}, err
	}
	if _, err := io.ReadFull(c, b[:b[1]]); err != nil {
		return netip.AddrPort{}, err
	}
	if _, err := c.Write([]byte{5, 0}); err != nil {
		return netip.AddrPort{}, err
	}
	if _, err := io.ReadFull(c, b[:4]); err != nil {
		return netip.AddrPort{}, err
	}
	size := 4
	if b[3] == 4 {
		size = 16
	} else if b[3] != 1 || b[1] != 1 {
		return netip.AddrPort{}, errors.New("only CONNECT to addresses")
	}
	if _, err := io.ReadFull(c, b[:size+2]); err != nil {
		return netip.AddrPort{}, err
	}
	ip, _ := netip.AddrFromSlice(b[:size])
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[size:])), nil
}

// upstreamRows are others that netstackd depends on.
func upstreamRows() []row {
	via := []string{"--via", "socks5://10.77.0.2:1080", "--dial-timeout", "2s"}
	turns := func(b behavior) func(context.Context, *run) error {
		return func(ctx context.Context, r *run) error {
			r.upstream.set(b)
			<-ctx.Done()
			r.upstream.set(works)
			r.checkWarned()
			return nil
		}
	}
	failing := expect{conns: -1}
	return []row{
		{
			name: "upstream/hangs", flags: via, prepare: withUpstream, expect: failing,
			about: "the upstream takes connections and says nothing", load: turns(hangs),
		},
		{
			name: "upstream/answers with random bytes", flags: via, prepare: withUpstream, expect: failing,
			about: "the upstream answers with 4 KB of random bytes", load: turns(garbage),
		},
		{
			name: "upstream/ends in the middle of its reply", flags: via, prepare: withUpstream, expect: failing,
			about: "the upstream's reply is cut short", load: turns(cut),
		},
		{
			name: "upstream/closes at once", flags: via, prepare: withUpstream, expect: failing,
			about: "the upstream closes each connection", load: turns(shuts),
		},
		{
			name: "upstream/dies in mid-transfer", short: true, flags: via, prepare: withUpstream,
			about: "the upstream resets all that it carries, and refuses", expect: expect{conns: -1, rate: -1, breaks: true},
			load: func(ctx context.Context, r *run) error {
				r.upstream.set(shuts)
				r.net.servers.reset(portProxy)
				<-ctx.Done()
				r.upstream.set(works)
				return nil
			},
		},
		{
			name: "upstream/nameserver dead", short: true,
			about: "no nameserver answers; 500 names are asked for",
			load: func(ctx context.Context, r *run) error {
				named := path{from: r.net.a, socks: netip.MustParseAddrPort("127.0.0.1:1080"), named: true}
				r.net.servers.dnsDead.Store(true)
				err := hold(func(*network) path { return named }, portEcho, 200, 500, nil)(ctx, r)
				r.net.servers.dnsDead.Store(false)
				r.checkNames(named)
				return err
			},
		},
	}
}

// checkWarned checks that the log names the upstream's trouble.
func (r *run) checkWarned() {
	warned := strings.Contains(strings.Join(r.daemon.Lines(), "\n"), "level=WARN")
	r.check(warned, "a warning", "warned: %v", warned)
}

// checkNames waits until a name is resolved again.
func (r *run) checkNames(p path) {
	began := time.Now()
	var err error
	for i := 0; time.Since(began) < backWithin; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), backWithin)
		var c *net.TCPConn
		c, err = p.connect(ctx, 1000+i, portEcho)
		cancel()
		if err == nil {
			c.Close()
			break
		}
		pause(ctx, 100*time.Millisecond)
	}
	r.check(err == nil, "names ≤ 5 s after", "names after %.1f s", time.Since(began).Seconds())
}
