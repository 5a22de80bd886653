//go:build linux

package main_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"netstackd/internal/testnet"

	"golang.org/x/sys/unix"
)

// spoofed is where SYNs with false sources come from: nothing answers there.
var spoofed = netip.MustParsePrefix("10.99.0.0/16")

// silent is a part of B's addresses that drops everything.
var silent = netip.MustParsePrefix("10.78.255.0/24")

// A flood of SYNs whose sources are false does not stop new connections: their
// handshakes never end, and so they give way to those that do.
func TestIntegrationSYNFlood(t *testing.T) {
	for _, c := range []struct {
		name string
		dest netip.Addr
	}{
		{"half-open", testnet.Dest(testnet.IPv4, 7)}, // it connects, and the SYN-ACK is lost
		{"dialing", silent.Addr().Next()},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, d := startGateway(t)
			port := n.B.ServeTCP(t, ":0", testnet.Echo)
			target := n.B.ServeTCP(t, ":0", func(*net.TCPConn) {}) // closes
			f := &synFlood{load: load{perSecond: 10_000, total: 60_000}, dest: netip.AddrPortFrom(c.dest, target)}
			underFlood(t, n.A, d, f, throughGateway(n, port))
		})
	}
}

// A user of this host that connects to an address that never answers does not
// keep others from connecting.
func TestIntegrationSilentHostScan(t *testing.T) {
	n, d := startGateway(t, "--max-flows", "1000")
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	f := &synFlood{load: load{perSecond: 2000, total: 10_000}, source: n.A.IP4, dest: netip.AddrPortFrom(silent.Addr().Next(), port)}
	underFlood(t, n.A, d, f, throughGateway(n, port))
}

func startGateway(t *testing.T, args ...string) (*testnet.Network, *testnet.Daemon) {
	t.Helper()
	n := testnet.New(t)
	n.A.Run(t, "ip", "route", "add", "blackhole", spoofed.String())
	n.B.Run(t, "ip", "route", "add", "blackhole", silent.String(), "table", "local")
	return n, n.A.Start(t, program.Path(t), append(append(routes(), "--gateway", "--drain", "0s"), args...)...)
}

// patience is how long a healthy connection may take: a SYN that is lost is
// sent again after 1 s.
const patience = 2 * time.Second

func throughGateway(n *testnet.Network, port uint16) func(i int) error {
	return func(i int) error { return tryFlow(n.A, dest(testnet.IPv4, i%200, port), patience) }
}

// flooder is what underFlood starts: run returns when all of it is sent.
type flooder interface {
	run() error
	result() (sent int, took time.Duration)
}

// underFlood makes connections, one after the other, before a flood from a
// host, beside it and 5 s after it.
func underFlood(t *testing.T, from *testnet.Host, d *testnet.Daemon, f flooder, connect func(i int) error) {
	t.Helper()
	if err := connect(0); err != nil {
		t.Fatalf("before the flood: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- from.Do(f.run) }()
	tries, failed := 0, 0
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	var last error
	var slowest time.Duration
	for flooding := true; flooding; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			flooding = false
		case <-pace.C:
			begin := time.Now()
			if err := connect(tries); err != nil {
				failed++
				last = err
			}
			slowest = max(slowest, time.Since(begin))
			tries++
		}
	}
	sent, took := f.result()
	t.Logf("%d sent in %v; %d of %d connections failed beside them, the last with %v; the slowest took %v; RSS %d MiB",
		sent, took, failed, tries, last, slowest, d.RSS(t)>>20)
	if sent < 10_000 || tries < 50 {
		t.Fatalf("no flood: %d sent, %d connections tried", sent, tries)
	}
	if failed*20 > tries {
		t.Errorf("%d of %d connections failed during the flood, the last with %v", failed, tries, last)
	}
	<-time.After(5 * time.Second)
	for i := range 100 {
		if err := connect(i); err != nil {
			t.Errorf("5 s after the flood: %v", err)
		}
	}
}

// load sends a number of things at a rate, in batches of a millisecond.
type load struct {
	perSecond int
	total     int

	sent int
	took time.Duration
}

func (l *load) result() (sent int, took time.Duration) { return l.sent, l.took }

func (l *load) pace(send func(i int) error) error {
	begin := time.Now()
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for l.sent < l.total {
		for due := int(time.Since(begin).Seconds() * float64(l.perSecond)); l.sent < min(due, l.total); l.sent++ {
			if err := send(l.sent); err != nil {
				return err
			}
		}
		<-pace.C
	}
	l.took = time.Since(begin)
	return nil
}

// synFlood sends SYNs to one destination, each from a port of its own, and from
// an address of its own unless source says which.
type synFlood struct {
	load
	source netip.Addr
	dest   netip.AddrPort
}

// run sends from the namespace of the calling thread.
func (f *synFlood) run() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("raw socket: %w", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Addr: f.dest.Addr().As4()}
	return f.pace(func(i int) error {
		src := f.source
		if !src.IsValid() {
			src = netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)})
		}
		from := netip.AddrPortFrom(src, uint16(1024+i%60_000))
		if err := unix.Sendto(fd, synPacket(from, f.dest, uint32(i)), 0, to); err != nil && err != unix.ENOBUFS {
			return fmt.Errorf("send a SYN: %w", err)
		}
		return nil
	})
}

// synPacket is an IPv4 packet with a SYN (RFC 9293 §3.1). The kernel fills in
// the checksum of the IP header.
func synPacket(from, to netip.AddrPort, seq uint32) []byte {
	be := binary.BigEndian
	p := make([]byte, 40)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
	be.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], from.Addr().AsSlice())
	copy(p[16:], to.Addr().AsSlice())
	tcp := p[20:]
	be.PutUint16(tcp[0:], from.Port())
	be.PutUint16(tcp[2:], to.Port())
	be.PutUint32(tcp[4:], seq)
	tcp[12], tcp[13] = 5<<4, 2 // five words of header; SYN
	be.PutUint16(tcp[14:], 65535)
	sum := uint32(unix.IPPROTO_TCP + len(tcp)) // of the pseudo header
	for b := p[12:]; len(b) > 0; b = b[2:] {
		sum += uint32(be.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	be.PutUint16(tcp[16:], ^uint16(sum))
	return p
}
