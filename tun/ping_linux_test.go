package tun_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/tun"
)

func TestIntegrationPing(t *testing.T) {
	d, _ := openTUN(t, tun.Config{Queues: 1})
	echo := append([]byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}, pattern(56, 1)...)
	binary.BigEndian.PutUint16(echo[2:], ^checksum(0, echo))
	request := udpPacket(deviceEnd, kernelEnd, make([]byte, len(echo)-8))
	request[9] = unix.IPPROTO_ICMP
	request[10], request[11] = 0, 0
	binary.BigEndian.PutUint16(request[10:], ^checksum(0, request[:20]))
	copy(request[20:], echo)

	var hdr [tun.HdrLen]byte
	if err := d.WritePacket(0, &hdr, [][]byte{request}); err != nil {
		t.Fatal(err)
	}
	reply, _ := readMatching(t, d, func(p []byte) bool { return p[0] == 0x45 && p[9] == unix.IPPROTO_ICMP && p[20] == 0 })
	if !bytes.Equal(reply[24:], echo[4:]) {
		t.Errorf("echo reply carries %x, want %x", reply[24:], echo[4:])
	}
}

func TestIntegrationPingIPv6(t *testing.T) {
	d, _ := openTUN(t, tun.Config{Queues: 1})
	echo := append([]byte{128, 0, 0, 0, 0x12, 0x34, 0, 1}, pattern(56, 1)...)
	request := make([]byte, 40, 40+len(echo))
	request[0], request[6], request[7] = 0x60, unix.IPPROTO_ICMPV6, 64
	binary.BigEndian.PutUint16(request[4:], uint16(len(echo)))
	request[8], request[9], request[23] = 0xfd, 0x77, 2
	request[24], request[25], request[39] = 0xfd, 0x77, 1
	sum := uint32(len(echo)) + unix.IPPROTO_ICMPV6 + uint32(checksum(0, request[8:40]))
	binary.BigEndian.PutUint16(echo[2:], ^checksum(sum, echo))
	request = append(request, echo...)

	// The kernel takes a moment to make a new address valid, and doesn't say
	// when it has: ask until it answers.
	var wg sync.WaitGroup
	defer wg.Wait()
	answered, done := context.WithCancel(t.Context())
	defer done()
	wg.Go(func() {
		for answered.Err() == nil {
			var hdr [tun.HdrLen]byte
			if err := d.WritePacket(0, &hdr, [][]byte{request}); err != nil {
				t.Errorf("WritePacket = %v", err)
				d.Close()
				return
			}
			runtime.Gosched()
		}
	})
	reply, _ := readMatching(t, d, func(p []byte) bool { return p[0] == 0x60 && p[6] == unix.IPPROTO_ICMPV6 && p[40] == 129 })
	if !bytes.Equal(reply[44:], echo[4:]) {
		t.Errorf("echo reply carries %x, want %x", reply[44:], echo[4:])
	}
}
