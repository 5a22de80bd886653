package tcp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/flow"
	"netstackd/internal/transparent/intercept"
	"netstackd/internal/transparent/tcp"
	"netstackd/link"
)

// noLink is a TUN that no datagram is written to.
type noLink struct{}

func (noLink) WriteRaw(uint32, link.Offload, [][]byte) error { return errors.ErrUnsupported }
func (noLink) USO() bool                                     { return false }
func (noLink) MTU() uint32                                   { return 1500 }
func (noLink) SupportedGSO() stack.SupportedGSO              { return stack.GSONotSupported }

// A client that may not ask is refused, and counted as denied, not as one too many.
func TestDNSStreamsRefused(t *testing.T) {
	d := intercept.NewDNS(noLink{}, func(string, netip.AddrPort, netip.AddrPort) bool { return false })
	r := newRig(t, tcp.Config{DNS: d}, flow.Config{})
	if _, err := r.dial(t, "192.0.2.7:53", patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v", err)
	}
	r.drained(t)
	if st := r.tcp.Stats(); st.Denied != 1 || st.Limited != 0 {
		t.Errorf("%+v", st)
	}
}

// Connections to port 53 are given to the nameserver, and none is dialed.
func TestDNSStreams(t *testing.T) {
	d := intercept.NewDNS(noLink{}, nil)
	r := newRig(t, tcp.Config{
		DNS: d,
		Dialer: dialFunc(func(context.Context, *flow.Meta, string) (net.Conn, error) {
			t.Error("a connection to port 53 was dialed")
			return nil, errors.New("no")
		}),
	}, flow.Config{})
	for _, to := range []string{"192.0.2.7:53", "[2001:db8::7]:53"} {
		c, err := r.dial(t, to, patience)
		if err != nil {
			t.Fatal(err)
		}
		in, err := d.Streams().Accept()
		if err != nil {
			t.Fatal(err)
		}
		a := in.RemoteAddr().(*intercept.Addr)
		if a.Asked() != netip.MustParseAddrPort(to) || !a.AddrPort().IsValid() {
			t.Errorf("connection of %v to %v", a.AddrPort(), a.Asked())
		}
		if _, err := io.WriteString(c, "query"); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		if _, err := io.ReadFull(in, buf); err != nil || string(buf) != "query" {
			t.Fatalf("%q, %v", buf, err)
		}
		in.Close()
		if n, err := c.Read(buf); err != io.EOF {
			t.Errorf("after the nameserver closed: %d, %v", n, err)
		}
	}
	// One that waits for the nameserver ends with the nameserver.
	c, err := r.dial(t, "192.0.2.8:53", patience)
	if err != nil {
		t.Fatal(err)
	}
	if n := r.flows.Len(); n != 1 {
		t.Errorf("%d flows, want 1", n)
	}
	r.flows.Kill(r.flows.Flows()[0].ID)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a killed connection lives")
	}
	r.drained(t)
}

// A connection that comes after the nameserver has closed ends, and is not left
// in the queue.
func TestDNSStreamsClosed(t *testing.T) {
	d := intercept.NewDNS(noLink{}, nil)
	r := newRig(t, tcp.Config{DNS: d}, flow.Config{})
	if err := d.Streams().Close(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		c, err := r.dial(t, "192.0.2.7:53", patience)
		if err != nil {
			continue // refused
		}
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection is kept")
		}
	}
	r.drained(t)
}
