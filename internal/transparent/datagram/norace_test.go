//go:build !race

package datagram_test

const raceEnabled = false
