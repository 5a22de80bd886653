//go:build linux

package socks_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"netstackd/socks"
)

func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// sshServer starts an OpenSSH server, and returns its address and the options
// that its client needs.
func sshServer(t testing.TB) (addr string, options []string) {
	t.Helper()
	needRoot(t)
	sshd, keygen := program(t, "sshd", "openssh-server"), program(t, "ssh-keygen", "openssh-client")
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	run(t, nil, nil, keygen, "-q", "-t", "ed25519", "-N", "", "-f", key)
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	addr = closedPort(t)
	config := writeFile(t, "sshd_config", fmt.Sprintf("ListenAddress %s\nHostKey %s\nAuthorizedKeysFile %s.pub\nStrictModes no\n"+
		"PermitRootLogin yes\nUsePAM no\nPidFile none\nAllowTcpForwarding yes\n", addr, key, key))
	daemon(t, addr, sshd, "-D", "-e", "-f", config)
	return addr, []string{"-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-p", port(addr)}
}

func TestIntegrationSSH(t *testing.T) {
	ssh, nc := program(t, "ssh", "openssh-client"), program(t, "nc", "netcat-openbsd")
	_, options := sshServer(t)
	p := start(t, local, socks.Config{})
	data := strings.Repeat("ssh data ", 1<<17)
	for i, version := range []string{"5", "4", "connect"} {
		t.Run(version, func(t *testing.T) {
			args := append(options, "-o", fmt.Sprintf("ProxyCommand=%s -X %s -x %s %%h %%p", nc, version, p.addr),
				"root@127.0.0.1", "sha256sum")
			if out := run(t, nil, strings.NewReader(data), ssh, args...); !strings.HasPrefix(out, sum(data)) {
				t.Errorf("sha256sum says %q, want %s", out, sum(data))
			}
			if n := p.Stats().Connects; n != int64(i+1) {
				t.Errorf("%d connects, want %d", n, i+1)
			}
		})
	}
}

func TestIntegrationProxychains(t *testing.T) {
	proxychains, curl := program(t, "proxychains4", "proxychains4"), program(t, "curl", "curl")
	s := newSite(t)
	p := start(t, local, socks.Config{})
	q := start(t, local, socks.Config{Auth: credentials(t, "user:pass")})
	for _, list := range []string{
		"socks5 127.0.0.1 " + port(p.addr),
		"socks4 127.0.0.1 " + port(p.addr),
		"http 127.0.0.1 " + port(p.addr),
		"socks5 127.0.0.1 " + port(q.addr) + " user pass",
		"http 127.0.0.1 " + port(p.addr) + "\nsocks5 127.0.0.1 " + port(q.addr) + " user pass",
	} {
		config := writeFile(t, "proxychains.conf", "strict_chain\nproxy_dns\n[ProxyList]\n"+list+"\n")
		for _, server := range []string{s.addr, s.named()} {
			if strings.HasPrefix(list, "socks4") && server != s.addr {
				continue // proxychains speaks SOCKS4 without the a
			}
			before := p.Stats().Connects + q.Stats().Connects
			out := run(t, nil, nil, proxychains, "-q", "-f", config, curl, "-sSf", "--noproxy", "*", "http://"+server+"/page")
			if out != s.page || p.Stats().Connects+q.Stats().Connects == before {
				t.Errorf("%q: %d bytes", list, len(out))
			}
		}
	}
}

