package flow_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/internal/flow"
)

func TestRegistryLimit(t *testing.T) {
	r := flow.NewRegistry(flow.Config{MaxFlows: 2})
	a, err := r.Open(flow.Meta{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(flow.Meta{}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(flow.Meta{}, nil); !errors.Is(err, flow.ErrLimit) {
		t.Fatalf("third flow: %v, want ErrLimit", err)
	}
	a.Close()
	a.Close() // idempotent: must not free a second place
	if _, err := r.Open(flow.Meta{}, nil); err != nil {
		t.Fatalf("after a close: %v", err)
	}
	if _, err := r.Open(flow.Meta{}, nil); !errors.Is(err, flow.ErrLimit) {
		t.Fatalf("limit no longer holds: %v", err)
	}
	if s := r.Stats(); s.Open != 2 || s.Opened != 3 || s.Refused != 2 {
		t.Fatalf("stats %+v", s)
	}
}

func TestRegistryReclaim(t *testing.T) {
	var spare []*flow.Flow
	r := flow.NewRegistry(flow.Config{MaxFlows: 2, EvictSession: func() bool {
		if len(spare) == 0 {
			return false
		}
		spare[0].Close()
		spare = spare[1:]
		return true
	}})
	for range 2 {
		f, err := r.Open(flow.Meta{Network: "udp"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		spare = append(spare, f)
	}
	for range 2 {
		if _, err := r.Open(flow.Meta{Network: "tcp"}, nil); err != nil {
			t.Fatalf("with flows to spare: %v", err)
		}
	}
	if _, err := r.Open(flow.Meta{Network: "tcp"}, nil); !errors.Is(err, flow.ErrLimit) {
		t.Fatalf("with none to spare: %v, want ErrLimit", err)
	}
	if s := r.Stats(); s.Open != 2 || s.Opened != 4 || s.Refused != 1 {
		t.Fatalf("stats %+v", s)
	}
}

func TestRegistryLimitPerSource(t *testing.T) {
	r := flow.NewRegistry(flow.Config{MaxPerSource: 1})
	from := func(in flow.Inbound, src string) (*flow.Flow, error) {
		return r.Open(flow.Meta{Inbound: in, Source: netip.MustParseAddrPort(src)}, nil)
	}
	a, err := from(flow.SOCKSHost, "10.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from(flow.SOCKSStack, "[::ffff:10.0.0.1]:2"); !errors.Is(err, flow.ErrLimit) {
		t.Fatalf("second of one client: %v, want ErrLimit", err)
	}
	if _, err := from(flow.SOCKSHost, "10.0.0.2:1"); err != nil {
		t.Fatalf("another client: %v", err)
	}
	for range 3 {
		if _, err := from(flow.Transparent, "10.0.0.1:1"); err != nil {
			t.Fatalf("transparent: %v", err)
		}
	}
	a.Close()
	if _, err := from(flow.SOCKSHost, "10.0.0.1:3"); err != nil {
		t.Fatalf("after a close: %v", err)
	}
}

// Another host has at most half of all flows, transparent or not; this host has
// as many transparent ones as there are.
func TestRegistryLimitRemote(t *testing.T) {
	other := netip.MustParseAddr("192.0.2.7")
	r := flow.NewRegistry(flow.Config{MaxFlows: 8, Remote: func(a netip.Addr) bool { return a == other }})
	from := func(in flow.Inbound, src netip.Addr) (*flow.Flow, error) {
		return r.Open(flow.Meta{Inbound: in, Source: netip.AddrPortFrom(src, 1)}, nil)
	}
	var held []*flow.Flow
	for i := range 4 {
		f, err := from([]flow.Inbound{flow.Transparent, flow.SOCKSHost}[i%2], other)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
	}
	for _, in := range []flow.Inbound{flow.Transparent, flow.SOCKSHost} {
		if _, err := from(in, other); !errors.Is(err, flow.ErrPerSource) || !errors.Is(err, flow.ErrLimit) {
			t.Errorf("%v: a fifth of 8: %v, want ErrPerSource", in, err)
		}
	}
	for range 4 {
		if _, err := from(flow.Transparent, netip.MustParseAddr("192.0.2.1")); err != nil {
			t.Fatalf("this host: %v", err)
		}
	}
	if _, err := from(flow.Transparent, netip.MustParseAddr("192.0.2.1")); errors.Is(err, flow.ErrPerSource) || !errors.Is(err, flow.ErrLimit) {
		t.Errorf("a ninth of 8: %v", err)
	}
	held[0].Close()
	if _, err := from(flow.Transparent, other); err != nil {
		t.Errorf("after one of its own has ended: %v", err)
	}
}

func TestRegistryCountersAndKill(t *testing.T) {
	r := flow.NewRegistry(flow.Config{})
	killed := 0
	m := flow.Meta{Network: "tcp", Source: netip.MustParseAddrPort("10.0.0.1:5"), Dest: netip.MustParseAddrPort("10.0.0.2:80")}
	f, err := r.Open(m, func() { killed++ })
	if err != nil {
		t.Fatal(err)
	}
	f.AddUp(3)
	f.AddDown(4)
	infos := r.Flows()
	if len(infos) != 1 || infos[0].Up != 3 || infos[0].Down != 4 || infos[0].Meta != m || infos[0].ID != f.ID() {
		t.Fatalf("flows %+v", infos)
	}
	if !r.Kill(f.ID()) || killed != 1 {
		t.Fatalf("killed %d times", killed)
	}
	f.Close()
	if r.Kill(f.ID()) || killed != 1 {
		t.Fatal("a closed flow was killed")
	}
	if s := r.Stats(); s.Up != 3 || s.Down != 4 || s.Open != 0 {
		t.Fatalf("stats %+v", s)
	}
}

func TestFlowOnKill(t *testing.T) {
	r := flow.NewRegistry(flow.Config{})
	first, second := 0, 0
	f, _ := r.Open(flow.Meta{}, func() { first++ })
	f.Kill()
	f.OnKill(func() { second++ }) // the new owner learns of the kill it missed
	if first != 1 || second != 1 {
		t.Fatalf("killed %d and %d times", first, second)
	}
	f.Close()
	f.Kill()
	if second != 1 {
		t.Fatal("a closed flow was killed")
	}
}

func TestRegistryDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := flow.NewRegistry(flow.Config{})
		var stubborn, polite *flow.Flow
		stubborn, _ = r.Open(flow.Meta{Network: "tcp"}, func() { go stubborn.Close() })
		polite, _ = r.Open(flow.Meta{Network: "tcp"}, nil)
		go func() {
			time.Sleep(time.Second)
			polite.Close()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if err := r.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("drain: %v", err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Fatalf("drained after %v", took)
		}
		if _, err := r.Open(flow.Meta{}, nil); !errors.Is(err, flow.ErrDraining) {
			t.Fatalf("open while draining: %v", err)
		}
	})
}

func TestRegistryConcurrent(t *testing.T) {
	r := flow.NewRegistry(flow.Config{MaxFlows: 50})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				if f, err := r.Open(flow.Meta{}, nil); err == nil {
					f.Close()
				}
			}
		})
	}
	wg.Wait()
	if s := r.Stats(); s.Open != 0 || s.Opened+s.Refused != 4000 {
		t.Fatalf("stats %+v", s)
	}
	if err := r.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Flows that are killed while they change owner or close are killed once by
