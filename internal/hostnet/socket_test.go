//go:build linux

package hostnet_test

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/hostnet"
	"netstackd/internal/testnet"
)

func sockopt(t *testing.T, c any, level, opt int) int {
	t.Helper()
	rc, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var v int
	var verr error
	if err := rc.Control(func(fd uintptr) { v, verr = unix.GetsockoptInt(int(fd), level, opt) }); err != nil || verr != nil {
		t.Fatal(err, verr)
	}
	return v
}

// loopbackUp is enough of a network for these tests.
func loopbackUp(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestIntegrationMark(t *testing.T) {
	if !testnet.Again(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}) {
		return
	}
	loopbackUp(t)
	d := hostnet.New(hostnet.Config{KeepAlive: keepAlive, Mark: 0x198, Interface: "lo"})
	if err := d.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := d.Listen(t.Context(), meta, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tcp, err := d.DialContext(t.Context(), meta, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	udp, err := d.ListenPacket(t.Context(), meta, "udp6", "")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	connected, err := d.DialContext(t.Context(), meta, "udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	ping, err := d.ListenPing(t.Context(), "ip4")
	if err != nil {
		t.Fatal(err)
	}
	defer ping.Close()
	for _, c := range []any{tcp, accepted, udp, connected, ping.PacketConn} {
		if m := sockopt(t, c, unix.SOL_SOCKET, unix.SO_MARK); m != 0x198 {
			t.Errorf("%T has mark %#x", c, m)
		}
		if i := sockopt(t, c, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX); i != 1 {
			t.Errorf("%T is bound to interface %d", c, i)
		}
	}
	if n := sockopt(t, udp, unix.SOL_SOCKET, unix.SO_RCVBUF); n < 4<<20 {
		t.Errorf("receive buffer of %d bytes", n)
	}
	if sockopt(t, tcp, unix.SOL_TCP, unix.TCP_NODELAY) != 1 || sockopt(t, tcp, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 1 {
		t.Error("no TCP_NODELAY or no SO_KEEPALIVE")
	}
	bad := hostnet.New(hostnet.Config{Interface: "nosuch0"})
	if err := bad.Check(t.Context()); !errors.Is(err, unix.ENODEV) || !strings.HasPrefix(err.Error(), "hostnet: interface nosuch0") {
		t.Errorf("no such interface: %v", err)
	}
}

func TestIntegrationMarkRefused(t *testing.T) {
	if !testnet.Again(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}) {
		return
	}
	d := hostnet.New(hostnet.Config{Mark: 7})
	_, err := d.DialContext(t.Context(), meta, "tcp", "127.0.0.1:9")
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "mark 0x7") || strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("error: %v", err)
	}
	if err2 := d.Check(t.Context()); err2 == nil || err2.Error() != err.Error() {
		t.Errorf("Check: %v", err2)
	}
}

// Without descriptors the error says so, and a freed one is enough to go on.
func TestIntegrationNoDescriptors(t *testing.T) {
	if !testnet.Again(t, &syscall.SysProcAttr{}) {
		return
	}
	if before, now, err := hostnet.RaiseFDLimit(); err != nil || now < before {
		t.Errorf("RaiseFDLimit: %d, %d, %v", before, now, err)
	}
	d := hostnet.New(hostnet.Config{})
	warm, err := d.ListenPacket(t.Context(), meta, "udp4", "") // the runtime's own descriptors exist now
	if err != nil {
		t.Fatal(err)
	}
	defer warm.Close()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 32, Max: 32}); err != nil {
		t.Fatal(err)
	}
	var held []net.PacketConn
	for err == nil {
		var c net.PacketConn
		if c, err = d.ListenPacket(t.Context(), meta, "udp4", ""); err == nil {
			held = append(held, c)
		}
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("ListenPacket: %v", err)
	}
	if _, err := d.DialContext(t.Context(), meta, "tcp", "127.0.0.1:9"); !errors.Is(err, unix.EMFILE) {
		t.Errorf("DialContext: %v", err)
	}
	if _, err := d.ListenPing(t.Context(), "ip4"); !errors.Is(err, unix.EMFILE) {
		t.Errorf("ListenPing: %v", err)
	}
	held[0].Close()
	if _, err := d.DialContext(t.Context(), meta, "tcp", "127.0.0.1:9"); errors.Is(err, unix.EMFILE) {
		t.Errorf("after a close: %v", err)
	}
	for _, c := range held[1:] {
		c.Close()
	}
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func TestIntegrationPing(t *testing.T) {
	if !testnet.Again(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}) {
		return
	}
	loopbackUp(t)
	d := hostnet.New(hostnet.Config{})
	for _, groups := range []string{"1\t0", "0\t0"} { // no group; root's
		if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(groups), 0); err != nil {
			t.Fatal(err)
		}
		for _, family := range []string{"ip4", "ip6"} {
			p, err := d.ListenPing(t.Context(), family)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if p.Raw != (groups == "1\t0") {
				t.Errorf("%s with group range %q: raw %v", family, groups, p.Raw)
			}
			ip, request, reply := net.IPv4(127, 0, 0, 1), byte(8), byte(0)
			if family == "ip6" {
				ip, request, reply = net.IPv6loopback, 128, 129
			}
			msg := []byte{request, 0, 0, 0, 0x12, 0x34, 0, 1, 'a', 'b', 'c', 'd'}
			if family == "ip4" {
				binary.BigEndian.PutUint16(msg[2:], checksum(msg))
			}
			var to net.Addr = &net.UDPAddr{IP: ip}
			if p.Raw {
				to = &net.IPAddr{IP: ip}
			}
			if _, err := p.WriteTo(msg, to); err != nil {
				t.Fatal(err)
			}
			p.SetReadDeadline(time.Now().Add(5 * time.Second))
			buf := make([]byte, 100)
			n, _, err := p.ReadFrom(buf)
			if err != nil || n != len(msg) || buf[0] != reply || string(buf[8:n]) != "abcd" {
				t.Errorf("%s raw %v: % x, %v", family, p.Raw, buf[:n], err)
			}
			if p.Raw && binary.BigEndian.Uint16(buf[4:]) != 0x1234 {
				t.Errorf("%s: identifier % x", family, buf[4:6])
			}
		}
	}
}

// A host with no other port for a connection than the one it goes to: the
// kernel would connect the socket to itself.
func TestIntegrationSelfConnect(t *testing.T) {
	if !testnet.Again(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}) {
		return
	}
	loopbackUp(t)
	const port = "40000" // the kernel takes even ports for connections
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(port+" 40001"), 0); err != nil {
		t.Fatal(err)
	}
	c, err := hostnet.New(hostnet.Config{}).DialContext(t.Context(), meta, "tcp", "127.0.0.1:"+port)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port where nobody listens: %v, %v; want ECONNREFUSED", c, err)
	}
}
