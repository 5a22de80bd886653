//go:build linux

package testnet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// Datagram is one that a UDP server received.
type Datagram struct {
	From    netip.AddrPort
	Payload []byte // valid during the call

	conn *net.UDPConn
	info []byte
}

// Reply sends payload to where the datagram came from, from the address that
// it was sent to.
func (d Datagram) Reply(payload []byte) {
	_, _, _ = d.conn.WriteMsgUDPAddrPort(payload, d.info, d.From)
}

// ServeUDP gives each datagram to handle, one at a time. The address may be a
// wildcard of one family ("0.0.0.0:0", "[::]:0"): replies leave from the
// address that was asked. It returns the port.
func (h *Host) ServeUDP(t testing.TB, address string, handle func(Datagram)) uint16 {
	t.Helper()
	network := "udp4"
	if strings.HasPrefix(address, "[") {
		network = "udp6"
	}
	c := h.ListenPacket(t, network, address)
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		if network == "udp4" {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	})
	if err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf, oob := make([]byte, 65536), make([]byte, 128)
		for {
			n, m, _, from, err := c.ReadMsgUDPAddrPort(buf, oob)
			if err != nil {
				if errors.Is(err, net.ErrClosed) {
					return
				}
				continue // an ICMP error that an earlier reply brought on
			}
			handle(Datagram{from, buf[:n], c, source(oob[:m])})
		}
	})
	t.Cleanup(func() {
		c.Close()
		wg.Wait()
	})
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// source turns the packet information received into that for an answer: the
// same address, but the interface left to the routes. ipi_ifindex, which comes
// first in in_pktinfo and last in in6_pktinfo (ip(7), RFC 3542 §6), is zeroed;
// ipi_spec_dst already holds the address that was asked.
func source(oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil
	}
	const header = unix.SizeofCmsghdr
	info := append([]byte(nil), oob...)
	switch messages[0].Header.Type {
	case unix.IP_PKTINFO:
		clear(info[header : header+4])
		copy(info[header+4:header+8], info[header+8:header+12]) // spec_dst = the address asked
	case unix.IPV6_PKTINFO:
		clear(info[header+16 : header+20])
	}
	return info
}

// EchoUDP answers each datagram with itself.
func EchoUDP(d Datagram) { d.Reply(d.Payload) }

// ServeDNS answers A and AAAA questions for the names, over UDP and TCP on
// one port ("0.0.0.0:53" or "[::]:53"), and NXDOMAIN for any other.
func (h *Host) ServeDNS(t testing.TB, address string, names map[string][]netip.Addr) {
	t.Helper()
	h.ServeUDP(t, address, func(d Datagram) {
		if answer := answerDNS(d.Payload, names); answer != nil {
			d.Reply(answer)
		}
	})
	h.ServeTCP(t, address, func(c *net.TCPConn) {
		for {
			var size [2]byte
			if _, err := io.ReadFull(c, size[:]); err != nil {
				return
			}
			query := make([]byte, int(size[0])<<8|int(size[1]))
			if _, err := io.ReadFull(c, query); err != nil {
				return
			}
			answer := answerDNS(query, names)
			if _, err := c.Write(append([]byte{byte(len(answer) >> 8), byte(len(answer))}, answer...)); err != nil {
				return
			}
		}
	})
}

func answerDNS(query []byte, names map[string][]netip.Addr) []byte {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	addrs, known := names[strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))]
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			r.Body = &dnsmessage.AResource{A: a.As4()}
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, r)
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}
