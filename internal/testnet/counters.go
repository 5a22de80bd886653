//go:build linux

package testnet

import (
	"encoding/json"
	"os/exec"
	"testing"
)

// Counters are an interface's, as the kernel counts them: on a TUN, Tx is
// what the host sent into it and Rx what came out of netstackd.
type Counters struct{ RxBytes, RxPackets, RxDropped, TxBytes, TxPackets, TxDropped uint64 }

// Counters reads them; ok is false when there is no such interface.
func (h *Host) Counters(t testing.TB, device string) (c Counters, ok bool) {
	t.Helper()
	out, err := exec.Command("ip", "-n", h.Name, "-s", "-j", "link", "show", "dev", device).Output()
	if err != nil {
		return c, false
	}
	type direction struct{ Bytes, Packets, Dropped uint64 }
	var links []struct {
		Stats struct{ Rx, Tx direction } `json:"stats64"`
	}
	if err := json.Unmarshal(out, &links); err != nil || len(links) != 1 {
		t.Fatalf("testnet: counters of %s: %v in %s", device, err, out)
	}
	rx, tx := links[0].Stats.Rx, links[0].Stats.Tx
	return Counters{rx.Bytes, rx.Packets, rx.Dropped, tx.Bytes, tx.Packets, tx.Dropped}, true
}

// Through runs fn and checks that at least up bytes entered the interface
// and down bytes left it meanwhile: the test's own traffic took this path.
func (h *Host) Through(t testing.TB, device string, up, down uint64, fn func()) {
	t.Helper()
	before, ok := h.Counters(t, device)
	if !ok {
		t.Fatalf("testnet: no interface %s", device)
	}
	fn()
	after, _ := h.Counters(t, device)
	if got := after.TxBytes - before.TxBytes; got < up {
		t.Errorf("%s: %d bytes entered, want %d or more: the traffic went another way", device, got, up)
	}
	if got := after.RxBytes - before.RxBytes; got < down {
		t.Errorf("%s: %d bytes left, want %d or more: the traffic went another way", device, got, down)
	}
}

// HasDevice reports whether the host has an interface of that name.
func (h *Host) HasDevice(t testing.TB, device string) bool {
	t.Helper()
	_, ok := h.Counters(t, device)
	return ok
}
