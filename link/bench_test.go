package link_test

import (
	"fmt"
	"testing"

	"netstackd/link"
	"netstackd/tun/tuntest"
)

func BenchmarkIngress(b *testing.B) {
	for _, size := range []int{60, 200, 600, 1500, 4000, 10000, 16000, 30000, 65000} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			dev := &still{tuntest.New(tuntest.Config{}), udpPacket(v4a, v4b, make([]byte, size-28)), make(chan struct{}, 64), true}
			got := make(counting, 64)
			open(b, dev, link.Config{}, got)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			flying := 0
			for b.Loop() {
				if flying == 32 {
					<-got
					flying--
				}
				dev.reads <- struct{}{}
				flying++
			}
			for range flying {
				<-got
			}
		})
	}
}
