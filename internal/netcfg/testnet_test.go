//go:build linux

package netcfg_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const timeout = 10 * time.Second

// The test network: this process's namespace is the host, "nsnc-peer" the rest
// of the world, joined by a veth. Far addresses are on the peer's loopback.
const (
	hostAddr4 = "10.0.0.1"
	peerAddr4 = "10.0.0.2"
	farAddr4  = "203.0.113.7"
	hostAddr6 = "fd00:1::1"
	peerAddr6 = "fd00:1::2"
	farAddr6  = "2001:db8:ff::7"
)

// buildNetwork makes the test network. Only for a process that isolate made.
func buildNetwork(t *testing.T) {
	t.Helper()
	// Names of namespaces are mounts: they stay in the test's mount namespace.
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", "/run/netns", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	run(t, "ip netns add nsnc-peer")
	t.Cleanup(func() { exec.Command("ip", "netns", "del", "nsnc-peer").Run() })
	for _, c := range []string{
		"ip link set lo up",
		"ip link add eth0 type veth peer name eth0 netns nsnc-peer",
		// Link-local addresses at once, rather than when they have been checked.
		"ip link set eth0 addrgenmode none up",
		"ip addr add fe80::1/64 dev eth0 nodad",
		"ip addr add 10.0.0.1/24 dev eth0",
		"ip addr add fd00:1::1/64 dev eth0 nodad",
		"ip -n nsnc-peer link set lo up",
		"ip -n nsnc-peer link set eth0 addrgenmode none up",
		"ip -n nsnc-peer addr add fe80::2/64 dev eth0 nodad",
		"ip -n nsnc-peer addr add 10.0.0.2/24 dev eth0",
		"ip -n nsnc-peer addr add fd00:1::2/64 dev eth0 nodad",
		"ip -n nsnc-peer addr add 203.0.113.7/32 dev lo",
		"ip -n nsnc-peer addr add 2001:db8:ff::7/128 dev lo nodad",
		"ip route add default via 10.0.0.2",
		"ip -6 route add default via fd00:1::2",
	} {
		run(t, c)
	}
	// The kernel completes both of these later than the commands.
	eventually(t, "the link has a carrier and addresses work", func() bool {
		out := run(t, "ip -6 route show table all") + run(t, "ip route show table all")
		return strings.Contains(out, "local fd00:1::1 ") && strings.Contains(out, "local fe80::1 ") && !strings.Contains(out, "linkdown") &&
			strings.Contains(run(t, "ip -n nsnc-peer -6 route show table all"), "local fd00:1::2 ")
	})
}

// eventually polls for what no event tells the test of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(timeout)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s\n%s", what, hostRouting(t))
		}
	}
}

// run runs one command line, split at spaces, and returns its output.
func run(t *testing.T, line string) string {
	t.Helper()
	f := strings.Fields(line)
	out, err := exec.Command(f[0], f[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// hostRouting is all rules and routes, in text.
func hostRouting(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, c := range []string{"ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all"} {
		fmt.Fprintf(&b, "== %s\n%s", c, run(t, c))
	}
	return b.String()
}

// hostState is all of the host's routing, filtering and settings, in text.
func hostState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(hostRouting(t))
	if _, err := exec.LookPath("nft"); err == nil {
		fmt.Fprintf(&b, "== nft\n%s", run(t, "nft list ruleset"))
	}
	for _, dir := range []string{"/proc/sys/net/ipv4", "/proc/sys/net/ipv6"} {
		filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
			if err == nil && !strings.Contains(p, "netstackd") {
				if v, err := os.ReadFile(p); err == nil {
					fmt.Fprintf(&b, "%s=%s", p, v)
				}
			}
			return nil
		})
	}
	return b.String()
}

// sameState fails with the lines that differ.
func sameState(t *testing.T, before, after string) {
	t.Helper()
	if before == after {
		return
	}
	in := func(s string) map[string]bool {
		m := make(map[string]bool)
		for l := range strings.Lines(s) {
			m[l] = true
		}
		return m
	}
	b, a := in(before), in(after)
	for l := range b {
		if !a[l] {
			t.Errorf("- %s", l)
		}
	}
	for l := range a {
		if !b[l] {
			t.Errorf("+ %s", l)
		}
	}
	t.Fatal("the host is not as it was")
}

