package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// row is one line of the table.
type row struct {
	name  string
	about string // the load, for --list
	short bool   // part of --short
	flags []string
	// gateway has clients on C, too, that are routed through A.
	gateway bool
	// paths, if not nil, replaces the usual ones: TCP over IPv4 and IPv6, and
	// SOCKS on the host.
	paths func(n *network) []path
	wire  impaired
	files int  // netstackd's limit of open files, 0 = ours
	race  bool // the program is the one built with -race
	// bulk lets the flow go as fast as it can. Its rate is then compared with
	// that before the load, else with its pace.
	bulk bool
	// prepare, if set, runs before netstackd starts, and after once all traffic
	// has ended.
	prepare func(ctx context.Context, r *run) error
	after   func(r *run, ctx context.Context)
	// load puts the load on and returns when it is off again. ctx ends after
	// window.
	load   func(ctx context.Context, r *run) error
	window time.Duration // 0 is windowDefault
	expect expect
}

// expect is where a row differs from the common expectations.
type expect struct {
	conns   float64       // the share of new connections that succeed; 0 is connsDefault, -1 doesn't ask
	rate    float64       // the flow's, of what it should be; 0 is rateDefault, -1 doesn't ask
	timeout time.Duration // of a new connection; 0 is timeoutDefault
	breaks  bool          // flows may end early, with an error
	own     bool          // the load looks after netstackd's end by itself
}

// What is expected where a row doesn't say otherwise.
const (
	windowDefault  = 5 * time.Second
	connsDefault   = 0.95
	rateDefault    = 0.80
	timeoutDefault = 4 * time.Second
	backWithin     = 5 * time.Second // after the load, new connections succeed again
	endsWithin     = drain + time.Second
	flowPace       = 8 << 20 // bytes a second, each way
	beforeLoad     = 1200 * time.Millisecond
)

// The expectations that most rows have in common, as the table says them.
const (
	ofItsPace = "of its pace"
	wantBytes = "every byte"
	wantWell  = "well ≤ 5 s after"
	wantEnd   = "ends ≤ 3 s after SIGTERM and leaves nothing"
)

func wantConns(share float64) string { return fmt.Sprintf("new connections ≥ %.0f %%", share*100) }

func wantRate(share float64, of string) string {
	return fmt.Sprintf("flow ≥ %.0f %% %s", share*100, of)
}

// usual are those of a row that says nothing.
func usual() []string {
	return []string{wantConns(connsDefault), wantRate(rateDefault, ofItsPace), wantBytes, wantWell, wantEnd}
}

// run is a row that runs.
type run struct {
	row
	options    options
	net        *network
	daemon     *daemon
	upstream   *upstream
	stream     *stream
	goroutines int // of a fresh netstackd, where prepare counts them
	flows      []*flow
	expected   []string
	got        []string
	notes      []string
	failed     bool
}

// check adds one thing that was expected, what was found instead of it, and
// whether that is all right.
func (r *run) check(ok bool, want, got string, args ...any) {
	got = fmt.Sprintf(got, args...)
	if !ok {
		got += " (!)"
		r.failed = true
	}
	if want != "" {
		r.expected = append(r.expected, want)
	}
	r.got = append(r.got, got)
}

// note adds a line that is printed if the row fails.
func (r *run) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// execute runs a row.
func (row row) execute(ctx context.Context, o options) result {
	began := time.Now()
	r := &run{row: row, options: o}
	if err := r.all(ctx); err != nil {
		r.check(false, "", "%v", err)
	}
	verdict := verdictOK
	if r.failed {
		verdict = verdictFailed
	}
	return result{r.name, r.expected, r.got, verdict, r.notes, time.Since(began).Seconds()}
}

