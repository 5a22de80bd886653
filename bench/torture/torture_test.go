//go:build linux

package main

import (
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"netstackd/internal/ippkt"
)

// A right packet has right checksums: what the floods send is not dropped
// before it reaches what they are for.
func TestPacketChecksums(t *testing.T) {
	for _, from := range []string{"198.18.0.1", "fd19:8::1"} {
		src := netip.MustParseAddr(from)
		dst := addr4(10, 78, 1)
		if src.Is6() {
			dst = addr6(0xfd, 0x78, 1)
		}
		a, b := netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(dst, 7000)
		for name, p := range map[string][]byte{
			"TCP": tcpPacket(a, b, flagSYN, 1, []byte{2, 4, 5, 0xb4}, at(0, 33)),
			"UDP": udpPacket(a, b, at(0, 77)),
		} {
			header := headerLen(p)
			proto := p[9]
			if src.Is6() {
				proto = p[6]
			} else if ippkt.Sum(p[:header], 0) != 0xffff {
				t.Errorf("%s from %s: wrong sum of the IPv4 header", name, from)
			}
			if sum := ippkt.Sum(p[header:], ippkt.PseudoSum(src, dst, proto, len(p)-header)); sum != 0xffff {
				t.Errorf("%s from %s: checksum is off by %#x", name, from, ^sum)
			}
		}
	}
}

// The makers of wrong packets go on whatever the random numbers are.
func TestMalformedMakers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	make := malformed(tunAddr4, tunAddr6)
	for i := range 20_000 {
		make(i, r)
		badGSOPacket(i, r)
		overlappingFragment(i, r)
		loneFragment(i, r)
	}
}

func TestSocketMemory(t *testing.T) {
	out := "ESTAB 0 0 10.77.0.1:1 10.78.0.1:2 skmem:(r752552,rb10196786,t0,tb1893888,f1112,w7,o1,bl2,d2)\n" +
		"UNCONN 0 0 *:1 *:* skmem:(r1000,rb1,t0,tb1,f4294967196,w0,o0,bl0,d0)\n"
	if got, want := socketMemory(out), int64(752552+1112+7+1+2+1000-100); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
}

func TestRowNames(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range allRows(soakDefault) {
		if seen[r.name] || r.about == "" || r.load == nil || !strings.Contains(r.name, "/") {
			t.Errorf("%q: a row has a name of its own, says what it does, and does it", r.name)
		}
		seen[r.name] = true
	}
}

// What a flow's reader is there to find, it finds.
func TestFlowFindsWrongBytes(t *testing.T) {
	for name, test := range map[string]struct {
		send   func() []byte
		ended  bool
		wrong  bool
		broken bool
	}{
		"right":   {func() []byte { return at(0, 100_000) }, true, false, false},
		"altered": {func() []byte { b := append([]byte(nil), at(0, 100_000)...); b[70_000] ^= 1; return b }, false, true, false},
		"lost":    {func() []byte { return append(append([]byte(nil), at(0, 40_000)...), at(40_001, 50_000)...) }, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				c, err := net.Dial("tcp", l.Addr().String())
				if err == nil {
					_, _ = c.Write(test.send())
					_ = c.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, c)
					c.Close()
				}
			}()
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			var f flow
			ended := f.read(c.(*net.TCPConn))
			if ended != test.ended || (f.wrong != nil) != test.wrong || (f.broken != nil) != test.broken {
				t.Errorf("ended %v, wrong: %v, broken: %v", ended, f.wrong, f.broken)
			}
		})
	}
}

// New connections succeed again from the first of provenBy in a row on.
func TestStreamRecovered(t *testing.T) {
	var s stream
	began := time.Now()
	add := func(i int, err error) {
		s.attempts = append(s.attempts, &attempt{began: began.Add(time.Duration(i) * time.Second), ended: true, err: err})
	}
	add(0, nil)
	add(1, io.EOF)
	for i := range provenBy {
		if _, ok := s.recovered(began); ok {
			t.Fatalf("recovered after %d", i)
		}
		add(2+i, nil)
	}
	if took, ok := s.recovered(began); !ok || took != 2*time.Second-streamEvery {
		t.Errorf("recovered: %v after %v", ok, took)
	}
}
