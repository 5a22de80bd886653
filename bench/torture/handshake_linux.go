package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// lanProxy is a listener of netstackd's for the LAN.
var lanProxy = netip.MustParseAddrPort("10.88.0.1:1080")

// handshakeRows are clients of the proxy that do not finish what they begin.
func handshakeRows() []row {
	open := []string{"--socks", lanProxy.String(), "--allow-open"}
	return []row{
		{
			name: "handshake/SOCKS, one address", short: true, flags: open, paths: proxyPaths,
			about: "10,000 connections at 2,500/s from one address to the proxy, each stops after two bytes",
			load:  hold(toProxy, 0, 2500, 10_000, func(c net.Conn, _ int) error { _, err := c.Write([]byte{5, 1}); return err }),
		},
		{
			name: "handshake/SOCKS, silent", flags: open, paths: proxyPaths,
			about: "10,000 connections at 2,500/s from one address to the proxy that say nothing",
			load:  hold(toProxy, 0, 2500, 10_000, nil),
		},
		{
			name: "handshake/SOCKS, random bytes", flags: open, paths: proxyPaths,
			about: "10,000 connections at 2,500/s to the proxy with 300 random bytes each",
			load:  hold(toProxy, 0, 2500, 10_000, func(c net.Conn, i int) error { _, err := c.Write(at(int64(i*307), 300)); return err }),
		},
		{
			name: "handshake/HTTP headers without an end", paths: proxyPaths,
			flags: append([]string{"--max-memory", "64M"}, open...),
			about: "3,000 connections at 1,000/s with 48 KB of headers each and no end",
			load:  withinBudget(64<<20, hold(toProxy, 0, 1000, 3000, endlessHeader)),
		},
		{
			name: "handshake/HTTP 407, held", paths: transparentPaths, files: 1024,
			flags: append([]string{"--auth", "user:password"}, open...),
			about: "2,000 connections that stay after a 407, at 1,000 open files",
			load:  hold(toProxy, 0, 1000, 2000, unauthorized),
		},
		{
			name: "handshake/passwords guessed", paths: transparentPaths,
			flags: append([]string{"--auth", "user:password"}, open...),
			about: "16 connections at a time from one address try passwords as fast as they can, each eighth the right one; a password that is refused unseen is no guess",
			load:  guess,
		},
	}
}

// toProxy is C's way to the proxy itself.
func toProxy(n *network) path { return path{from: n.c, direct: lanProxy} }

// proxyPaths are another client of the proxy, and a transparent one.
func proxyPaths(n *network) []path {
	return []path{
		{name: "proxy, another address", from: n.c, local: netip.MustParseAddr("10.88.0.3"), socks: lanProxy},
		{name: "IPv4", from: n.a},
	}
}

// transparentPaths use no proxy.
func transparentPaths(n *network) []path {
	return []path{{name: "IPv4", from: n.a}, {name: "IPv6", from: n.a, ipv6: true}}
}

func endlessHeader(c net.Conn, _ int) error {
	_, err := io.WriteString(c, "GET http://10.78.0.1/ HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 48<<10))
	return err
}

func unauthorized(c net.Conn, _ int) error {
	if _, err := io.WriteString(c, "CONNECT 10.78.0.1:7000 HTTP/1.1\r\nHost: 10.78.0.1:7000\r\n\r\n"); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 4096))
	return err
}

// guessesMost is how many wrong passwords a second one address may try.
const guessesMost = 100

// guess tries passwords by SOCKS5 (RFC 1929). How many of them the proxy compares
// is seen by the right ones among them: it lets in the share that it looks at.
func guess(ctx context.Context, r *run) error {
	const clients, oneIn = 16, 8
	var wrong, right, letIn atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for n := range clients {
		all.Go(func() {
			for i := n; ctx.Err() == nil; i++ {
				isRight := i%oneIn == 0
				password := fmt.Sprintf("%d-%d", n, i)
				if isRight {
					password = "password"
				}
				answered, ok := guessOnce(ctx, r.net, password)
				switch {
				case !answered:
				case !isRight:
					wrong.Add(1)
				default:
					right.Add(1)
					if ok {
						letIn.Add(1)
					}
				}
			}
		})
	}
	all.Wait()
	sent := float64(wrong.Load()) / time.Since(began).Seconds()
	rate := sent * float64(letIn.Load()) / float64(max(1, right.Load()))
	r.check(rate <= guessesMost && right.Load() > 0, fmt.Sprintf("≤ %d guesses/s", guessesMost), "%.0f guesses/s of %.0f/s sent", rate, sent)
	return nil
}

// guessOnce reports whether the proxy answered to the password, and whether it let
// the client in.
func guessOnce(ctx context.Context, n *network, password string) (answered, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, timeoutDefault)
	defer cancel()
	c, err := n.c.dial(ctx, netip.Addr{}, lanProxy)
	if err != nil {
		return false, false
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	text := append([]byte{5, 1, 2, 1, 4}, "user"...)
	text = append(append(text, byte(len(password))), password...)
	if _, err := c.Write(text); err != nil {
		return false, false
	}
	var reply [4]byte
	_, err = io.ReadFull(c, reply[:])
	return err == nil, err == nil && reply[3] == 0
}
