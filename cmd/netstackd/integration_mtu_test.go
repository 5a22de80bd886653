//go:build linux

package main_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"netstackd/internal/testnet"

	"golang.org/x/sys/unix"
)

// The TUN's MTU is no path's: to an application's datagrams the path has the MTU
// that it has without us, 1500 here, and TCP is as fast as the TUN lets it.
func TestIntegrationMTU(t *testing.T) {
	n, _ := startRouted(t)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		udp := n.B.ServeUDP(t, wildcard(f), testnet.EchoUDP)
		t.Run("fragments allowed", func(t *testing.T) {
			c := dialUDP(t, n.A, dest(f, 1, udp))
			n.A.Through(t, tun, 37_000, 37_000, func() {
				for _, size := range []int{4000, 9000, 4000, 20000, 100} {
					exchange(t, c, strings.Repeat("a", size))
				}
			})
			if err := pending(t, c); err != nil {
				t.Errorf("the socket has an error: %v", err)
			}
		})
		t.Run("fragments forbidden", func(t *testing.T) {
			c := dialUDP(t, n.A, dest(f, 2, udp))
			discover(t, c, f, unix.IP_PMTUDISC_DO)
			if _, err := c.Write(make([]byte, 4000)); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("4000 bytes: %v, want %v", err, syscall.EMSGSIZE)
			}
			if mtu := pathMTU(t, c, f); mtu != 1500 {
				t.Errorf("the path's MTU is %d, want 1500", mtu)
			}
			overhead := map[testnet.Family]int{testnet.IPv4: 28, testnet.IPv6: 48}[f]
			exchange(t, c, strings.Repeat("b", 1500-overhead))
		})
		t.Run("train", func(t *testing.T) {
			c := dialUDP(t, n.A, dest(f, 3, udp))
			exchange(t, c, "first")
			before, _ := n.A.Counters(t, tun)
			sendTrain(t, c, bytes.Repeat([]byte{'t'}, 40*1200), 1200)
			buf := make([]byte, 2000)
			for i := range 40 {
				if m, err := c.Read(buf); m != 1200 || err != nil {
					t.Fatalf("datagram %d of the train: %d bytes, %v", i, m, err)
				}
			}
			if after, _ := n.A.Counters(t, tun); after.TxPackets > before.TxPackets+1 {
				t.Errorf("the train went into the TUN as %d packets", after.TxPackets-before.TxPackets)
			}
		})
		t.Run("TCP", func(t *testing.T) { wantBigSegments(t, n, f) })
	})
	// A filter makes the kernel route each packet again.
	testnet.RequireTool(t, "nft")
	n.A.Run(t, "nft", "add table inet remark; add chain inet remark out { type route hook output priority mangle; }; "+
		"add rule inet remark out meta l4proto { tcp, udp } meta mark set 0x7")
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		t.Run("routed again", func(t *testing.T) {
			c := dialUDP(t, n.A, dest(f, 4, n.B.ServeUDP(t, wildcard(f), testnet.EchoUDP)))
			exchange(t, c, strings.Repeat("c", 4000))
			if err := pending(t, c); err != nil {
				t.Error(err)
			}
			wantBigSegments(t, n, f)
		})
	})
}

// wantBigSegments checks that TCP sends segments larger than any path's, and
// goes on to.
func wantBigSegments(t *testing.T, n *testnet.Network, f testnet.Family) {
	t.Helper()
	c := dialTCP(t, n.A, dest(f, 1, n.B.ServeTCP(t, wildcard(f), testnet.Echo)))
	for range 2 {
		go c.Write(bytes.Repeat([]byte{'x'}, 1<<20))
		if _, err := readFull(c, 1<<20); err != nil {
			t.Fatal(err)
		}
		var info *unix.TCPInfo
		control(t, c, func(fd int) (err error) {
			info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			return err
		})
		if info.Snd_mss < 9000 {
			t.Errorf("TCP sends segments of %d bytes, want more than 9000", info.Snd_mss)
		}
	}
}

