package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/bench/testbed"
)

// The addresses of the network.
const (
	prefixServed4 = "10.78.0.0/16" // all of it is B's
	prefixServed6 = "fd78::/64"
	prefixSilent4 = "10.79.0.0/16" // B drops what goes there
	nameserver    = "10.78.0.53"
	device        = "eth0" // joins A and B, and is C's
	lanDevice     = "lan0" // A's, towards C
	tunDevice     = "netstackd0"
)

// host is one network namespace.
type host struct {
	name     string
	ns       *os.File
	ip4, ip6 netip.Addr
}

func newHost(name, ip4, ip6 string) (*host, error) {
	ns, err := testbed.NewNamespace()
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return &host{name, ns, netip.MustParseAddr(ip4), netip.MustParseAddr(ip6)}, nil
}

// do runs fn on a thread in the host's namespace.
func (h *host) do(fn func() error) error { return testbed.Enter(h.ns, fn) }

// ip gives ip(8) commands.
func (h *host) ip(lines ...string) error {
	err := h.do(func() error { return testbed.IP(strings.Join(lines, "\n")) })
	if err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	return nil
}

// output runs a program and returns what it prints.
func (h *host) output(ctx context.Context, name string, args ...string) (out string, err error) {
	err = h.do(func() error {
		text, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		out = string(text)
		return err
	})
	return out, err
}

// dial connects to an address, from local if that is valid.
func (h *host) dial(ctx context.Context, local netip.Addr, to netip.AddrPort) (c *net.TCPConn, err error) {
	err = h.do(func() error {
		var d net.Dialer
		if local.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
		}
		conn, err := d.DialContext(ctx, "tcp", to.String())
		if err == nil {
			c = conn.(*net.TCPConn)
		}
		return err
	})
	return c, err
}

// listen opens a TCP listener.
func (h *host) listen(address string) (l *net.TCPListener, err error) {
	err = h.do(func() error {
		listener, err := net.Listen("tcp", address)
		if err == nil {
			l = listener.(*net.TCPListener)
		}
		return err
	})
	return l, err
}

// listenUDP opens a UDP socket.
func (h *host) listenUDP(address string) (c *net.UDPConn, err error) {
	err = h.do(func() error {
		conn, err := net.ListenPacket("udp", address)
		if err == nil {
			c = conn.(*net.UDPConn)
		}
		return err
	})
	return c, err
}

// impaired says which of a network's links is a testbed.Wire.
type impaired int

const (
	noWire  impaired = iota
	wireLAN          // between C and A
	wireWAN          // between A and B
)

// network is the three hosts and what joins them.
type network struct {
	a, b, c *host
	wire    *testbed.Wire
	servers *servers
}

func newNetwork(wire impaired) (n *network, err error) {
	n = &network{}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	for _, h := range []struct {
		to             **host
		name, ip4, ip6 string
	}{
		{&n.a, "A", "10.77.0.1", "fd77::1"},
		{&n.b, "B", "10.77.0.2", "fd77::2"},
		{&n.c, "C", "10.88.0.2", "fd88::2"},
	} {
		if *h.to, err = newHost(h.name, h.ip4, h.ip6); err != nil {
			return n, err
		}
		if err := (*h.to).do(settings); err != nil {
			return n, err
		}
	}
	if wire == noWire {
		for h, most := range map[*host]int{n.b: 256 << 10, n.c: 64 << 10} {
			if err := h.do(func() error { return smallBuffers(most) }); err != nil {
				return n, err
			}
		}
	}
	if err := n.join(wire); err != nil {
		return n, err
	}
	n.servers, err = startServers(n.b)
	return n, err
}

// settings makes addresses usable at once, the kernel's own limits of ICMP none
// of a row's, and its congestion control, as the stack's is, one that answers loss:
// the only such that every kernel lets a namespace choose.
func settings() error {
	return testbed.Sysctl("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
		"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0",
		"net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.ping_group_range=0 2147483647",
		"net.ipv4.icmp_ratelimit=0", "net.ipv4.icmp_msgs_per_sec=1000000", "net.ipv6.icmp.ratelimit=0",
		"net.ipv4.tcp_no_metrics_save=1", "net.ipv4.tcp_congestion_control=reno")
}

// smallBuffers limits the sockets of a host other than A. All namespaces share
// the kernel's memory for TCP, and only what netstackd has A use of it is to count.
func smallBuffers(most int) error {
	sizes := fmt.Sprintf("4096 16384 %d", most)
	return testbed.Sysctl("net.ipv4.tcp_rmem="+sizes, "net.ipv4.tcp_wmem="+sizes)
}

