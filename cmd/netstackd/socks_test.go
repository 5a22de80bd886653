//go:build linux

package main_test

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"netstackd/internal/testnet"
)

// dialSOCKS connects through a SOCKS5 proxy without authentication
// (RFC 1928 §3 to §6), by address.
func dialSOCKS(t *testing.T, h *testnet.Host, proxy, address string) *net.TCPConn {
	t.Helper()
	c := dialTCP(t, h, proxy)
	to := netip.MustParseAddrPort(address)
	atyp := byte(1)
	if to.Addr().Is6() {
		atyp = 4
	}
	request := append([]byte{5, 1, 0, atyp}, to.Addr().AsSlice()...)
	request = append(request, byte(to.Port()>>8), byte(to.Port()))
	mustWrite(t, c, []byte{5, 1, 0})
	var method [2]byte
	if _, err := io.ReadFull(c, method[:]); err != nil || method != [2]byte{5, 0} {
		t.Fatalf("socks: method %v, %v", method, err)
	}
	mustWrite(t, c, request)
	var reply [4]byte
	if _, err := io.ReadFull(c, reply[:]); err != nil || reply[1] != 0 {
		t.Fatalf("socks: reply %v, %v", reply, err)
	}
	rest := map[byte]int{1: 4, 4: 16}[reply[3]] + 2
	if _, err := io.ReadFull(c, make([]byte, rest)); err != nil {
		t.Fatalf("socks: reply: %v", err)
	}
	return c
}
