package publish_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/flow"
	"netstackd/internal/publish"
)

// tcpRig publishes a TCP port that leads to server, which listens inside at the
// second address. Nothing is started.
func tcpRig(t *testing.T, server net.Listener, adapt func(*publish.Config)) (s *publish.Server, at string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	second := netip.MustParseAddr("198.18.0.1")
	cfg := publish.Config{
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != netip.AddrPortFrom(second, 80).String() || server == nil {
				return nil, syscall.ECONNREFUSED
			}
			var d net.Dialer
			return d.DialContext(ctx, network, server.Addr().String())
		},
		Inside: []netip.Addr{netip.MustParseAddr("127.0.0.1"), second},
		Flows:  flow.NewRegistry(flow.Config{}),
		Permit: func(*flow.Meta) error { return nil },
	}
	adapt(&cfg)
	s, err = publish.Listen(t.Context(), cfg, publish.Port{Network: "tcp", Listen: listen, Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, listen.String()
}

func dialTCP(t *testing.T, at string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	bound(t, c)
	return c
}

// keepAlive reads what the kernel has of a connection's keep-alive.
func keepAlive(t *testing.T, c net.Conn) (k net.KeepAliveConfig) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		get := func(level, name int) int {
			v, gerr := unix.GetsockoptInt(int(fd), level, name)
			if gerr != nil {
				t.Error(gerr)
			}
			return v
		}
		k.Enable = get(unix.SOL_SOCKET, unix.SO_KEEPALIVE) == 1
		k.Idle = time.Duration(get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)) * time.Second
		k.Interval = time.Duration(get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)) * time.Second
		k.Count = get(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Both ends of a published connection are probed.
func TestTCPKeepAlive(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	want := net.KeepAliveConfig{Enable: true, Idle: 16 * time.Second, Interval: 3 * time.Second, Count: 4}
	joined := make(chan [2]net.Conn, 1)
	s, at := tcpRig(t, server, func(c *publish.Config) {
		c.KeepAlive = want
		c.Dial = withoutKeepAlive(c.Dial)
		c.Join = func(f *flow.Flow, in, out net.Conn) {
			joined <- [2]net.Conn{in, out}
			f.Close()
		}
	})
	s.Start()
	dialTCP(t, at)
	for i, c := range <-joined {
		if got := keepAlive(t, c); got != want {
			t.Errorf("%s: %+v, want %+v", []string{"client's", "server's"}[i], got, want)
		}
		c.Close()
	}
}

// withoutKeepAlive gives connections as the sandbox does.
func withoutKeepAlive(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return c, c.(*net.TCPConn).SetKeepAlive(false)
	}
}

// A server that is not there is a reset.
func TestTCPRefused(t *testing.T) {
	s, at := tcpRig(t, nil, func(*publish.Config) {})
	s.Start()
	c, err := net.Dial("tcp", at) // the reset may come before it returns
	if err == nil {
		defer c.Close()
		bound(t, c)
		_, err = io.ReadAll(c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

// What comes before Start waits for it: a Dial before the sandbox runs would have
// no answer.
func TestClientsWaitForStart(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	running := make(chan struct{})
	s, at := tcpRig(t, server, func(c *publish.Config) {
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			select {
			case <-running:
			default:
				t.Error("a dial before Start")
			}
			return dial(ctx, network, address)
		}
		c.Join = func(f *flow.Flow, in, out net.Conn) {
			f.Close()
			in.Close()
			out.Close()
		}
	})
	c := dialTCP(t, at)
	close(running)
	s.Start()
	if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}