func (n *network) join(wire impaired) (err error) {
	pairs := []struct {
		x, y         *host
		xName, yName string
		wire         bool
	}{{n.a, n.b, device, device, wire == wireWAN}, {n.a, n.c, lanDevice, device, wire == wireLAN}}
	for _, p := range pairs {
		if p.wire {
			// Both ends have one name; A's is given its own below.
			if n.wire, err = testbed.OpenWire(p.x.ns, p.y.ns, "wire0", testbed.Shape{}); err != nil {
				return err
			}
			for h, name := range map[*host]string{p.x: p.xName, p.y: p.yName} {
				line := fmt.Sprintf("link set wire0 name %s mtu %d txqueuelen %d", name, testbed.WireMTU, testbed.WireQueue)
				if err := h.ip(line); err != nil {
					return err
				}
			}
			continue
		}
		// /proc/self/fd names the other namespace, since none has a name.
		line := fmt.Sprintf("link add %s type veth peer name %s netns /proc/%d/fd/%d", p.xName, p.yName, os.Getpid(), p.y.ns.Fd())
		if err := p.x.ip(line); err != nil {
			return err
		}
	}
	if err := n.b.ip("link set lo up", "addr add 10.77.0.2/24 dev eth0", "addr add fd77::2/64 dev eth0 nodad",
		"link set eth0 up", "route add local "+prefixServed4+" dev lo", "route add local "+prefixServed6+" dev lo",
		"route add default via 10.77.0.1", "route add default via fd77::1"); err != nil {
		return err
	}
	if err := n.c.ip("link set lo up", "addr add 10.88.0.2/16 dev eth0", "addr add 10.88.0.3/16 dev eth0",
		"addr add 10.88.0.4/16 dev eth0", "addr add 10.88.0.5/16 dev eth0", "addr add 10.88.0.6/16 dev eth0", "addr add 10.88.0.7/16 dev eth0",
		"addr add fd88::2/64 dev eth0 nodad",
		"link set eth0 up", "route add default via 10.88.0.1", "route add default via fd88::1"); err != nil {
		return err
	}
	if err := n.a.do(func() error {
		return testbed.Sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	}); err != nil {
		return err
	}
	if err := n.a.ip("link set lo up", "addr add 10.88.0.1/16 dev lan0", "addr add fd88::1/64 dev lan0 nodad", "link set lan0 up",
		"addr add 10.77.0.1/24 dev eth0", "addr add fd77::1/64 dev eth0 nodad"); err != nil {
		return err
	}
	return n.linkUp()
}

// linkUp brings up A's link to B, with what the kernel forgets while it is down.
func (n *network) linkUp() error {
	return n.a.ip("link set eth0 up", "addr replace fd77::1/64 dev eth0 nodad",
		"route replace default via 10.77.0.2", "route replace default via fd77::2")
}

// await returns when both families work: the kernel takes up to a second to
// give IPv6 its carrier.
func (n *network) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, pair := range [][2]netip.AddrPort{
		{netip.AddrPortFrom(n.b.ip4, portEcho), netip.AddrPortFrom(n.b.ip6, portEcho)},
	} {
		for _, to := range pair {
			for {
				try, end := context.WithTimeout(ctx, 300*time.Millisecond)
				c, err := n.a.dial(try, netip.Addr{}, to)
				end()
				if err == nil {
					c.Close()
					break
				}
				if ctx.Err() != nil {
					return fmt.Errorf("host A does not reach host B: %w", err)
				}
				pause(ctx, 20*time.Millisecond)
			}
		}
	}
	return nil
}

// awaitMemory waits until the TCP of earlier rows, and of others on this machine,
// has given back its memory: all namespaces share one limit, by default a
// sixteenth of the machine's (tcp(7), tcp_mem).
func awaitMemory(ctx context.Context) error {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return os.NewSyscallError("sysinfo", err)
	}
	most := int(si.Totalram) * int(si.Unit) / os.Getpagesize() / 16 / 4
	used := 0
	for began := time.Now(); time.Since(began) < 20*time.Second && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		text, err := os.ReadFile("/proc/net/sockstat")
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(text), "TCP:")
		_, rest, _ = strings.Cut(rest, " mem ")
		if _, err := fmt.Sscan(rest, &used); err != nil {
			return fmt.Errorf("sockstat: %w", err)
		}
		if used < most {
			return nil
		}
	}
	return fmt.Errorf("TCP holds %d pages before the row begins, more than %d: others load this machine", used, most)
}

// close ends the servers and removes the namespaces.
func (n *network) close() {
	if n.servers != nil {
		n.servers.close()
	}
	if n.wire != nil {
		n.wire.Close()
	}
	for _, h := range []*host{n.a, n.b, n.c} {
		if h != nil {
			h.ns.Close()
		}
	}
}

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// isolate gives this process, which is alone in its mount and process
// namespaces, what netstackd is to find there: an empty /run, a /proc of its
// own, and a nameserver on B.
func isolate() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		target = "/etc/resolv.conf"
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	text := []byte("nameserver " + nameserver + "\n")
	if strings.HasPrefix(target, "/run/") {
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, text, 0o644)
	}
	const own = "/run/resolv.conf"
	if err := os.WriteFile(own, text, 0o644); err != nil {
		return err
	}
	if err := unix.Mount(own, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /etc/resolv.conf: %w", err)
	}
	return nil
}
