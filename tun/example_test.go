package tun_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"netstackd/tun"
	"netstackd/tun/tuntest"
)

// packetReader is a *tun.Device, or the device in memory that tests use.
type packetReader interface {
	ReadPacket(queue int, hdr *[tun.HdrLen]byte, bufs [][]byte) (int, error)
}

// printNext prints where the next packet of a queue goes.
func printNext(d packetReader, queue int, buf []byte) error {
	var hdr [tun.HdrLen]byte
	n, err := d.ReadPacket(queue, &hdr, [][]byte{buf})
	switch {
	case err != nil:
		return err
	case n >= 20 && buf[0]>>4 == 4:
		fmt.Println("IPv4 to", netip.AddrFrom4([4]byte(buf[16:20])))
	case n >= 40 && buf[0]>>4 == 6:
		fmt.Println("IPv6 to", netip.AddrFrom16([16]byte(buf[24:40])))
	}
	return nil
}

// Opening an interface needs root or CAP_NET_ADMIN. The caller sets it up and
// routes packets into it: ip link set example0 up; ip route add 192.0.2.0/24 dev
// example0.
func ExampleOpen() {
	d, err := tun.Open(tun.Config{Name: "example0", Queues: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	buf := make([]byte, 65536) // with offloads a packet is larger than the MTU
	for {
		if err := printNext(d, 0, buf); errors.Is(err, os.ErrClosed) {
			return
		} else if err != nil {
			fmt.Println(err)
			return
		}
	}
}

// A device in memory has the same methods and needs no privilege.
func ExampleDevice() {
	d := tuntest.New(tuntest.Config{})
	defer d.Close()
	packet := make([]byte, 20)
	packet[0] = 0x45
	copy(packet[16:], []byte{192, 0, 2, 7})
	if err := d.Inject(context.Background(), tuntest.Packet{Data: packet}); err != nil {
		fmt.Println(err)
		return
	}
	if err := printNext(d, 0, make([]byte, 65536)); err != nil {
		fmt.Println(err)
	}
	// Output: IPv4 to 192.0.2.7
}
