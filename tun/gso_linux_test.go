package tun_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/tun"
)

// virtio is struct virtio_net_hdr (linux/virtio_net.h).
type virtio struct {
	flags, gsoType                         uint8
	hdrLen, gsoSize, csumStart, csumOffset uint16
}

func parseVirtio(h [tun.HdrLen]byte) virtio {
	le := binary.LittleEndian
	return virtio{h[0], h[1], le.Uint16(h[2:]), le.Uint16(h[4:]), le.Uint16(h[6:]), le.Uint16(h[8:])}
}

func (v virtio) bytes() [tun.HdrLen]byte {
	h := [tun.HdrLen]byte{v.flags, v.gsoType}
	for i, f := range []uint16{v.hdrLen, v.gsoSize, v.csumStart, v.csumOffset} {
		binary.LittleEndian.PutUint16(h[2+2*i:], f)
	}
	return h
}

const needsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM

// readMatching reads packets until match likes one, and returns it and its header.
func readMatching(t *testing.T, d *tun.Device, match func([]byte) bool) ([]byte, virtio) {
	t.Helper()
	for {
		var hdr [tun.HdrLen]byte
		buf := make([]byte, 1<<16)
		n, err := d.ReadPacket(0, &hdr, [][]byte{buf[:64], buf[64:]})
		if err != nil {
			t.Fatal(err)
		}
		if match(buf[:n]) {
			return buf[:n], parseVirtio(hdr)
		}
	}
}

func skipWithoutUSO(t *testing.T, d *tun.Device) {
	t.Helper()
	if !d.USO() {
		t.Skip("this kernel has no TUN_F_USO4 (Linux 6.2)")
	}
}

// TestIntegrationReadUSO reads a train of datagrams as the one packet that a
// sender with UDP_SEGMENT makes of it.
func TestIntegrationReadUSO(t *testing.T) {
	d, ns := openTUN(t, tun.Config{Queues: 1})
	skipWithoutUSO(t, d)
	conn := ns.ListenUDP(t, kernelEnd.String())
	control(t, conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1200) })
	want := pattern(40*1200, 1)
	if _, err := conn.WriteToUDPAddrPort(want, deviceEnd); err != nil {
		t.Fatal(err)
	}
	packet, hdr := readMatching(t, d, func(p []byte) bool { return udpPayload(p, deviceEnd) != nil })
	if len(packet) != 28+len(want) || !bytes.Equal(packet[28:], want) {
		t.Errorf("read %d bytes, want the train of %d whole", len(packet), 28+len(want))
	}
	if hdr.gsoType != unix.VIRTIO_NET_HDR_GSO_UDP_L4 || hdr.gsoSize != 1200 || hdr.flags&needsCsum == 0 || hdr.csumStart != 20 || hdr.csumOffset != 6 {
		t.Errorf("header = %+v, want gso type 5, size 1200, checksum needed at 20+6", hdr)
	}
}

// TestIntegrationWriteUSO writes a train; the kernel delivers its datagrams.
func TestIntegrationWriteUSO(t *testing.T) {
	d, ns := openTUN(t, tun.Config{Queues: 1})
	skipWithoutUSO(t, d)
	conn := ns.ListenUDP(t, kernelEnd.String())
	payload := pattern(10*1000+1, 2)
	packet := udpPacket(deviceEnd, kernelEnd, payload)
	partialChecksum(packet, 26)
	hdr := virtio{needsCsum, unix.VIRTIO_NET_HDR_GSO_UDP_L4, 28, 1000, 20, 6}.bytes()
	if err := d.WritePacket(0, &hdr, pieces(packet, 3)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, want := range []int{1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1} {
		buf := make([]byte, 1<<16)
		n, err := conn.Read(buf)
		if err != nil || n != want {
			t.Fatalf("datagram of %d bytes, %v; want %d", n, err, want)
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, payload) {
		t.Error("the datagrams differ from the train")
	}
}

// partialChecksum leaves in an IPv4 packet what NEEDS_CSUM asks for: the sum of
// the pseudo-header, at offset at.
func partialChecksum(p []byte, at int) {
	sum := uint32(p[9]) + uint32(len(p)-20)
	binary.BigEndian.PutUint16(p[at:], checksum(sum, p[12:20]))
}

// control runs f on a socket's fd.
func control(t *testing.T, c *net.UDPConn, f func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
}
