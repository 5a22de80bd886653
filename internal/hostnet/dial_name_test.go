//go:build linux

package hostnet_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/flow"
	"netstackd/internal/hostnet"
)

// nameDialer returns a dialer for which every name is ::1 and 127.0.0.1.
func nameDialer(t *testing.T, permit func(*flow.Meta, netip.AddrPort) error) *hostnet.Dialer {
	t.Helper()
	server := serveDNS(t)
	return hostnet.New(hostnet.Config{
		Nameservers: func() []netip.AddrPort { return []netip.AddrPort{server} },
		Permit:      permit,
	})
}

// silentPort returns a port that is silent on ::1, where the backlog is full,
// and has a listener on 127.0.0.1.
func silentPort(t *testing.T) string {
	t.Helper()
	for range 20 {
		live, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { live.Close() })
		port := live.Addr().(*net.TCPAddr).Port
		silent := &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16(), Port: port}
		fd := socket6(t)
		if unix.Bind(fd, silent) != nil {
			continue
		}
		if err := unix.Listen(fd, 0); err != nil {
			t.Fatal(err)
		}
		for range 8 { // more than the backlog takes
			_ = unix.Connect(socket6(t), silent)
		}
		return strconv.Itoa(port)
	}
	t.Fatal("no port is free on both families")
	return ""
}

func socket6(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// A silent address costs the delay between two attempts, and not a time-out,
// with rules and without.
func TestDialNameSilentAddress(t *testing.T) {
	port := silentPort(t)
	for name, permit := range map[string]func(*flow.Meta, netip.AddrPort) error{
		"no rules": nil,
		"rules":    func(*flow.Meta, netip.AddrPort) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			d := nameDialer(t, permit)
			began := time.Now()
			c, err := d.DialContext(t.Context(), meta, "tcp", "server.example:"+port)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			took := time.Since(began)
			t.Logf("connected after %v", took)
			if took > time.Second {
				t.Errorf("connected after %v, want 250 ms and a little", took)
			}
		})
	}
}

var errRefused = errors.New("refused by the test")

// Addresses that are refused are not dialed; the others decide the result.
func TestDialNamePermit(t *testing.T) {
	asked := make(map[netip.Addr]bool)
	only := func(family func(netip.Addr) bool) func(*flow.Meta, netip.AddrPort) error {
		return func(m *flow.Meta, a netip.AddrPort) error {
			if m != meta {
				t.Error("the flow is not the one that is dialed for")
			}
			asked[a.Addr()] = true
			if !family(a.Addr()) {
				return errRefused
			}
			return nil
		}
	}
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	address := "server.example:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	c, err := nameDialer(t, only(netip.Addr.Is6)).DialContext(t.Context(), meta, "tcp", address)
	if err != nil {
		t.Fatalf("the permitted address: %v", err)
	}
	c.Close()
	if len(asked) != 2 {
		t.Errorf("asked about %v, want both addresses", asked)
	}
	_, err = nameDialer(t, only(netip.Addr.Is4)).DialContext(t.Context(), meta, "tcp", address)
	if !errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, errRefused) {
		t.Errorf("the permitted address is closed: %v", err)
	}
	none := only(func(netip.Addr) bool { return false })
	for _, network := range []string{"tcp", "udp"} {
		if c, err := nameDialer(t, none).DialContext(t.Context(), meta, network, address); !errors.Is(err, errRefused) {
			t.Errorf("%s, every address refused: %v, %v", network, c, err)
		}
	}
}

// Names are looked up, judged and raced for connections that are made elsewhere.
func TestDialBy(t *testing.T) {
	permitted := map[netip.Addr]bool{netip.IPv6Loopback(): true, netip.MustParseAddr("127.0.0.1"): true}
	d := nameDialer(t, func(_ *flow.Meta, a netip.AddrPort) error {
		if !permitted[a.Addr()] {
			return errRefused
		}
		return nil
	})
	const silent, answers = "[::1]:80", "127.0.0.1:80"
	c, other := net.Pipe()
	defer c.Close()
	defer other.Close()
	canceled := make(chan struct{}, 1)
	dial := func(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
		if m != meta || network != "tcp" {
			t.Errorf("%s for %v", network, m)
		}
		if address == silent {
			<-ctx.Done()
			canceled <- struct{}{}
			return nil, ctx.Err()
		}
		if address != answers {
			t.Errorf("dialed %s", address)
		}
		return c, nil
	}
	if got, err := d.DialBy(t.Context(), meta, "tcp", "server.example:80", dial); got != c || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	select {
	case <-canceled: // when DialBy returns, so has every dial
	default:
		t.Error("the silent address was not dialed")
	}
	permitted[netip.IPv6Loopback()] = false
	if got, err := d.DialBy(t.Context(), meta, "tcp", "server.example:80", dial); got != c || err != nil {
		t.Errorf("with one address: %v, %v", got, err)
	}
	if len(canceled) != 0 {
		t.Error("a refused address was dialed")
	}
	if got, err := d.DialBy(t.Context(), meta, "tcp", answers, dial); got != c || err != nil {
		t.Errorf("a literal address: %v, %v", got, err)
	}
}