func TestIntegrationPySocks(t *testing.T) {
	python := program(t, "/usr/bin/python3", "python3 python3-socks")
	if _, err := try(t, nil, nil, python, "-c", "import socks"); err != nil {
		absent(t, "PySocks is not installed: apt-get install python3-socks")
	}
	target := echo(t)
	_, udp := udpEcho(t, "127.0.0.1:0")
	p := start(t, local, socks.Config{Resolver: local, Auth: credentials(t, "user:pass")})
	q := start(t, local, socks.Config{Resolver: local})
	script := `
import hashlib, os, socket, socks, sys, threading
kind, proxy, user, password, host, port, uport = sys.argv[1:]
kind = {"socks5": socks.SOCKS5, "socks4": socks.SOCKS4, "http": socks.HTTP}[kind]
def make(type):
    s = socks.socksocket(socket.AF_INET, type)
    s.set_proxy(kind, "127.0.0.1", int(proxy), rdns=True, username=user or None, password=password or None)
    s.settimeout(20)
    return s
s = make(socket.SOCK_STREAM)
s.connect((host, int(port)))
data = os.urandom(4 << 20)
def feed():
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=feed).start()
got = bytearray()
while True:
    b = s.recv(1 << 16)
    if not b: break
    got += b
assert bytes(got) == data, len(got)
if kind == socks.SOCKS5:
    u = make(socket.SOCK_DGRAM)
    for text in [b"one", b"two" * 1000, b"three"]:
        u.sendto(text, (host, int(uport)))
        b, addr = u.recvfrom(65536)
        assert b == text and addr[1] == int(uport), (b, addr)
print("done")
`
	for _, args := range [][]string{
		{"socks5", port(q.addr), "", "", "127.0.0.1"},
		{"socks5", port(q.addr), "", "", "echo.test"},
		{"socks5", port(p.addr), "user", "pass", "echo.test"},
		{"socks4", port(q.addr), "", "", "echo.test"},
		{"http", port(q.addr), "", "", "echo.test"},
		{"http", port(p.addr), "user", "pass", "echo.test"},
	} {
		args = append(append([]string{"-c", script}, args...), port(target), port(udp.String()))
		out, err := try(t, nil, nil, python, args...)
		if err != nil || out != "done\n" {
			t.Errorf("%s: %q, %v", args[2], out, err)
		}
	}
	eventually(t, "the datagrams are counted", func() bool { return q.Stats().DatagramsOut == 6 })
	if a, b := p.Stats(), q.Stats(); a.Connects != 2 || b.Connects != 4 || a.Associated != 1 || b.Associated != 2 {
		t.Errorf("with password %+v\nwithout %+v", a, b)
	}
}

// ftpServer is an FTP server that knows what an active-mode client needs.
func ftpServer(t testing.TB, address string, files map[string]string) string {
	t.Helper()
	return serveTCP(t, address, func(c net.Conn) {
		say := func(line string) { fmt.Fprintf(c, "%s\r\n", line) }
		say("220 ready")
		in := bufio.NewScanner(c)
		var data string
		for in.Scan() {
			verb, arg, _ := strings.Cut(in.Text(), " ")
			switch verb {
			case "USER", "PASS", "TYPE", "CWD":
				say("230 fine")
			case "PWD":
				say(`257 "/"`)
			case "PORT":
				var h1, h2, h3, h4, p1, p2 int
				fmt.Sscanf(arg, "%d,%d,%d,%d,%d,%d", &h1, &h2, &h3, &h4, &p1, &p2)
				data = fmt.Sprintf("%d.%d.%d.%d:%d", h1, h2, h3, h4, p1<<8|p2)
				say("200 fine")
			case "RETR":
				say("150 here it comes")
				// From our own address, as BIND expects.
				from := net.Dialer{LocalAddr: &net.TCPAddr{IP: c.LocalAddr().(*net.TCPAddr).IP}}
				d, err := from.Dial("tcp", data)
				if err != nil {
					say("425 no data connection")
					continue
				}
				fmt.Fprint(d, files[arg])
				d.Close()
				say("226 done")
			case "QUIT":
				say("221 bye")
				return
			default:
				say("502 what?")
			}
		}
	})
}

// dnsServer answers every A question with 192.0.2.7.
func dnsServer(t testing.TB, address string) string {
	t.Helper()
	u := listenUDP(t, address)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := u.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			end := 12
			for end < n && b[end] != 0 {
				end += 1 + int(b[end])
			}
			end += 5
			if end > n {
				continue
			}
			answer := append([]byte(nil), b[:end]...)
			binary.BigEndian.PutUint16(answer[2:], 0x8180)
			copy(answer[4:12], "\x00\x01\x00\x01\x00\x00\x00\x00")
			answer = append(answer, "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x07"...)
			u.WriteToUDPAddrPort(answer, from)
		}
	}()
	t.Cleanup(func() { u.Close(); <-done })
	return u.LocalAddr().String()
}

