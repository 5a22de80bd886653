package config

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"netstackd/internal/memory"
	"netstackd/internal/netstack"
)

// Tune is what --tune sets: knobs whose defaults were chosen by measurement,
// so that bench/tune can measure again. Zero values are the defaults.
type Tune struct {
	TCP      netstack.TCPConfig
	QueueLen int // packets that each ingress queue holds
	Batch    int // packets that are delivered between two flushes
}

// setTune takes one KEY=VALUE.
func setTune(c *Config, s string) (err error) {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("%q is not KEY=VALUE; write cc=reno", s)
	}
	t := &c.Tune
	switch key {
	case "cc":
		if value != "cubic" && value != "reno" {
			return fmt.Errorf("%q is no congestion control; write cc=cubic or reno", value)
		}
		t.TCP.CongestionControl = value
	case "sack":
		t.TCP.NoSACK, err = parseBool(value)
		t.TCP.NoSACK = !t.TCP.NoSACK
	case "rack":
		t.TCP.RACK, err = parseBool(value)
	case "rcvbuf":
		t.TCP.ReceiveBuffer, err = parseBuffer(value)
	case "sndbuf":
		t.TCP.SendBuffer, err = parseBuffer(value)
	case "queue-len":
		t.QueueLen, err = parsePositive(value)
	case "batch":
		t.Batch, err = parsePositive(value)
	default:
		return fmt.Errorf("%q is none of cc, sack, rack, rcvbuf, sndbuf, queue-len, batch", key)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func parseBuffer(s string) (int, error) {
	n, err := parseBytes(s)
	if err == nil && (n < memory.SmallestBuffer || n > math.MaxInt32) {
		return 0, fmt.Errorf("%d is out of range; use %d to %d bytes", n, memory.SmallestBuffer, math.MaxInt32)
	}
	return int(n), err
}

func parsePositive(s string) (int, error) {
	n, err := parseCount(s)
	if err == nil && n == 0 {
		return 0, errors.New("0 is no choice; use 1 or more, or leave it out")
	}
	return n, err
}
