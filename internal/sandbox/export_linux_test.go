package sandbox

import (
	"errors"
	"net/netip"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// For tests of what needs a kernel that says no.
var (
	ExplainClone  = explainClone
	ExplainInside = explainInside
	ExplainTUN    = explainTUN
	ExplainMount  = explainMount
)

// AddAddress sets loopback and an interface of this thread's namespace up, and
// gives the interface an address.
func AddAddress(name string, p netip.Prefix) error {
	n, err := openNetlink(0)
	if err != nil {
		return err
	}
	defer n.close()
	if err := errors.Join(n.linkUp("lo", 0), n.linkUp(name, 0)); err != nil {
		return err
	}
	return n.addUsableAddress(name, p)
}

// OpenTUN is openTUN.
var OpenTUN = openTUN

// BoundUDP is boundUDP.
var BoundUDP = boundUDP

// Relay is relay.
type Relay struct{ r *relay }

const (
	RelayDelay  = relayDelay
	RelayMemory = relayMemory
)

func NewRelay() Relay { return Relay{newRelay()} }

// Stop ends its receiving of signals.
func (r Relay) Stop() { signal.Stop(r.r.own) }

func (r Relay) Got(sig unix.Signal, now time.Time)        { r.r.got(sig, now) }
func (r Relay) Due(now time.Time, send func(unix.Signal)) { r.r.due(now, send) }
func (r Relay) Asked(sig unix.Signal, grouped bool, now time.Time, send func(unix.Signal)) {
	r.r.asked(sig, grouped, now, send)
}
