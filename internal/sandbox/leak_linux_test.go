package sandbox_test

import (
	"bufio"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"netstackd/internal/testnet"
)

// on runs what asUser made on a host.
func on(h *testnet.Host, cmd *exec.Cmd) *exec.Cmd {
	there := exec.Command("ip", append([]string{"netns", "exec", h.Name,
		"bash", "-c", `exec -a "$0" "$@"`, cmd.Args[0], cmd.Path}, cmd.Args[1:]...)...)
	there.Env = cmd.Env
	return there
}

// hostile tries to get a packet out: to B ($1 and $2), to everyone, by the host's
// interface, from namespaces of its own, and by name.
const hostile = `
import os, socket, subprocess, sys
b4, b6 = sys.argv[1:3]
def attempt(family, kind, dest, *options):
    try:
        s = socket.socket(family, kind)
        s.settimeout(0.3)
        for o in options:
            try: s.setsockopt(*o)
            except OSError: pass
        if kind == socket.SOCK_STREAM: s.connect(dest)
        else: s.sendto(b"leak", dest)
    except OSError: pass
device = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
everyone = (socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for port in 53, 80, 443, 5353:
    for options in [], [device]:
        attempt(socket.AF_INET, socket.SOCK_STREAM, (b4, port), *options)
        attempt(socket.AF_INET6, socket.SOCK_STREAM, (b6, port), *options)
        for a in b4, "255.255.255.255", "10.77.0.255", "224.0.0.251", "169.254.1.1", "8.8.8.8":
            attempt(socket.AF_INET, socket.SOCK_DGRAM, (a, port), everyone, *options)
        for a in b6, "ff02::fb", "ff02::1", "fe80::1", "2001:4860:4860::8888":
            attempt(socket.AF_INET6, socket.SOCK_DGRAM, (a, port), everyone, *options)
try: socket.getaddrinfo("leak.example", 80)
except OSError: pass
for command in (
    ["ping", "-c1", "-W1", b4], ["ping", "-c1", "-W1", b6],
    ["ip", "link", "set", "eth0", "netns", str(os.getpid())],
    ["unshare", "-Urn", "ping", "-c1", "-W1", b4],
    ["nsenter", "-t", str(os.getppid()), "-n", "ping", "-c1", "-W1", b4],
):
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("done")
`

// The daemon carries nothing on: whatever of the command shows on the host's
// interface has gone another way.
func TestIntegrationNoLeak(t *testing.T) {
	n := testnet.New(t)
	testnet.RequireTool(t, "tcpdump", "python3", "ping")
	// Without what the kernel says by itself: neighbours, routers, groups.
	dump := n.B.Command(t.Context(), "tcpdump", "-i", testnet.Device, "-n", "-l", "--immediate-mode",
		"not arp and not ip6 proto 0 and not (icmp6 and ip6[40] >= 130)")
	stdout, err := dump.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := dump.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dump.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dump.Process.Kill()
		dump.Wait()
	})
	said := bufio.NewScanner(stderr)
	for said.Scan() && !strings.Contains(said.Text(), "listening on") {
	}
	for _, flags := range [][]string{{"-refuse"}, {"-refuse", "-no-ipv6"}} {
		args := append(flags, "python3", "-c", hostile, n.B.IP4.String(), n.B.IP6.String())
		want(t, on(n.A, asUser(t, open, args...)), "done\n")
	}
	// What the capture sees last is this.
	end := n.A.ListenPacket(t, "udp4", "0.0.0.0:0")
	last := netip.AddrPortFrom(n.B.IP4, 7777)
	if _, err := end.WriteTo([]byte("end"), net.UDPAddrFromAddrPort(last)); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if strings.Contains(lines.Text(), "10.77.0.2.7777") {
			return
		}
		t.Errorf("leaked: %s", lines.Text())
	}
	t.Error("the capture ended early")
}
