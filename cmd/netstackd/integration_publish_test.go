//go:build linux

package main_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// answering is a UDP server at an address inside: it answers each datagram with
// its own port of the client, a space and the datagram.
const answering = `
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
s.bind((sys.argv[1], int(sys.argv[2])))
while True:
    b, peer = s.recvfrom(65536)
    if b == b"bye":
        s.sendto(b"last words", peer)
        break
    s.sendto(str(peer[1]).encode() + b" " + b, peer)
`

// publishUDP runs `exec --publish` with the server on A, and returns when it
// answers B at address.
func publishUDP(t *testing.T, n *testnet.Network, listen, address, port string, flags ...string) {
	t.Helper()
	cmd := execAs(t, n.A, "0666", append(append([]string{"--publish", listen}, flags...), "--", "python3", "-c", answering, address, port)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(cmd) })
}

// ask sends a datagram and returns the client's port at the server; "" without
// an answer in time. Answers to earlier datagrams, which came too late, are passed
// over.
func ask(c net.Conn, payload string, wait time.Duration) string {
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := io.WriteString(c, payload); err != nil {
		return ""
	}
	for buf := make([]byte, 65536); ; {
		n, err := c.Read(buf)
		if err != nil {
			return ""
		}
		if port, rest, _ := strings.Cut(string(buf[:n]), " "); rest == payload {
			return port
		}
	}
}

// A port of the command's may have the number of a --socks listener on the host, and
// what is published on 0.0.0.0 is for IPv4.
func TestIntegrationPublishBesideSOCKS(t *testing.T) {
	testnet.RequireTool(t, "nc")
	n := testnet.New(t)
	cmd := execAs(t, n.A, "0666", "--socks", "127.0.0.1:1080", "--publish", "0.0.0.0:8080:1080", "--", "nc", "-l", "-p", "1080")
	cmd.Stdin = strings.NewReader("published\n")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(cmd) })
	by := func(f testnet.Family) (net.Conn, error) {
		return n.B.DialTimeout("tcp", netip.AddrPortFrom(n.A.Addr(f), 8080).String(), time.Second)
	}
	sixth := errors.New("not asked")
	testnet.Eventually(t, 10*time.Second, "the published port answers", func() bool {
		c, err := by(testnet.IPv4)
		if err != nil {
			return false
		}
		defer c.Close()
		var c6 net.Conn
		if c6, sixth = by(testnet.IPv6); sixth == nil {
			c6.Close()
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		buf := make([]byte, 9)
		_, err = c.Read(buf)
		return err == nil && string(buf) == "published"
	})
	if !errors.Is(sixth, syscall.ECONNREFUSED) {
		t.Errorf("by IPv6: %v", sixth)
	}
}

// A UDP port of the host leads to the command's, wherever it listens inside.
func TestIntegrationPublishUDP(t *testing.T) {
	testnet.RequireTool(t, "python3")
	n := testnet.New(t)
	for i, tt := range []struct {
		listen string // %d is the host's port
		inside string
		family testnet.Family
	}{
		{"0.0.0.0:%d:53/udp", "127.0.0.1", testnet.IPv4},
		{"[::]:%d:53/udp", "::1", testnet.IPv6},
		{n.A.IP4.String() + ":%d:53/udp", "0.0.0.0", testnet.IPv4},
		{"[" + n.A.IP6.String() + "]:%d:53/udp", "::", testnet.IPv6},
		{"0.0.0.0:%d:53/udp", "198.18.0.1", testnet.IPv4},
	} {
		t.Run(tt.listen+" "+tt.inside, func(t *testing.T) {
			port := uint16(8000 + i)
			publishUDP(t, n, fmt.Sprintf(tt.listen, port), tt.inside, "53")
			to := netip.AddrPortFrom(n.A.Addr(tt.family), port).String()
			a, b := dialUDP(t, n.B, to), dialUDP(t, n.B, to)
			testnet.Eventually(t, 20*time.Second, "the published port answers", func() bool {
				return ask(a, "ready?", 200*time.Millisecond) != ""
			})
			atA := ask(a, "hello", 5*time.Second)
			atB := ask(b, "hello", 5*time.Second)
			if atA == "" || atB == "" || atA == atB {
				t.Fatalf("ports %q and %q at the server", atA, atB)
			}
			if again := ask(a, strings.Repeat("x", 50000), 5*time.Second); again != atA {
				t.Errorf("port %q, at first %q", again, atA)
			}
			// A burst of each, at the same time.
			for i := range 100 {
				for _, c := range []net.Conn{a, b} {
					if _, err := fmt.Fprintf(c, "%d", i); err != nil {
						t.Fatal(err)
					}
				}
			}
			for c, port := range map[net.Conn]string{a: atA, b: atB} {
				for i := range 100 {
					buf := make([]byte, 100)
					_ = c.SetDeadline(time.Now().Add(10 * time.Second))
					n, err := c.Read(buf)
					if want := fmt.Sprintf("%s %d", port, i); err != nil || string(buf[:n]) != want {
						t.Fatalf("got %q, %v, want %q", buf[:n], err, want)
					}
				}
			}
		})
	}
}

// The port may be the same for TCP and UDP, on the host's loopback; the last
// answer arrives though the command has ended, and exec ends with it.
func TestIntegrationPublishEnds(t *testing.T) {
	testnet.RequireTool(t, "python3")
	n := testnet.New(t)
	cmd := execAs(t, n.A, "0666", "--publish", "5353", "--publish", "5353/udp", "--", "python3", "-c", answering, "127.0.0.1", "5353")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	c := dialUDP(t, n.A, "127.0.0.1:5353")
	testnet.Eventually(t, 20*time.Second, "the published port answers", func() bool {
		return ask(c, "ready?", 200*time.Millisecond) != ""
	})
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "bye"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	size, err := c.Read(buf)
	if err != nil || string(buf[:size]) != "last words" {
		t.Errorf("%q, %v", buf[:size], err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("exec goes on")
		_ = cmd.Process.Kill()
		<-ended
	}
}

// A nameserver inside answers queries from outside.
func TestIntegrationPublishDNS(t *testing.T) {
	testnet.RequireTool(t, "python3", "dig")
	n := testnet.New(t)
	const server = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 53))
while True:
    q, peer = s.recvfrom(512)
    end = q.index(b"\0", 12) + 5
    s.sendto(q[:2] + b"\x85\x80" + q[4:6] + b"\0\1\0\0\0\0" + q[12:end] + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\7", peer)
`
	cmd := execAs(t, n.A, "0666", "--publish", "[::]:5300:53/udp", "--", "python3", "-c", server)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(cmd) })
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		testnet.Eventually(t, 20*time.Second, "the nameserver answers", func() bool {
			out, err := n.B.Output("dig", "+short", "+tries=1", "+timeout=1", "-p", "5300", "@"+n.A.Addr(f).String(), "www.test")
			return err == nil && strings.TrimSpace(out) == "192.0.2.7"
		})
	})
}
