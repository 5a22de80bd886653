//go:build linux

package socks_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"netstackd/socks"
	"netstackd/socks/wire"
)

// through uses our client against another project's server: it connects several
// times, so that what it learns about the server counts, and then to a port
// that is closed.
func through(t *testing.T, url string) socks.Upstream {
	t.Helper()
	target := echo(t)
	d := via(t, local, url)
	data := strings.Repeat("upstream", 1<<16)
	for range 3 {
		c, err := d.DialContext(t.Context(), "tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		go c.Write([]byte(data)) // no FIN: some upstreams take one for the end
		want(t, c, data)
		c.Close()
	}
	named := serveTCP(t, ":0", func(c net.Conn) { io.Copy(c, c) }) // localhost may be ::1 first
	c, err := d.DialContext(t.Context(), "tcp", "localhost:"+port(named))
	if err != nil {
		t.Fatalf("by name: %v", err)
	}
	c.Close()
	if c, err := d.DialContext(t.Context(), "tcp", closedPort(t)); err == nil {
		c.Close()
		t.Error("a closed port answers")
	} else {
		t.Logf("closed port: %v", err)
	}
	return d
}

func TestIntegrationMicrosocks(t *testing.T) {
	microsocks := program(t, "microsocks", "microsocks")
	addr := closedPort(t)
	daemon(t, addr, microsocks, "-i", "127.0.0.1", "-p", port(addr))
	through(t, "socks5://"+addr)
	through(t, "socks5://un:asked@"+addr)
	addr = closedPort(t)
	daemon(t, addr, microsocks, "-i", "127.0.0.1", "-p", port(addr), "-u", "user", "-P", "pass")
	through(t, "socks5://user:pass@"+addr)
	for _, url := range []string{"socks5://user:wrong@" + addr, "socks5://" + addr} {
		if c, err := via(t, local, url).DialContext(t.Context(), "tcp", echo(t)); err == nil {
			c.Close()
			t.Error("connected without the password")
		} else {
			t.Log(err)
		}
	}
}

func TestIntegrationSSHUpstream(t *testing.T) {
	ssh := program(t, "ssh", "openssh-client")
	_, options := sshServer(t)
	addr := closedPort(t)
	daemon(t, addr, ssh, append(options, "-N", "-D", addr, "root@127.0.0.1")...)
	through(t, "socks5://"+addr)
}

func TestIntegrationDante(t *testing.T) {
	needRoot(t)
	danted := program(t, "danted", "dante-server")
	addr := closedPort(t)
	config := writeFile(t, "danted.conf", fmt.Sprintf("logoutput: stderr\nerrorlog: stderr\ninternal: 127.0.0.1 port = %s\nexternal: 127.0.0.1\n"+
		"clientmethod: none\nsocksmethod: none\nuser.privileged: root\nuser.unprivileged: nobody\n"+
		"client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n"+
		"socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 command: bind connect udpassociate bindreply udpreply }\n", port(addr)))
	daemon(t, addr, danted, "-f", config)
	d := through(t, "socks5://"+addr)

	_, udp := udpEcho(t, "127.0.0.1:0")
	pc, err := d.ListenPacket(t.Context(), "udp", "")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	exchange(t, pc, net.UDPAddrFromAddrPort(udp), udp, []byte("through dante"))
	exchange(t, pc, wire.Addr{Name: "localhost", Port: udp.Port()}, udp, []byte("by name"))

	ln, err := d.Bind(t.Context(), wire.AddrFrom(udp))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer := dial(t, ln.Addr().String())
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, peer, "bound")
	want(t, c, "bound")
}
