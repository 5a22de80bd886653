package main

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"netstackd/socks"
	"netstackd/tun/tuntest"
)

// A client reaches a server on another stack, through the proxy, its stack and two
// devices in memory.
func TestServe(t *testing.T) {
	host := netip.MustParseAddr("198.18.5.1")
	near, far := tuntest.Pair(tuntest.Config{}, tuntest.Config{})
	other, err := newStack(far, host)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	web, err := gonet.ListenTCP(other.stack, tcpip.FullAddress{Addr: tcpip.AddrFromSlice(host.AsSlice()), Port: 80}, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	go func() {
		c, err := web.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, "hello "+c.RemoteAddr().String())
		c.Close()
	}()

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var lines []string
	served := make(chan error, 1)
	go func() {
		served <- serve(ctx, near, netip.MustParseAddr("198.18.5.2"), ln, func(line string) { lines = append(lines, line) })
	}()
	c, err := socks.NewClient(ln.Addr().String(), nil, socks.ClientConfig{}).DialContext(ctx, "tcp", "198.18.5.1:80")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(c)
	c.Close()
	if err != nil || !strings.HasPrefix(string(text), "hello 198.18.5.2:") {
		t.Errorf("got %q, %v", text, err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if want := "socks5 connect 198.18.5.1:80 from 127.0.0.1"; len(lines) != 1 || lines[0] != want {
		t.Errorf("logged %q, want %q", lines, want)
	}
}
