package tuntest

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"netstackd/tun"
)

// Fields of struct virtio_net_hdr (linux/virtio_net.h).
const (
	needsCsum = 1 // flag

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDPL4 = 5
	gsoECN   = 0x80 // goes with one of the others
)

// check refuses what the kernel refuses (tun_get_user in drivers/net/tun.c and
// virtio_net_hdr_to_skb in linux/virtio_net.h). It also refuses a header on a
// device without virtio headers: the kernel would ignore it and send the packet
// with its checksum or segmentation undone.
func (d *Device) check(hdr *[tun.HdrLen]byte, bufs [][]byte, size int) error {
	if v := version(bufs); v != 4 && v != 6 {
		return invalid("IP version %d", v)
	}
	if d.cfg.Plain {
		if hdr != nil && *hdr != [tun.HdrLen]byte{} {
			return invalid("virtio header %x on a device without", *hdr)
		}
		return nil
	}
	flags, gso := hdr[0], hdr[1]&^gsoECN
	hdrLen := int(binary.LittleEndian.Uint16(hdr[2:]))
	gsoSize := binary.LittleEndian.Uint16(hdr[4:])
	start := int(binary.LittleEndian.Uint16(hdr[6:]))
	offset := int(binary.LittleEndian.Uint16(hdr[8:]))
	switch {
	case hdrLen > size:
		return invalid("hdr_len %d of %d", hdrLen, size)
	case flags&needsCsum != 0 && start+offset+2 > size:
		return invalid("csum_start %d + csum_offset %d of %d", start, offset, size)
	case gso == gsoNone:
		return nil
	case gso != gsoTCPv4 && gso != gsoTCPv6 && gso != gsoUDPL4:
		return invalid("gso_type %d", hdr[1])
	case gsoSize == 0:
		return invalid("gso_size 0 with gso_type %d", hdr[1])
	case gso == gsoUDPL4 && (!d.USO() || flags&needsCsum == 0 || offset != 6):
		return invalid("gso_type UDP_L4 with flags %#x, csum_offset %d, USO %v", flags, offset, d.USO())
	}
	return nil
}

// version returns the IP version of the packet in bufs, 0 if it is empty.
func version(bufs [][]byte) byte {
	for _, b := range bufs {
		if len(b) > 0 {
			return b[0] >> 4
		}
	}
	return 0
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("tuntest: write: %w: %s", syscall.EINVAL, fmt.Sprintf(format, args...))
}