// inPeer runs f on a thread in the peer's namespace. Sockets that f makes stay
// there.
func inPeer(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with us
		ns, err := os.Open("/run/netns/nsnc-peer")
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// packet is what a test wants to know of one.
type packet struct {
	src, dst     netip.Addr
	proto        byte
	sport, dport uint16
}

// testTUN is a TUN whose packets are recorded and never answered.
type testTUN struct {
	f    *os.File
	mu   sync.Mutex
	cond *sync.Cond
	seen []packet
}

func openTUN(t *testing.T, name string) *testTUN {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	u := &testTUN{f: os.NewFile(uintptr(fd), name)}
	u.cond = sync.NewCond(&u.mu)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, err := u.f.Read(buf)
			if err != nil {
				return
			}
			if p, ok := parse(buf[:n]); ok {
				u.mu.Lock()
				u.seen = append(u.seen, p)
				u.cond.Broadcast()
				u.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		u.f.Close()
		<-done
	})
	return u
}

func parse(b []byte) (p packet, ok bool) {
	var l4 []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		p.src, _ = netip.AddrFromSlice(b[12:16])
		p.dst, _ = netip.AddrFromSlice(b[16:20])
		p.proto, l4 = b[9], b[int(b[0]&15)*4:]
	case len(b) >= 40 && b[0]>>4 == 6:
		p.src, _ = netip.AddrFromSlice(b[8:24])
		p.dst, _ = netip.AddrFromSlice(b[24:40])
		p.proto, l4 = b[6], b[40:]
	default:
		return p, false
	}
	if len(l4) >= 4 {
		p.sport, p.dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	}
	return p, true
}

// expect waits for a packet to port of dst and returns it.
func (u *testTUN) expect(t *testing.T, dst string, port uint16) packet {
	t.Helper()
	late := time.AfterFunc(timeout, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.seen = append(u.seen, packet{}) // the invalid one ends the wait
		u.cond.Broadcast()
	})
	defer late.Stop()
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := 0; ; i++ {
		for i >= len(u.seen) {
			u.cond.Wait()
		}
		p := u.seen[i]
		if !p.dst.IsValid() {
			t.Fatalf("nothing for port %d of %s came out of the TUN, but %v", port, dst, u.seen)
		}
		if p.dst == netip.MustParseAddr(dst) && p.dport == port {
			return p
		}
	}
}

// peerSocket is a UDP socket of the peer, on any address.
type peerSocket struct{ *net.UDPConn }

func listenPeer(t *testing.T, port int) peerSocket {
	t.Helper()
	var c *net.UDPConn
	inPeer(t, func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
		return err
	})
	t.Cleanup(func() { c.Close() })
	return peerSocket{c}
}

// expect waits for a datagram that says text.
func (p peerSocket) expect(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	p.SetReadDeadline(time.Now().Add(timeout))
	buf := make([]byte, 2048)
	for {
		n, from, err := p.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatalf("%q did not reach the peer: %v", text, err)
		}
		if bytes.Equal(buf[:n], []byte(text)) {
			return netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		}
	}
}

// send sends one datagram from a new socket of the host, set up by control.
func send(t *testing.T, dst string, port int, text string, control func(fd int) error) {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		if control == nil {
			return nil
		}
		var cerr error
		return errors.Join(c.Control(func(fd uintptr) { cerr = control(int(fd)) }), cerr)
	}}
	c, err := d.Dial("udp", net.JoinHostPort(dst, fmt.Sprint(port)))
	if err != nil {
		t.Fatalf("send %q to %s: %v", text, dst, err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatalf("send %q to %s: %v", text, dst, err)
	}
}

// connectUDP connects an open socket.
func connectUDP(c *net.UDPConn, to netip.AddrPort) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	err = rc.Control(func(fd uintptr) {
		// The socket is of both families; IPv4 is mapped.
		cerr = unix.Connect(int(fd), &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	})
	return errors.Join(err, cerr)
}
