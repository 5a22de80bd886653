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
