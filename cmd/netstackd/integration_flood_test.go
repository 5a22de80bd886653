//go:build linux

package main_test

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"netstackd/internal/testnet"
)

// Up to 40,000 pings a second do not starve a TCP connection. How much it keeps depends
// on the cores: the flood's sender and the host that answers use them too.
func TestIntegrationPingFlood(t *testing.T) {
	n, _ := startRouted(t)
	port := n.B.ServeTCP(t, wildcard(testnet.IPv4), testnet.Discard)
	c := dialTCP(t, n.A, dest(testnet.IPv4, 1, port))
	const each = 2 * time.Second
	up := func() float64 {
		b := make([]byte, 256<<10)
		sent, start := 0, time.Now()
		for time.Since(start) < each {
			c.SetWriteDeadline(start.Add(2 * each))
			k, err := c.Write(b)
			sent += k
			if err != nil {
				t.Error(err)
				break
			}
		}
		return float64(sent) * 8 / time.Since(start).Seconds() / 1e9
	}
	up()
	alone := up()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	pings, start := 0, time.Now()
	wg.Go(func() {
		if err := n.A.Do(func() (err error) {
			pings, err = floodPings(testnet.Dest(testnet.IPv4, 2).As4(), 40_000, stop)
			return err
		}); err != nil {
			t.Error(err)
		}
	})
	beside := up()
	close(stop)
	wg.Wait()
	rate := float64(pings) / time.Since(start).Seconds()
	t.Logf("%.2f Gb/s alone, %.2f beside %.0f pings a second", alone, beside, rate)
	if rate < 10_000 { // no flood: the machine is busy with something else
		t.Fatalf("only %.0f pings a second", rate)
	}
	if beside < alone/10 {
		t.Errorf("%.2f Gb/s beside the pings, %.2f alone", beside, alone)
	}
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
