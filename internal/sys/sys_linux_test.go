package sys_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"netstackd/internal/sys"
)

// What is written as a control message is read as it was, and as package unix
// reads it.
func TestCmsg(t *testing.T) {
	var b [3 * sys.CmsgIntLen]byte
	n := sys.PutCmsg16(b[:], unix.SOL_UDP, unix.UDP_SEGMENT, 1200)
	n += sys.PutCmsgInt(b[n:], unix.SOL_IP, unix.IP_TTL, 7)
	msgs, err := unix.ParseSocketControlMessage(b[:n])
	if err != nil || len(msgs) != 2 {
		t.Fatalf("%d messages: %v", len(msgs), err)
	}
	rest := b[:n]
	for i, want := range []int{1200, 7} {
		level, typ, data, next := sys.NextCmsg(rest)
		if next == nil {
			t.Fatalf("%d messages", i)
		}
		h := msgs[i].Header
		if level != int(h.Level) || typ != int(h.Type) || !bytes.Equal(data, msgs[i].Data) {
			t.Errorf("message %d: level %d, type %d, %x; want %+v", i, level, typ, data, msgs[i])
		}
		if i == 1 && sys.CmsgValue(data) != want {
			t.Errorf("value %d, want %d", sys.CmsgValue(data), want)
		}
		rest = next
	}
	if _, _, _, next := sys.NextCmsg(rest); next != nil {
		t.Error("a message after the last")
	}
}

func FuzzNextCmsg(f *testing.F) {
	var b [sys.CmsgIntLen]byte
	sys.PutCmsgInt(b[:], 1, 2, 3)
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		for b != nil {
			_, _, data, rest := sys.NextCmsg(b)
			if len(rest) >= len(b) && rest != nil {
				t.Fatal("no progress")
			}
			sys.CmsgValue(data)
			b = rest
		}
	})
}

func TestSockaddr(t *testing.T) {
	for _, s := range []string{"192.0.2.1:80", "[2001:db8::1]:65535"} {
		want := netip.MustParseAddrPort(s)
		var sa sys.Sockaddr
		n := sys.PutSockaddr(&sa, want)
		if got := sys.GetSockaddr(&sa); got != want {
			t.Errorf("%v, want %v", got, want)
		}
		if size := unsafe.Sizeof(sa); want.Addr().Is6() && uintptr(n) != size {
			t.Errorf("length %d, want %d", n, size)
		}
	}
	if got := sys.GetSockaddr(&sys.Sockaddr{}); got.IsValid() {
		t.Errorf("an address without a family: %v", got)
	}
}

// The error queue says which datagram was refused, and by whom.
func TestErrorQueue(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		closed, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		dst := closed.LocalAddr().(*net.UDPAddr).AddrPort()
		closed.Close()
		family, level, option := unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_RECVERR
		if dst.Addr().Is4() {
			family, level, option = unix.AF_INET, unix.SOL_IP, unix.IP_RECVERR
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			t.Fatal(err)
		}
		var sa sys.Sockaddr
		payload := []byte("hello")
		var iov unix.Iovec
		sys.SetIovec(&iov, payload)
		msg := sys.Mmsghdr{Hdr: unix.Msghdr{Name: (*byte)(unsafe.Pointer(&sa)), Namelen: sys.PutSockaddr(&sa, dst), Iov: &iov}}
		msg.Hdr.SetIovlen(1)
		if n, errno := sys.Sendmmsg(fd, []sys.Mmsghdr{msg}, 0); n != 1 {
			t.Fatal(errno)
		}
		poll := []unix.PollFd{{Fd: int32(fd)}} // an error is reported unasked
		if n, err := unix.Poll(poll, 5000); n != 1 {
			t.Fatalf("no error arrived: %v", err)
		}
		var r sys.ErrorReader
		var e sys.QueuedError
		if !r.Read(fd, &e) {
			t.Fatal("the queue is empty")
		}
		if e.Dst != dst || e.Offender != dst.Addr() || syscall.Errno(e.Err.Errno) != syscall.ECONNREFUSED || !bytes.Equal(e.Payload, payload) {
			t.Errorf("%+v", e)
		}
		if r.Read(fd, &e) {
			t.Errorf("a second error: %+v", e)
		}
	}
}

func TestCloseWithReset(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, reset := range map[string]func(c *net.TCPConn){
		"conn": func(c *net.TCPConn) { sys.CloseWithReset(c) },
		"fd": func(c *net.TCPConn) {
			rc, err := c.SyscallConn()
			if err == nil {
				err = rc.Control(func(fd uintptr) { err = sys.ResetOnClose(int(fd)) })
			}
			if err != nil {
				t.Error(err)
			}
			c.Close()
		},
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		reset(in.(*net.TCPConn))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", name, err)
		}
	}
}
