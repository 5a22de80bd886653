//go:build linux

package hostnet_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/flow"
	"netstackd/internal/hostnet"
)

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 7 * time.Second, Interval: 3 * time.Second, Count: 2}

// Every TCP connection has the keep-alive that was asked for, or none.
func TestKeepAlive(t *testing.T) {
	for _, want := range []net.KeepAliveConfig{keepAlive, {}} {
		d := hostnet.New(hostnet.Config{NoIPv6: true, KeepAlive: want})
		local, err := hostnet.ListenLocal(t.Context(), "127.0.0.1:0", want)
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		bind, err := d.Listen(t.Context(), meta, "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer bind.Close()
		for _, l := range []net.Listener{local, bind} {
			_, port, _ := net.SplitHostPort(l.Addr().String())
			for _, host := range []string{"127.0.0.1", "localhost"} {
				out, err := d.DialContext(t.Context(), meta, "tcp", net.JoinHostPort(host, port))
				if err != nil {
					t.Fatal(err)
				}
				defer out.Close()
				in, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				defer in.Close()
				for _, c := range []net.Conn{in, out} {
					got := net.KeepAliveConfig{Enable: sockopt(t, c, unix.SOL_SOCKET, unix.SO_KEEPALIVE) == 1}
					if got.Enable {
						got.Idle = time.Duration(sockopt(t, c, unix.SOL_TCP, unix.TCP_KEEPIDLE)) * time.Second
						got.Interval = time.Duration(sockopt(t, c, unix.SOL_TCP, unix.TCP_KEEPINTVL)) * time.Second
						got.Count = sockopt(t, c, unix.SOL_TCP, unix.TCP_KEEPCNT)
					}
					if got != want {
						t.Errorf("%s, %v: %+v, want %+v", host, c.LocalAddr(), got, want)
					}
				}
			}
		}
	}
}

// A connection has its flow's DSCP.
func TestDSCP(t *testing.T) {
	for _, c := range []struct {
		listen        string
		level, option int
	}{{"127.0.0.1:0", unix.SOL_IP, unix.IP_TOS}, {"[::1]:0", unix.SOL_IPV6, unix.IPV6_TCLASS}} {
		l, err := net.Listen("tcp", c.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for _, want := range []uint8{0, 46 << 2} {
			out, err := hostnet.New(hostnet.Config{}).DialContext(t.Context(), &flow.Meta{DSCP: want}, "tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if got := sockopt(t, out, c.level, c.option); got != int(want) {
				t.Errorf("%s: %#x, want %#x", c.listen, got, want)
			}
		}
	}
}

// The ends of a literal address and of a name's are the same to who uses them.
func TestHalfCloseAndReset(t *testing.T) {
	l, err := hostnet.ListenLocal(t.Context(), "127.0.0.1:0", keepAlive)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost"} {
		out, err := hostnet.New(hostnet.Config{NoIPv6: true}).DialContext(t.Context(), meta, "tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Fatal(err)
		}
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if out.LocalAddr().String() != in.RemoteAddr().String() || out.RemoteAddr().String() != in.LocalAddr().String() {
			t.Errorf("%s: %v to %v is %v to %v at the other end", host, out.LocalAddr(), out.RemoteAddr(), in.RemoteAddr(), in.LocalAddr())
		}
		if err := out.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Errorf("%s: CloseWrite: %v", host, err)
		}
		if b, err := io.ReadAll(in); err != nil || len(b) > 0 {
			t.Errorf("%s: after CloseWrite the other end read %q, %v; want EOF", host, b, err)
		}
		if _, err := in.Write([]byte("late")); err != nil {
			t.Errorf("%s: write to the open half: %v", host, err)
		}
		b := make([]byte, 4)
		if _, err := io.ReadFull(out, b); err != nil || string(b) != "late" {
			t.Errorf("%s: read %q, %v; want late", host, b, err)
		}
		if err := out.(interface{ SetLinger(int) error }).SetLinger(0); err != nil {
			t.Errorf("%s: SetLinger: %v", host, err)
		}
		out.Close()
		_, werr := out.Write([]byte("x"))
		for what, err := range map[string]error{
			"Write": werr, "SetDeadline": out.SetDeadline(time.Time{}), "Close": out.Close(),
			"CloseWrite": out.(interface{ CloseWrite() error }).CloseWrite(),
			"SetLinger":  out.(interface{ SetLinger(int) error }).SetLinger(0),
		} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %s after Close: %v, want net.ErrClosed", host, what, err)
			}
		}
		if _, err := in.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: write after a reset that followed FIN: %v, want EPIPE", host, err)
		}
		in.Close()
	}
}

// A connection that was not waited on gives its descriptor away, and is
// over; another keeps it.
func TestDetach(t *testing.T) {
	l, err := hostnet.ListenLocal(t.Context(), "127.0.0.1:0", keepAlive)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pair := func() (out *hostnet.TCPConn, in net.Conn) {
		t.Helper()
		c, err := hostnet.New(hostnet.Config{}).DialContext(t.Context(), meta, "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if in, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		return c.(*hostnet.TCPConn), in
	}

	out, in := pair()
	defer in.Close()
	fd := out.Descriptor()
	if !out.Detach() {
		t.Fatal("a connection that was never waited on kept its descriptor")
	}
	_, rerr := out.Read(make([]byte, 1))
	for what, err := range map[string]error{"Read": rerr, "Close": out.Close(), "CloseWrite": out.CloseWrite(), "SetDeadline": out.SetDeadline(time.Time{})} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Detach: %v, want %v", what, err, net.ErrClosed)
		}
	}
	if out.Detach() {
		t.Error("it gave the descriptor away twice")
	}
	if _, err := unix.Write(fd, []byte("mine")); err != nil {
		t.Errorf("the descriptor isn't the caller's: %v", err)
	}
	unix.Close(fd)
	if b, err := io.ReadAll(in); err != nil || string(b) != "mine" {
		t.Errorf("read %q, %v; want mine", b, err)
	}

	out, in = pair()
	defer in.Close()
	if err := out.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if out.Detach() {
		t.Error("a connection that the runtime polls gave its descriptor away")
	}
	if err := out.Close(); err != nil {
		t.Error(err)
	}
}
