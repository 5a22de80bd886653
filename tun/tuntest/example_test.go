package tuntest_test

import (
	"context"
	"fmt"

	"netstackd/tun"
	"netstackd/tun/tuntest"
)

// The test plays the kernel: it has a packet read, and takes the one that is written.
func ExampleNew() {
	ctx := context.Background()
	d := tuntest.New(tuntest.Config{})
	defer d.Close()

	_ = d.Inject(ctx, tuntest.Packet{Data: []byte{0x45, 'p', 'i', 'n', 'g'}})

	// The code under test.
	var hdr [tun.HdrLen]byte
	buf := make([]byte, 1500)
	n, _ := d.ReadPacket(0, &hdr, [][]byte{buf})
	_ = d.WritePacket(0, &hdr, [][]byte{{0x45}, []byte("re: "), buf[1:n]})

	p, _ := d.Packet(ctx)
	fmt.Printf("%s\n", p.Data[1:])
	// Output: re: ping
}
