package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// soakDefault is how long the soak lasts, unless --soak says otherwise.
const soakDefault = 10 * time.Minute

// soakRows is everything at once, for long, on the build that finds data races.
func soakRows(length time.Duration) []row {
	return []row{{
		name: fmt.Sprintf("soak/%v, -race build", length), race: true, gateway: true, window: length,
		about:   "small loads of all kinds in turn; at the end memory, descriptors and goroutines are as at the start",
		flags:   []string{"--max-memory", "256M", "--udp-timeout", "5s"},
		prepare: countGoroutines, load: soak,
		expect: expect{own: true, rate: -1}, after: (*run).checkQuiet,
	}}
}

// countGoroutines finds how many a netstackd has that has carried nothing.
func countGoroutines(ctx context.Context, r *run) error {
	if err := r.start(ctx); err != nil {
		return err
	}
	r.goroutines = r.dump()
	return nil
}

// dump ends netstackd with SIGQUIT, which prints its goroutines, and counts them.
func (r *run) dump() (n int) {
	r.daemon.Signal(syscall.SIGQUIT)
	select {
	case <-r.daemon.Ended():
	case <-time.After(20 * time.Second):
		r.daemon.Kill()
	}
	for _, line := range r.daemon.Lines() {
		if strings.HasPrefix(line, "goroutine ") {
			n++
		}
	}
	return n
}

func soak(ctx context.Context, r *run) error {
	socks := netip.MustParseAddrPort("127.0.0.1:1080")
	proxy := path{from: r.net.a, direct: socks}
	through := path{from: r.net.a, socks: socks}
	loads := []func(context.Context, *run) error{
		hold(fromC, portSource, 100, 100, nil),
		hold(fromC, portStuck, 100, 100, upload),
		hold(localPath, portEcho, 200, 400, nil),
		hold(func(*network) path { return through }, portSource, 100, 100, nil),
		hold(func(*network) path { return proxy }, 0, 200, 400, func(c net.Conn, i int) error { _, err := c.Write(at(int64(i*307), 300)); return err }),
		lanFlood(500, 1000, func(i int, random *rand.Rand) []byte {
			return spoofedSYN(random, netip.AddrPortFrom(addr4(10, 79, i), portEcho))
		}),
		lanFlood(1000, 2000, malformed(addr4(10, 88, 0x303), addr6(0xfd, 0x88, 3))),
		tunFlood(1000, 2000, malformed(tunAddr4, tunAddr6)),
		tunFlood(1000, 2000, loneFragment),
		tunFlood(1000, 2000, func(i int, _ *rand.Rand) []byte {
			return icmpEcho(tunAddr4, addr4(10, 78, i%1000), 7, uint16(i), at(0, 56))
		}),
		lanFlood(1000, 2000, func(i int, random *rand.Rand) []byte {
			from := netip.AddrPortFrom(addr4(10, 88, 0x400+random.IntN(60_000)), uint16(1024+random.IntN(60_000)))
			return udpPacket(from, netip.AddrPortFrom(addr4(10, 78, i%50_000), portEcho), at(int64(i), 64))
		}),
	}
	// The first round fills what is kept for reuse: it is the level of the start.
	const rest = 20 * time.Second
	var memory int64
	var files int
	for round := 0; ctx.Err() == nil; round++ {
		for _, load := range loads {
			if deadline, _ := ctx.Deadline(); time.Until(deadline) < rest+5*time.Second {
				break
			}
			turn, cancel := context.WithTimeout(ctx, 3*time.Second)
			err := load(turn, r)
			cancel()
			if err != nil {
				return err
			}
		}
		if deadline, _ := ctx.Deadline(); round == 0 || time.Until(deadline) < rest+5*time.Second {
			pause(ctx, rest-2*time.Second)
			m, _ := r.daemon.memory(ctx)
			f := r.daemon.files()
			if round == 0 {
				memory, files = m, f
				continue
			}
			r.checkLevel(memory, files, m, f)
			<-ctx.Done()
			break
		}
	}
	return nil
}

// checkLevel compares the end with the start.
func (r *run) checkLevel(memory0 int64, files0 int, memory1 int64, files1 int) {
	r.check(memory1 <= memory0+memory0/4+16<<20, "memory ≤ start + 25 % + 16 MiB", "%d → %d MiB", memory0>>20, memory1>>20)
	r.check(files1 <= files0+20, "descriptors ≤ start + 20", "%d → %d", files0, files1)
}

// sparesMost is how many goroutines netstackd may keep for reuse: 32 for each
// of what accepts connections (package gopool), and a few more.
const sparesMost = 144

// checkQuiet counts goroutines and data races, once the health traffic has
// ended.
func (r *run) checkQuiet(ctx context.Context) {
	pause(ctx, 10*time.Second) // kept goroutines end
	n := r.dump()
	races := strings.Count(strings.Join(r.daemon.Lines(), "\n"), "DATA RACE")
	r.check(n <= r.goroutines+sparesMost, fmt.Sprintf("goroutines ≤ a fresh one's + %d", sparesMost), "%d → %d", r.goroutines, n)
	r.check(races == 0, "no data race", "%d races", races)
	if n > r.goroutines+sparesMost || races > 0 {
		for _, line := range r.daemon.Lines() {
			r.note("%s", line)
		}
	}
}
