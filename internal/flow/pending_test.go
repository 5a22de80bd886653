package flow_test

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/internal/flow"
)

// pend opens a pending flow that closes itself when it is killed, as an owner
// does.
func pend(t *testing.T, r *flow.Registry, src string) *flow.Flow {
	t.Helper()
	f, err := r.OpenPending(flow.Meta{Network: "tcp", Source: netip.MustParseAddrPort(src)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// When all places are taken the oldest pending flow gives way, and one that has
// both its ends never does.
func TestRegistryEvictsPending(t *testing.T) {
	r := flow.NewRegistry(flow.Config{MaxFlows: 4})
	joined := pend(t, r, "10.0.0.1:1")
	if !joined.Establish() {
		t.Fatal("a flow that nothing has evicted")
	}
	oldest, younger := pend(t, r, "10.0.0.1:2"), pend(t, r, "10.0.0.1:3")
	pend(t, r, "10.0.0.1:4")
	pend(t, r, "10.0.0.1:5")
	if !oldest.Evicted() || younger.Evicted() || joined.Evicted() {
		t.Fatalf("oldest evicted %v, younger %v, joined %v", oldest.Evicted(), younger.Evicted(), joined.Evicted())
	}
	if oldest.Establish() {
		t.Error("an evicted flow can still be used")
	}
	oldest.Close()
	if s := r.Stats(); s.Open != 4 || s.Pending != 3 || s.Evicted != 1 || s.Refused != 0 {
		t.Errorf("stats %+v", s)
	}
	for _, info := range r.Flows() {
		if info.ID == oldest.ID() {
			t.Error("an evicted flow is still in the registry")
		}
	}
}

// Flows that are joined keep new ones out, as before.
func TestRegistryLimitWithoutPending(t *testing.T) {
	r := flow.NewRegistry(flow.Config{MaxFlows: 1})
	pend(t, r, "10.0.0.1:1").Begin()
	if _, err := r.OpenPending(flow.Meta{}, nil); !errors.Is(err, flow.ErrLimit) {
		t.Fatalf("%v, want ErrLimit", err)
	}
}

// A source that has all the pending flows that it may have loses its own.
func TestRegistryPendingPerSource(t *testing.T) {
	r := flow.NewRegistry(flow.Config{MaxPendingPerSource: 2})
	other := pend(t, r, "10.0.0.2:1")
	first := pend(t, r, "10.0.0.1:1")
	pend(t, r, "10.0.0.1:2")
	pend(t, r, "10.0.0.1:3")
	if other.Evicted() || !first.Evicted() {
		t.Errorf("the other source's evicted %v, the source's own oldest %v", other.Evicted(), first.Evicted())
	}
}

// To make room, a pending flow that takes long ends first, then what EvictSession
// finds, then a young pending one.
func TestRegistrySpareOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sessions := 1
		var session *flow.Flow
		r := flow.NewRegistry(flow.Config{MaxFlows: 4, EvictSession: func() bool {
			if sessions == 0 {
				return false
			}
			sessions--
			session.Close()
			return true
		}})
		session, _ = r.Open(flow.Meta{Network: "udp"}, nil)
		slow := pend(t, r, "10.0.0.1:1")
		time.Sleep(time.Second)
		young := pend(t, r, "10.0.0.1:2")
		pend(t, r, "10.0.0.1:3").Begin()
		for i, want := range []struct {
			slow, young bool
			sessions    int
		}{{true, false, 1}, {true, false, 0}, {true, true, 0}} {
			pend(t, r, "10.0.0.1:4").Begin()
			if slow.Evicted() != want.slow || young.Evicted() != want.young || sessions != want.sessions {
				t.Fatalf("step %d: slow %v, young %v, sessions %d", i, slow.Evicted(), young.Evicted(), sessions)
			}
		}
		if _, err := r.OpenPending(flow.Meta{}, nil); !errors.Is(err, flow.ErrLimit) {
			t.Errorf("with nothing to spare: %v", err)
		}
	})
}

// A pending flow that is killed is its owner's to close, and leaves the others.
func TestRegistryKillPending(t *testing.T) {
	r := flow.NewRegistry(flow.Config{})
	f := pend(t, r, "10.0.0.1:1")
	f.Kill()
	if f.Evicted() || r.Len() != 1 {
		t.Errorf("evicted %v, %d open", f.Evicted(), r.Len())
	}
	f.Close()
	if s := r.Stats(); s.Open != 0 || s.Pending != 0 {
		t.Errorf("stats %+v", s)
	}
}
