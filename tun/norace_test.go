//go:build !race

package tun_test

// raceDetector makes a sync.Pool forget things at random.
const raceDetector = false
