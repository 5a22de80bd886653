package ippkt_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"

	"netstackd/internal/ippkt"
)

// reference is the sum of RFC 1071, word by word.
func reference(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		if i%2 == 0 {
			sum += uint32(c) << 8
		} else {
			sum += uint32(c)
		}
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// random are n bytes, half of them all ones, so that sums carry.
func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		if b[i] = 0xff; rand.IntN(2) == 0 {
			b[i] = byte(rand.Uint32())
		}
	}
	return b
}

func TestSum(t *testing.T) {
	for n := range 300 {
		for range 10 {
			b := random(n)
			want := reference(b)
			if got := ippkt.Sum(b, 0); got != want {
				t.Fatalf("%x: %#x, want %#x", b, got, want)
			}
			if got := ippkt.Sum(b, 0x1234); got != ippkt.Add(want, 0x1234) {
				t.Fatalf("%x: %#x with an initial sum", b, got)
			}
			i := rand.IntN(n + 1)
			j := i + rand.IntN(n-i+1)
			if got := ippkt.SumSlices(0, [][]byte{b[:i], nil, b[i:j], b[j:]}); got != want {
				t.Fatalf("%x in pieces at %d and %d: %#x, want %#x", b, i, j, got, want)
			}
		}
	}
	if got := ippkt.Sum(bytes.Repeat([]byte{0xff}, 65535), 0xffff); got != ippkt.Add(0xffff, 0xff00) {
		t.Errorf("all ones: %#x", got)
	}
}

// An updated checksum field is that of the changed bytes (RFC 1624).
func TestUpdate(t *testing.T) {
	for range 10000 {
		b := random(20)
		check := ^reference(b)
		old := binary.BigEndian.Uint16(b[6:])
		now := uint16(rand.Uint32())
		binary.BigEndian.PutUint16(b[6:], now)
		got, want := ippkt.Update(check, old, now), ^reference(b)
		if got != want && ippkt.Add(got, 0) != ippkt.Add(want, 0) {
			t.Fatalf("%x from %#x: %#x, want %#x", b, old, got, want)
		}
	}
}

// A receiver finds the checksum of a datagram right, and never finds none.
func TestUDPChecksum(t *testing.T) {
	for _, e := range ends {
		for range 1000 {
			payload := random(rand.IntN(64))
			var hdr [ippkt.UDPLen]byte
			ippkt.PutUDP(hdr[:], 4000, 53, len(payload), 0)
			n := ippkt.UDPLen + len(payload)
			check := ippkt.UDPChecksum(e.src, e.dst, n, [][]byte{hdr[:], payload})
			binary.BigEndian.PutUint16(hdr[ippkt.UDPSumOffset:], check)
			pseudo := append(append(e.src.AsSlice(), e.dst.AsSlice()...), 0, 17, 0, byte(n))
			all := append(append(pseudo, hdr[:]...), payload...)
			if check == 0 || reference(all) != 0xffff {
				t.Fatalf("%s: checksum %#x of %x", e.name, check, all)
			}
		}
	}
}

// Fragments cover what is cut once, in order, and fit the MTU.
func TestFragment(t *testing.T) {
	for _, e := range ends {
		for _, size := range []int{1, 8, 1400, 1480, 1481, 9000, 65535 - 20} {
			for _, mtu := range []int{68, 1280, 1500} {
				checkFragments(t, ippkt.Header{Src: e.src, Dst: e.dst, Proto: ippkt.ProtoUDP, TTL: 64}, size, mtu)
			}
		}
		f := ippkt.Fragment(ippkt.Header{Src: e.src, Dst: e.dst}, 1, 100, e.ipLen+7)
		if _, _, _, ok := f.Next(make([]byte, ippkt.MaxHeaders)); ok {
			t.Errorf("%s: a fragment where the MTU has room for none", e.name)
		}
	}
}

func checkFragments(t *testing.T, h ippkt.Header, size, mtu int) {
	t.Helper()
	const id = 0x12345678
	var b [ippkt.MaxHeaders]byte
	f := ippkt.Fragment(h, id, size, mtu)
	at := 0
	for {
		hdr, off, n, ok := f.Next(b[:])
		if !ok {
			break
		}
		more := off+n < size
		if off != at || n <= 0 || hdr+n > mtu || more && n%8 != 0 {
			t.Fatalf("%v, %d bytes, MTU %d: %d bytes at %d, want them at %d", h.Src, size, mtu, n, off, at)
		}
		at += n
		if h.Src.Is4() {
			frag := uint16(off / 8)
			if more {
				frag |= ippkt.FlagMF
			}
			if got := binary.BigEndian.Uint16(b[6:]); got != frag || binary.BigEndian.Uint16(b[4:]) != id&0xffff || ippkt.Sum(b[:20], 0) != 0xffff {
				t.Fatalf("IPv4 header %x", b[:20])
			}
			continue
		}
		var want [ippkt.FragmentLen]byte
		ippkt.PutFragmentHeader(want[:], ippkt.ProtoUDP, off, more, id)
		if b[6] != ippkt.ProtoFragment || !bytes.Equal(b[40:48], want[:]) {
			t.Fatalf("IPv6 headers %x", b[:48])
		}
	}
	if at != size {
		t.Fatalf("%v, MTU %d: %d bytes of %d", h.Src, mtu, at, size)
	}
}

func TestUnicast(t *testing.T) {
	for address, want := range map[string]bool{
		"192.0.2.1": true, "127.0.0.1": true, "0.0.0.0": false, "224.0.0.1": false, "255.255.255.255": false,
		"2001:db8::1": true, "::1": true, "::": false, "ff02::1": false, "::ffff:192.0.2.1": false,
	} {
		if got := ippkt.Unicast(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	if ippkt.Unicast(netip.Addr{}) {
		t.Error("no address is a unicast address")
	}
}

func BenchmarkSum(b *testing.B) {
	for _, size := range []int{20, 1480, 65000} {
		data := random(size)
		b.Run("size="+strconv.Itoa(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				ippkt.Sum(data, 0)
			}
		})
	}
}
