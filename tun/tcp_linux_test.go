package tun_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/tun"
)

// Flags of a TCP segment (RFC 9293 §3.1).
const (
	tcpSYN = 2
	tcpACK = 16
)

// tcpPacket returns an IPv4 packet from deviceEnd to kernelEnd with one TCP
// segment, whose checksum the kernel is to finish.
func tcpPacket(flags byte, seq, ack uint32, options, payload []byte) []byte {
	tcp := make([]byte, 20, 20+len(options)+len(payload))
	binary.BigEndian.PutUint16(tcp, deviceEnd.Port())
	binary.BigEndian.PutUint16(tcp[2:], kernelEnd.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = byte(20+len(options))/4<<4, flags
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	tcp = append(append(tcp, options...), payload...)

	p := udpPacket(deviceEnd, kernelEnd, make([]byte, len(tcp)-8))
	copy(p[20:], tcp)
	p[9] = unix.IPPROTO_TCP
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], ^checksum(0, p[:20]))
	partialChecksum(p, 36)
	return p
}

// isTCP reports whether p carries flags from kernelEnd to deviceEnd.
func isTCP(flags byte) func(p []byte) bool {
	return func(p []byte) bool {
		return len(p) >= 40 && p[0] == 0x45 && p[9] == unix.IPPROTO_TCP && p[33]&(tcpSYN|tcpACK) == flags &&
			binary.BigEndian.Uint16(p[22:]) == deviceEnd.Port()
	}
}

// TestIntegrationTCPSuperPackets connects to the kernel with segments made by
// hand. What the kernel sends comes as one packet with TSO; one such packet
// written arrives whole.
func TestIntegrationTCPSuperPackets(t *testing.T) {
	d, ns := openTUN(t, tun.Config{Queues: 1})
	var l net.Listener
	ns.Must(t, func() (err error) {
		l, err = net.Listen("tcp", kernelEnd.String())
		return err
	})
	defer l.Close()

	write := func(gso virtio, p []byte) {
		t.Helper()
		gso.flags, gso.csumStart, gso.csumOffset = needsCsum, 20, 16
		hdr := gso.bytes()
		if err := d.WritePacket(0, &hdr, [][]byte{p[:40], p[40:]}); err != nil {
			t.Fatal(err)
		}
	}
	const seq = 1000
	write(virtio{}, tcpPacket(tcpSYN, seq, 0, []byte{2, 4, 1460 >> 8, 1460 & 0xff}, nil))
	synAck, _ := readMatching(t, d, isTCP(tcpSYN|tcpACK))
	theirs := binary.BigEndian.Uint32(synAck[24:]) + 1
	write(virtio{}, tcpPacket(tcpACK, seq+1, theirs, nil, nil))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	up := pattern(20*1460, 1)
	write(virtio{gsoType: unix.VIRTIO_NET_HDR_GSO_TCPV4, hdrLen: 40, gsoSize: 1460}, tcpPacket(tcpACK, seq+1, theirs, nil, up))
	got := make([]byte, len(up))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, up) {
		t.Errorf("what arrived of a written super-packet differs: %v", err)
	}

	down := pattern(10*1460, 2) // the initial window (RFC 6928)
	if _, err := conn.Write(down); err != nil {
		t.Fatal(err)
	}
	packet, hdr := readMatching(t, d, func(p []byte) bool { return isTCP(tcpACK)(p) && len(p) > 40 })
	if len(packet) <= 40+1460 || !bytes.Equal(packet[40:], down[:len(packet)-40]) {
		t.Errorf("read %d bytes of %d, want a super-packet", len(packet), len(down))
	}
	if hdr.gsoType != unix.VIRTIO_NET_HDR_GSO_TCPV4 || hdr.gsoSize != 1460 || hdr.flags&needsCsum == 0 {
		t.Errorf("header = %+v, want gso type 1, size 1460, checksum needed", hdr)
	}
}
