//go:build linux

package bench_test

import (
	"os"
	"testing"

	"netstackd/bench"
	"netstackd/internal/testnet"
)

// program is netstackd, built by the first test that needs it.
var program testnet.Binary

func TestMain(m *testing.M) {
	if bench.IsHelper() {
		os.Exit(bench.Main())
	}
	status := m.Run()
	program.Remove()
	os.Exit(status)
}