// inNamespace runs the calling test again, as another process, in a network
// namespace where 198.51.100.1 is local without being any interface's. There
// it returns true; here, false when the other is done.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "SOCKS_TEST_IN_NAMESPACE"
	if os.Getenv(mark) == "1" {
		ip := program(t, "ip", "iproute2")
		for _, args := range []string{"link set lo up", "route add local 198.51.100.1/32 dev lo"} {
			run(t, nil, nil, ip, strings.Fields(args)...)
		}
		return true
	}
	needRoot(t)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(cmd.Environ(), mark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the thread is the parent that Pdeathsig means
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in the namespace: %v\n%s", err, out)
	}
	return false
}

// TestIntegrationSocksify has dante's client library bind for an active-mode
// FTP transfer, and send UDP. It sends nothing for an address of the host to
// a proxy, so the servers have one that it can't see. For UDP kdig stands in for dig,
// whose sendmmsg the library doesn't know.
func TestIntegrationSocksify(t *testing.T) {
	socksify := program(t, "socksify", "dante-client")
	tnftp, kdig := program(t, "tnftp", "tnftp"), program(t, "kdig", "knot-dnsutils")
	if !inNamespace(t) {
		return
	}
	data := strings.Repeat("active mode ", 1<<16)
	ftp := ftpServer(t, "198.51.100.1:0", map[string]string{"file": data})
	dns := dnsServer(t, "198.51.100.1:0")
	p := start(t, local, socks.Config{})
	config := writeFile(t, "socks.conf", fmt.Sprintf("route {\n from: 0.0.0.0/0 to: 0.0.0.0/0 via: 127.0.0.1 port = %s\n"+
		" proxyprotocol: socks_v5\n protocol: tcp udp\n command: connect bind udpassociate\n method: none\n}\n", port(p.addr)))
	env := []string{"SOCKS_CONF=" + config}
	t.Run("bind", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "got")
		commands := "open 198.51.100.1 " + port(ftp) + "\nuser anonymous x\nbinary\npassive off\nepsv4 off\nget file " + file + "\nquit\n"
		out := run(t, env, strings.NewReader(commands), socksify, tnftp, "-n", "-v", "-A")
		if got, err := os.ReadFile(file); err != nil || string(got) != data {
			t.Errorf("%d bytes, want %d: %v\n%s", len(got), len(data), err, out)
		}
		if s := p.Stats(); s.Connects != 1 || s.Binds != 1 {
			t.Errorf("stats %+v", s)
		}
	})
	t.Run("udp", func(t *testing.T) {
		out := run(t, env, nil, socksify, kdig, "@198.51.100.1", "-p", port(dns), "+short", "+retry=1", "+time=5", "name.test", "A")
		if strings.TrimSpace(out) != "192.0.2.7" {
			t.Errorf("kdig says %q", out)
		}
		eventually(t, "the datagrams are counted", func() bool {
			s := p.Stats()
			return s.Associated > 0 && s.DatagramsIn > 0 && s.DatagramsOut > 0
		})
	})
}

func TestIntegrationChromium(t *testing.T) {
	chromium := program(t, "chromium", "chromium")
	s := newSite(t)
	p := start(t, local, socks.Config{})
	for _, scheme := range []string{"socks5", "socks4", "http"} {
		t.Run(scheme, func(t *testing.T) {
			before := p.flows.Stats().Opened
			host := s.named()
			if scheme == "socks4" {
				host = s.addr // Chromium resolves for SOCKS4
			}
			out := run(t, []string{"HOME=" + t.TempDir()}, nil, chromium, "--headless", "--no-sandbox", "--disable-gpu",
				"--disable-dev-shm-usage", "--disable-background-networking", "--user-data-dir="+t.TempDir(),
				"--proxy-server="+scheme+"://"+p.addr, "--proxy-bypass-list=<-loopback>",
				"--dump-dom", "http://"+host+"/index.html")
			if !strings.Contains(out, "<title>loaded 20</title>") {
				t.Errorf("the page is %q", out)
			}
			if p.flows.Stats().Opened == before {
				t.Error("chromium went around the proxy")
			}
		})
	}
	for i := range 20 {
		if path := fmt.Sprintf("/script%d.js", i); s.seen[path] != 3 {
			t.Errorf("%s was asked for %d times, want 3", path, s.seen[path])
		}
	}
}