func readFull(c net.Conn, n int) (int, error) {
	buf := make([]byte, 1<<16)
	for got := 0; ; {
		m, err := c.Read(buf)
		if got += m; err != nil || got >= n {
			return got, err
		}
	}
}

// pending takes the socket's error (SO_ERROR).
func pending(t *testing.T, c *net.UDPConn) error {
	t.Helper()
	var errno int
	control(t, c, func(fd int) (err error) {
		errno, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		return err
	})
	if errno != 0 {
		return syscall.Errno(errno)
	}
	return nil
}

// sendTrain sends b as datagrams of size bytes in one call (UDP_SEGMENT).
func sendTrain(t *testing.T, c *net.UDPConn, b []byte, size uint16) {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(2))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], size)
	if _, _, err := c.WriteMsgUDPAddrPort(b, oob, netip.AddrPort{}); err != nil {
		t.Fatal(err)
	}
}

// The path's MTU is the one of the host's own route, and follows it.
func TestIntegrationMTUFollows(t *testing.T) {
	n, _ := startRouted(t)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		udp := n.B.ServeUDP(t, wildcard(f), testnet.EchoUDP)
		gateway := map[testnet.Family]netip.Addr{testnet.IPv4: n.B.IP4, testnet.IPv6: n.B.IP6}[f]
		n.A.Run(t, "ip", "route", "replace", testnet.DestPrefix(f).String(), "via", gateway.String(), "mtu", "1400")
		testnet.Eventually(t, 5*time.Second, "applications see the route's MTU", func() bool {
			return pathMTU(t, dialUDP(t, n.A, dest(f, 1, udp)), f) == 1400
		})
		c := dialUDP(t, n.A, dest(f, 1, udp))
		exchange(t, c, strings.Repeat("a", 4000))
		if err := pending(t, c); err != nil {
			t.Error(err)
		}
		wantBigSegments(t, n, f)
	})
}

// The same for one command.
func TestIntegrationExecMTU(t *testing.T) {
	testnet.RequireTool(t, "python3", "ping")
	const script = `
import errno, socket, struct, sys
family, level, mtu, discover = (socket.AF_INET, 0, 14, 10) if sys.argv[1] == "4" else (socket.AF_INET6, 41, 24, 23)
far, udp, tcp = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(10)
s.connect((far, udp))
for size in (4000, 9000, 4000):
    s.send(bytes(size))
    if s.recv(65536) != bytes(size): print("other bytes")
print(s.getsockopt(level, mtu), s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
s.setsockopt(level, discover, 2) # IP_PMTUDISC_DO
try:
    s.send(bytes(4000))
except OSError as e:
    print(errno.errorcode[e.errno])
c = socket.create_connection((far, tcp))
c.sendall(bytes(200000))
n = 0
while n < 200000: n += len(c.recv(65536))
mss = struct.unpack_from("I", c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 16)[0]
print("big" if mss > 9000 else mss)
`
	n := testnet.New(t)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		udp := n.B.ServeUDP(t, wildcard(f), testnet.EchoUDP)
		tcp := n.B.ServeTCP(t, wildcard(f), testnet.Echo)
		far := testnet.Dest(f, 1).String()
		r := runExec(t, n.A, "--", "python3", "-c", script, fmt.Sprint(int(f)), far, fmt.Sprint(udp), fmt.Sprint(tcp))
		if want := "1500 0\nEMSGSIZE\nbig\n"; r.status != 0 || r.stdout != want {
			t.Errorf("status %d, %q, want %q: %s", r.status, r.stdout, want, r.stderr)
		}
		r = runExec(t, n.A, "--", "ping", "-c", "3", "-i", "0.2", "-W", "5", "-s", "4000", far)
		if !strings.Contains(r.stdout, " 3 received") || complains(r.stdout+r.stderr) {
			t.Errorf("ping: %s%s", r.stdout, r.stderr)
		}
	})
}

// complains reports whether ping reported an MTU.
func complains(out string) bool {
	return strings.Contains(out, "Frag needed") || strings.Contains(out, "too big") || strings.Contains(out, "too long") ||
		strings.Contains(out, "error")
}
