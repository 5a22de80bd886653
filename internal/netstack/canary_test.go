package netstack_test

import (
	"bytes"
	"testing"

	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// Canary: the slices that Peek shows keep their content while more data arrives, is
// acknowledged and read by others, until they are discarded.
func TestCanaryPeekedBytesStay(t *testing.T) {
	app, own := pair(t, tuntest.Config{}, netstack.Config{})
	client, server := connected(t, app, own)
	other, otherServer := connected(t, app, own)
	first := bytes.Repeat([]byte("first "), 5000)
	if _, err := client.Write(first); err != nil {
		t.Fatal(err)
	}
	var shown [][]byte
	until(t, "the bytes arrive", func() bool {
		var n int
		var err error
		shown, n, err = server.Peek(make([][]byte, 0, 64))
		return err == nil && n == len(first)
	})
	// More data on this connection, and on another one that is read meanwhile: its
	// memory goes back to the pool and is used again.
	if _, err := client.Write(bytes.Repeat([]byte("second"), 5000)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	for range 50 {
		if _, err := other.Write(bytes.Repeat([]byte{0xff}, 32<<10)); err != nil {
			t.Fatal(err)
		}
		for left := 32 << 10; left > 0; {
			n, err := otherServer.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			left -= n
		}
	}
	if got := bytes.Join(shown, nil); !bytes.Equal(got, first) {
		t.Error("the bytes that were shown have changed")
	}
	if err := server.Discard(len(first)); err != nil {
		t.Error(err)
	}
	if n, err := server.Read(buf[:6]); err != nil || string(buf[:n]) != "second" {
		t.Errorf("after them comes %q, %v", buf[:n], err)
	}
}
