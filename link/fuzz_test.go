package link_test

import (
	"bytes"
	"testing"

	"netstackd/link"
	"netstackd/tun/tuntest"
)

// FuzzIngress feeds hostile virtio headers and packets. Whatever comes, each
// packet is delivered as it is (but for trailing padding) or counted as
// dropped, and the next good one gets through.
func FuzzIngress(f *testing.F) {
	for _, p := range [][]byte{
		udpPacket(v4a, v4b, []byte("datagram")), udpPacket(v6a, v6b, make([]byte, 3000)),
		tcpPacket(v4a, v4b, make([]byte, 100)), tcpPacket(v6a, v6b, nil), nil, {0x45}, {0x60},
	} {
		f.Add(noHdr[:], p)
		f.Add(needsCsum[:], p)
		f.Add(dataValid[:], p)
		tso := vnet(1, link.GSOTCPv4, 40, 1460, 20, 16)
		f.Add(tso[:], p)
	}
	f.Fuzz(func(t *testing.T, hdr, data []byte) {
		if len(data) > 65535 {
			return
		}
		for _, plain := range []bool{false, true} {
			dev := tuntest.New(tuntest.Config{Plain: plain})
			s := newSink()
			e, err := link.New(dev, link.Config{})
			if err != nil {
				t.Fatal(err)
			}
			e.Attach(s)
			var h [link.VNetHdrLen]byte
			if !plain {
				copy(h[:], hdr)
			}
			inject(t, dev, h, data)
			got := sentinel(t, dev, s)
			e.Attach(nil)
			st := e.Stats()
			if len(got) > 1 || uint64(len(got))+st.RxBadChecksum+st.RxMalformed != 1 {
				t.Fatalf("%d delivered, %+v", len(got), st)
			}
			if len(got) == 1 && (len(got[0].data) < 20 || !bytes.HasPrefix(data, got[0].data)) {
				t.Fatalf("delivered %x of %x", got[0].data, data)
			}
		}
	})
}
