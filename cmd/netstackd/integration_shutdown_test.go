//go:build linux

package main_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/testnet"
	"netstackd/socks/wire"
)

// With any clients whatever, the daemon ends within --drain and a second.
func TestIntegrationShutdownWithClients(t *testing.T) {
	const drain = 2 * time.Second
	n := testnet.New(t)
	n.A.Run(t, "ip", "route", "add", "blackhole", spoofed.String())
	n.B.Run(t, "ip", "route", "add", "blackhole", silent.String(), "table", "local")
	d := n.A.Start(t, program.Path(t), append(routes(), "--gateway", "--drain", drain.String())...)
	echo := n.B.ServeTCP(t, ":0", testnet.Echo)
	web := n.B.ServeTCP(t, ":0", switchOrAnswer)
	client := func(greeting string) (net.Conn, *bufio.Reader) {
		c := dialTCP(t, n.A, "127.0.0.1:1080")
		if _, err := io.WriteString(c, greeting); err != nil {
			t.Fatal(err)
		}
		return c, bufio.NewReader(c)
	}
	answer := func(in *bufio.Reader, status int) {
		t.Helper()
		r, err := http.ReadResponse(in, nil)
		if err != nil || r.StatusCode != status {
			t.Fatalf("%v, %v; want status %d", r, err, status)
		}
		if status == http.StatusOK {
			_, _ = io.Copy(io.Discard, r.Body)
		}
	}
	request := func(cmd wire.Command, to string) string {
		a, err := wire.ParseHostPort(to)
		if err != nil {
			t.Fatal(err)
		}
		b, err := wire.Request{Command: cmd, Addr: a}.Append([]byte("\x05\x01\x00"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	reply := func(in *bufio.Reader) {
		t.Helper()
		var b [12]byte // the method, and a reply with an IPv4 address
		if _, err := io.ReadFull(in, b[:]); err != nil || b[3] != 0 {
			t.Fatalf("reply %x, %v", b, err)
		}
	}
	target := dest(testnet.IPv4, 3, web)
	for range 10 {
		_, in := client("GET http://" + target + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
		answer(in, http.StatusOK)
		_, in = client("GET http://" + target + "/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		answer(in, http.StatusSwitchingProtocols)
		_, in = client("CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
		if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
			t.Fatalf("CONNECT: %q, %v", line, err)
		}
		_, in = client(request(wire.Connect, dest(testnet.IPv4, 4, echo)))
		reply(in)
		_, in = client(request(wire.Bind, netip.AddrPortFrom(n.B.IP4, 9).String()))
		reply(in)
		_, in = client(request(wire.Associate, "0.0.0.0:0"))
		reply(in)
		client("")
		client("\x05\x02\x00")
		client("GET http://x/ HTTP/1.1\r\nX: ")
		client(request(wire.Connect, silent.Addr().Next().Next().String()+":80"))
		exchange(t, dialTCP(t, n.A, dest(testnet.IPv4, 5, echo)), "transparent, then idle")
	}
	half := &synFlood{load: load{perSecond: 1000, total: 100}, dest: netip.MustParseAddrPort(dest(testnet.IPv4, 6, echo))}
	if err := n.A.Do(half.run); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	d.Signal(syscall.SIGTERM)
	if status := d.Wait(30 * time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if took := time.Since(begin); took > drain+time.Second {
		t.Errorf("it took %v to end with --drain %v", took, drain)
	} else {
		t.Logf("it took %v to end with --drain %v", took, drain)
	}
}

// switchOrAnswer answers HTTP requests, or echoes where it is asked to switch.
func switchOrAnswer(c *net.TCPConn) {
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if r.Header.Get("Upgrade") != "" {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_, _ = io.Copy(c, in)
			return
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}
