package netstack_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// addresses of the two ends, with prefixes that both share.
var (
	appV4 = netip.MustParsePrefix("10.0.0.1/24")
	appV6 = netip.MustParsePrefix("fd00::1/64")
	ownV4 = netip.MustParsePrefix("10.0.0.2/24")
	ownV6 = netip.MustParsePrefix("fd00::2/64")

	// foreign are destinations outside both prefixes.
	foreignV4 = netip.MustParseAddr("192.0.2.7")
	foreignV6 = netip.MustParseAddr("2001:db8::7")
)

func start(t testing.TB, dev *tuntest.Device, cfg netstack.Config) *netstack.Stack {
	t.Helper()
	s, err := netstack.New(dev)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// pair returns an application's stack and ours, joined by TUNs.
func pair(t testing.TB, tun tuntest.Config, cfg netstack.Config) (app, own *netstack.Stack) {
	t.Helper()
	a, b := tuntest.Pair(tun, tun)
	cfg.Addresses = []netip.Prefix{ownV4, ownV6}
	own = start(t, b, cfg)
	app = start(t, a, netstack.Config{Addresses: []netip.Prefix{appV4, appV6}})
	return app, own
}

// alone returns a stack to which the test is the kernel.
func alone(t testing.TB, tun tuntest.Config, cfg netstack.Config) (*tuntest.Device, *netstack.Stack) {
	t.Helper()
	dev := tuntest.New(tun)
	cfg.Addresses = []netip.Prefix{ownV4, ownV6}
	return dev, start(t, dev, cfg)
}

func dial(t testing.TB, s *netstack.Stack, to netip.AddrPort) *netstack.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := s.DialContext(ctx, nil, "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	deadline(t, c)
	t.Cleanup(func() { c.Close() })
	return c.(*netstack.Conn)
}

func listen(t testing.TB, s *netstack.Stack, at netip.AddrPort) *netstack.Listener {
	t.Helper()
	l, err := s.ListenTCP(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// connected returns both ends of a connection to one of our own addresses.
func connected(t testing.TB, app, own *netstack.Stack) (client, server *netstack.Conn) {
	t.Helper()
	l := listen(t, own, netip.AddrPortFrom(ownV4.Addr(), 0))
	client = dial(t, app, l.Addr().(*net.TCPAddr).AddrPort())
	return client, accept(t, l)
}

func accept(t testing.TB, l net.Listener) *netstack.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	deadline(t, c)
	t.Cleanup(func() { c.Close() })
	return c.(*netstack.Conn)
}

func deadline(t testing.TB, c interface{ SetDeadline(time.Time) error }) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

// recv takes from a channel, within reason.
func recv[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func inject(t testing.TB, dev *tuntest.Device, data []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := dev.Inject(ctx, tuntest.Packet{Data: data}); err != nil {
		t.Fatal(err)
	}
}

// answer waits for what the stack writes.
func answer(t testing.TB, dev *tuntest.Device) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := dev.Packet(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if p.Hdr[0] == 1 { // the checksum is left to do
		start := int(binary.LittleEndian.Uint16(p.Hdr[6:]))
		at := start + int(binary.LittleEndian.Uint16(p.Hdr[8:]))
		c := sum(p.Data[start:])
		p.Data[at], p.Data[at+1] = byte(c>>8), byte(c)
	}
	return p.Data
}

// silence checks that nothing was written in answer to what was injected so
// far: an echo request to the stack is answered after all of that.
func silence(t testing.TB, dev *tuntest.Device) {
	t.Helper()
	inject(t, dev, echo(appV4.Addr(), ownV4.Addr(), 0xdead, nil))
	got := parse(t, answer(t, dev))
	if got.proto != protoICMP || got.payload[0] != 0 || got.payload[4] != 0xde {
		t.Fatalf("an answer where none was due: %+v", got)
	}
}

func isErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}