func (r *run) all(ctx context.Context) (err error) {
	if err := awaitMemory(ctx); err != nil {
		return err
	}
	if r.net, err = newNetwork(r.wire); err != nil {
		return fmt.Errorf("the network: %w", err)
	}
	defer r.net.close()
	if err := r.net.await(ctx); err != nil {
		return err
	}
	if r.prepare != nil {
		if err := r.prepare(ctx, r); err != nil {
			return err
		}
	}
	if err := r.start(ctx); err != nil {
		return err
	}
	defer func() {
		if r.failed || err != nil {
			r.note("netstackd said: %s", r.daemon.Output())
		}
		r.daemon.Kill()
	}()
	health, stop := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer stop()
	flows, stopFlows := context.WithCancel(health)
	defer stopFlows()
	var flowTasks sync.WaitGroup
	r.beginHealth(health, flows, &tasks, &flowTasks)
	marks := r.sequence(ctx)
	stopFlows()
	flowTasks.Wait()
	stop()
	tasks.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.verdict(ctx, marks)
	return nil
}

// start starts netstackd with the row's flags.
func (r *run) start(ctx context.Context) (err error) {
	program := r.options.program
	if r.race {
		program = r.options.race
	}
	r.daemon, err = startDaemon(ctx, r.net.a, program, r.row.files, r.allFlags())
	return err
}

// allFlags are the row's and those of every row.
func (r *run) allFlags() []string {
	flags := []string{"--drain", drain.String(), "--route", prefixServed4, "--route", prefixServed6, "--route", prefixSilent4}
	if r.gateway {
		flags = append(flags, "--gateway")
	}
	return append(flags, r.flags...)
}

// usualPaths are those of a row that has none of its own.
func (r *run) usualPaths() []path {
	if r.row.paths != nil {
		return r.row.paths(r.net)
	}
	paths := []path{
		{name: "IPv4", from: r.net.a},
		{name: "IPv6", from: r.net.a, ipv6: true},
		{name: "SOCKS", from: r.net.a, socks: netip.MustParseAddrPort("127.0.0.1:1080")},
	}
	if r.gateway {
		paths = append(paths, path{name: "LAN client", from: r.net.c}, path{name: "LAN client, IPv6", from: r.net.c, ipv6: true})
	}
	return paths
}

// beginHealth starts what runs beside the load: the stream on all paths, and a
// flow on the first one and on the last.
func (r *run) beginHealth(ctx, flows context.Context, tasks, flowTasks *sync.WaitGroup) {
	paths := r.usualPaths()
	timeout := r.expect.timeout
	if timeout == 0 {
		timeout = timeoutDefault
	}
	r.stream = &stream{paths: paths, timeout: timeout}
	tasks.Go(func() { r.stream.run(ctx) })
	pace := int64(flowPace)
	if r.bulk {
		pace = 0
	}
	ends := []path{paths[0]}
	if len(paths) > 1 && !r.bulk {
		ends = append(ends, paths[len(paths)-1])
	}
	for _, p := range ends {
		f := &flow{path: p, pace: pace}
		r.flows = append(r.flows, f)
		flowTasks.Go(func() { f.run(flows) })
	}
}

// sequence is the row's course of events.
func (r *run) sequence(ctx context.Context) (m marks) {
	pause(ctx, 300*time.Millisecond) // connections are made
	m.began, m.bytes[0] = time.Now(), r.carried()
	pause(ctx, beforeLoad)
	m.on, m.bytes[1] = time.Now(), r.carried()
	noted := r.noteRates()
	window := r.window
	if window == 0 {
		window = windowDefault
	}
	under, cancel := context.WithTimeout(ctx, window)
	m.err = r.load(under, r)
	cancel()
	m.off, m.bytes[2] = time.Now(), r.carried()
	noted()
	r.noteStalled(ctx)
	for ctx.Err() == nil && time.Since(m.off) < backWithin+2*time.Second {
		if _, ok := r.stream.recovered(m.off); ok {
			break
		}
		pause(ctx, 100*time.Millisecond)
	}
	m.end = time.Now()
	return m
}

// controlRows have no load: what fails here is no load's fault.
func controlRows() []row {
	nothing := func(ctx context.Context, _ *run) error {
		<-ctx.Done()
		return nil
	}
	return []row{
		{name: "control/no load", about: "nothing", short: true, load: nothing},
		{name: "control/no load, LAN", about: "nothing", gateway: true, load: nothing},
	}
}

// allRows are the table, a family a file.
func allRows(soak time.Duration) []row {
	return slices.Concat(controlRows(), floodRows(), malformedRows(), handshakeRows(), stallRows(), resourceRows(), upstreamRows(), lifeRows(), impairRows(), soakRows(soak))
}
