//go:build linux

package main_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"netstackd/internal/testnet"
)

// A flood of 40,000 pings a second leaves a TCP connection 80 % of its rate. The
// sender of the flood and the host that answers take their part of the cores, so
// what the kernel's own path keeps under the same flood counts as all there is.
func TestIntegrationPingFlood(t *testing.T) {
	n, _ := startRouted(t)
	port := n.B.ServeTCP(t, wildcard(testnet.IPv4), testnet.Discard)
	routed := floodedPath{n, dialTCP(t, n.A, dest(testnet.IPv4, 1, port)), testnet.Dest(testnet.IPv4, 2)}
	kernel := floodedPath{n, dialTCP(t, n.A, netip.AddrPortFrom(n.B.IP4, port).String()), n.B.IP4}
	routed.upload(t)
	kernel.upload(t)
	// The median of several rounds: other work on the machine disturbs one of them.
	const rounds = 5
	var ratios []float64
	for range rounds {
		kept, reference := routed.underFlood(t), kernel.underFlood(t)
		t.Logf("%.0f %% kept, %.0f %% by the kernel", kept*100, reference*100)
		ratios = append(ratios, kept/min(reference, 1))
	}
	slices.Sort(ratios)
	if kept := ratios[rounds/2]; kept < 0.8 {
		t.Errorf("under the flood a connection keeps %.0f %% of what the kernel's keeps, want 80 %%", kept*100)
	}
}

// floodedPath is a way from A to B.
type floodedPath struct {
	n    *testnet.Network
	c    net.Conn
	ping netip.Addr
}

// underFlood returns the part of the connection's rate that it keeps during a
// flood of pings.
func (p floodedPath) underFlood(t *testing.T) float64 {
	alone := p.upload(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	pings, start := 0, time.Now()
	wg.Go(func() {
		if err := p.n.A.Do(func() (err error) {
			pings, err = floodPings(p.ping.As4(), 40_000, stop)
			return err
		}); err != nil {
			t.Error(err)
		}
	})
	beside := p.upload(t)
	close(stop)
	wg.Wait()
	rate := float64(pings) / time.Since(start).Seconds()
	t.Logf("%.2f Gb/s alone, %.2f beside %.0f pings a second", alone, beside, rate)
	if rate < 10_000 { // no flood: the machine is busy with something else
		t.Fatalf("only %.0f pings a second", rate)
	}
	return beside / alone
}

// upload returns the rate of an upload in Gb/s.
func (p floodedPath) upload(t *testing.T) float64 {
	const each = 600 * time.Millisecond
	b := make([]byte, 256<<10)
	sent, start := 0, time.Now()
	for time.Since(start) < each {
		p.c.SetWriteDeadline(start.Add(2 * each))
		k, err := p.c.Write(b)
		sent += k
		if err != nil {
			t.Fatal(err)
		}
	}
	return float64(sent) * 8 / time.Since(start).Seconds() / 1e9
}

// floodPings sends echo requests at a rate, 1 ms apart in batches, until stop
// is closed, and returns how many.
func floodPings(dst [4]byte, rate int, stop <-chan struct{}) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	b := make([]byte, 8+56)
	b[0] = 8
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	start, n := time.Now(), 0
	for {
		select {
		case <-stop:
			return n, nil
		case <-tick.C:
		}
		for due := int(time.Since(start).Seconds() * float64(rate)); n < due; n++ {
			seq := uint16(n) // of a message that is zero but for its type, 8
			binary.BigEndian.PutUint16(b[6:], seq)
			sum := 0x0800 + uint32(seq)
			binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
			if err := unix.Sendto(fd, b, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: dst}); err != nil &&
				!errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) {
				return n, err
			}
		}
	}
}
