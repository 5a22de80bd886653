//go:build !race

package publish_test

import "testing"

// The way of a datagram through an open session takes no memory.
func TestUDPAllocs(t *testing.T) {
	server := listenUDP(t, "127.0.0.1:0")
	r := newRig(t, "0.0.0.0", server, nil)
	c := r.client(t, "127.0.0.1")
	buf, payload := make([]byte, 2048), make([]byte, 1200)
	trip := func() {
		if _, err := c.Write(payload); err != nil {
			t.Fatal(err)
		}
		n, from, err := server.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := server.WriteToUDPAddrPort(buf[:n], from); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	trip()
	if n := testing.AllocsPerRun(200, trip); n >= 1 {
		t.Errorf("%v allocations a round trip", n)
	}
}
