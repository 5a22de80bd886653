//go:build linux && race

package testnet

// Race reports whether the tests, and the binaries that they build, run under
// the race detector. Tests that measure skip then.
const Race = true