// their owner, or not at all, and the registry ends up empty.
func TestFlowKillRaces(t *testing.T) {
	r := flow.NewRegistry(flow.Config{})
	for range 300 {
		var kills [2]atomic.Int32
		f, err := r.Open(flow.Meta{}, func() { kills[0].Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { r.Kill(f.ID()) })
		wg.Go(func() { f.OnKill(func() { kills[1].Add(1) }) })
		wg.Wait()
		if kills[1].Load() == 0 {
			t.Fatal("the new owner missed the kill")
		}
		wg.Go(f.Close)
		wg.Go(f.Kill)
		wg.Go(f.Close)
		wg.Wait()
		if r.Len() != 0 {
			t.Fatalf("%d flows open", r.Len())
		}
	}
}

func TestRegistryChangedAndSetLimit(t *testing.T) {
	var seen []int
	r := flow.NewRegistry(flow.Config{Changed: func(n int) { seen = append(seen, n) }})
	a, _ := r.Open(flow.Meta{}, nil)
	b, _ := r.Open(flow.Meta{}, nil)
	r.SetLimit(1) // below what is open: no flow is killed for it
	if _, err := r.Open(flow.Meta{}, nil); !errors.Is(err, flow.ErrLimit) {
		t.Fatalf("above the limit: %v", err)
	}
	a.Close()
	if _, err := r.Open(flow.Meta{}, nil); !errors.Is(err, flow.ErrLimit) {
		t.Fatalf("at the limit: %v", err)
	}
	b.Close()
	c, err := r.Open(flow.Meta{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	r.Refuse()
	if !slices.Equal(seen, []int{1, 2, 1, 0, 1, 0}) {
		t.Errorf("told of %v flows", seen)
	}
	if st := r.Stats(); st.Refused != 3 || st.Opened != 3 {
		t.Errorf("stats %+v", st)
	}
}

// A flow opened while a drain begins is refused or killed, never forgotten.
func TestRegistryDrainRaces(t *testing.T) {
	for range 200 {
		r := flow.NewRegistry(flow.Config{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				var f *flow.Flow
				opened := make(chan struct{})
				f, err := r.Open(flow.Meta{}, func() {
					go func() {
						<-opened
						f.Close()
					}()
				})
				if err != nil && !errors.Is(err, flow.ErrDraining) {
					t.Error(err)
				}
				close(opened)
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = r.Drain(ctx) // kills at once, and waits
		wg.Wait()
		if r.Len() != 0 {
			t.Fatalf("%d flows survived", r.Len())
		}
	}
}

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
