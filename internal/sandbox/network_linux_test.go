package sandbox_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The namespace has loopback and the TUN, both families, and nothing else. The
// TUN's neighbors are permanent: a full neighbor table of the host is none of exec's.
func TestIntegrationNetwork(t *testing.T) {
	const script = `ls /proc/sys/net/ipv4/neigh | grep -v default | tr '\n' ' '; echo
		ip -o addr show up scope global | awk '{print $2, $4}'
		ip route show default; ip -6 route show default
		ip neigh show nud permanent dev tun0 | cut -d ' ' -f 1
		ip -o -6 addr show tun0 scope link | wc -l
		ip -o link show tun0 | grep -o 'mtu [0-9]*'
		cat /proc/sys/net/ipv4/ip_unprivileged_port_start`
	const address = "tun0 198.18.0.1/30\n"
	const route4 = "default dev tun0 scope link \n"
	const neighbor4 = "0.0.0.0\n"
	for _, who := range who {
		t.Run(name(who.name), func(t *testing.T) {
			t.Parallel()
			want(t, who.exec(t, "sh", "-c", script), "lo tun0 \n"+address+"tun0 fd19:8::1/126\n"+route4+
				"default via fd19:8::2 dev tun0 metric 1024 onlink pref medium\n"+neighbor4+"fd19:8::2\n0\nmtu 1500\n0\n")
			want(t, who.exec(t, "-no-ipv6", "sh", "-c", script), "lo tun0 \n"+address+route4+neighbor4+"0\nmtu 1500\n0\n")
		})
	}
}

// To TCP the TUN's MTU counts, to all else that of the path beyond it.
func TestIntegrationPathMTU(t *testing.T) {
	const script = `
import errno, socket
for family, level, mtu, discover, far in ((socket.AF_INET, 0, 14, 10, "203.0.113.7"), (socket.AF_INET6, 41, 24, 23, "2001:db8:5::7")):
    tcp = socket.socket(family)
    tcp.connect((far, 5000))
    udp = socket.socket(family, socket.SOCK_DGRAM)
    udp.connect((far, 5000))
    print(tcp.getsockopt(level, mtu), udp.getsockopt(level, mtu))
    tcp.shutdown(socket.SHUT_WR)
    tcp.recv(1)
    tcp.close()
    udp.send(bytes(9000))
    udp.setsockopt(level, discover, 2) # IP_PMTUDISC_DO
    try:
        udp.send(bytes(4000))
    except OSError as e:
        print(errno.errorcode[e.errno])
`
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(io.Discard, c) // up to the command's end, or the sandbox's
				c.Close()
			}()
		}
	}()
	for _, who := range who {
		for _, tt := range []struct{ mtu, path, want string }{
			{"65000", "0", "65000 1500\nEMSGSIZE\n65000 1500\nEMSGSIZE\n"},
			{"65000", "1000", "65000 1000\nEMSGSIZE\n65000 1280\nEMSGSIZE\n"},
			{"1400", "1500", "1400 1400\nEMSGSIZE\n1400 1400\nEMSGSIZE\n"},
		} {
			t.Run(name(who.name)+"/mtu="+tt.mtu+"/path="+tt.path, func(t *testing.T) {
				t.Parallel()
				want(t, who.exec(t, "-mtu", tt.mtu, "-path-mtu", tt.path, "-map", l.Addr().String(), "python3", "-c", script), tt.want)
			})
		}
	}
}

// Pings need a socket that only the range lets an ordinary user have.
func TestIntegrationPingSocket(t *testing.T) {
	for _, who := range who {
		t.Run(name(who.name), func(t *testing.T) {
			t.Parallel()
			for _, addr := range []string{"127.0.0.1", "::1"} {
				r := run(t, who.exec(t, "ping", "-c1", "-W5", addr))
				if r.status != 0 {
					t.Errorf("ping %s: status %d: %s%s", addr, r.status, r.out, r.err)
				}
			}
		})
	}
}

// Connections leave by the TUN and by the dialer at its other end; servers on
// the caller's loopback are reached only so. All is refused with IPv6 off.
func TestIntegrationConnect(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(name(host), func(t *testing.T) {
			l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
			if err != nil {
				if os.Getenv("NETSTACKD_INTEGRATION") == "1" {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			defer l.Close()
			payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					c.Write(payload)
					c.Close()
				}
			}()
			// fakeStack's dialer maps this to the listener: nothing on the host is
			// reached by an address of its loopback.
			port := l.Addr().(*net.TCPAddr).Port
			family, dest := "-4", "203.0.113.7"
			if host == "::1" {
				family, dest = "-6", "2001:db8:5::7"
			}
			r := run(t, asUser(t, open, "-map", l.Addr().String(), "python3", "-c", client, family, dest, strconv.Itoa(port)))
			if r.status != 0 || r.out != string(payload) {
				t.Errorf("status %d, %d bytes of %d, %s", r.status, len(r.out), len(payload), r.err)
			}
			r = run(t, asUser(t, open, "-map", l.Addr().String(), "python3", "-c", client, family, host, strconv.Itoa(port)))
			if r.out != "ECONNREFUSED" {
				t.Errorf("the caller's loopback: %q", r.out)
			}
			r = run(t, asUser(t, open, "-no-ipv6", "-map", l.Addr().String(), "python3", "-c", client, family, dest, strconv.Itoa(port)))
			if host == "::1" && r.out != "ENETUNREACH" {
				t.Errorf("with -no-ipv6: %q, want ENETUNREACH", r.out)
			}
		})
	}
}

// client prints what a server sends, or the errno.
const client = `
import errno, socket, sys
f = socket.AF_INET6 if sys.argv[1] == "-6" else socket.AF_INET
s = socket.socket(f)
try:
    s.connect((sys.argv[2], int(sys.argv[3])))
    while True:
        b = s.recv(65536)
        if not b: break
        sys.stdout.write(b.decode())
except OSError as e:
    sys.stdout.write(errno.errorcode[e.errno])
`

// A server of the command that listens on its loopback is reached with Dial.
func TestIntegrationDial(t *testing.T) {
	const server = `
import socket
s = socket.create_server(("127.0.0.1", 80))
print("listening", flush=True)
c, _ = s.accept()
c.sendall(b"hello from inside\n")
c.recv(1)
`
	cmd := asUser(t, open, "-job=false", "-publish", "80", "python3", "-c", server)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("listening\n"))
	if _, err := io.ReadFull(stdout, line); err != nil {
		t.Fatal(err)
	}
	io.WriteString(stdin, "now\n")
	rest, _ := io.ReadAll(stdout)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got := string(rest); got != "published: *net.TCPConn hello from inside\n" {
		t.Errorf("%q", got)
	}
	// The port is closed: the errno comes through.
	r := run(t, withInput(asUser(t, open, "-job=false", "-publish", "81", "sleep", "1"), "now\n"))
	if !strings.Contains(r.out, "connection refused") {
		t.Errorf("%+v", r)
	}
}
