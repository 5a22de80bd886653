package bench

import (
	"context"
	"encoding/gob"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"netstackd/bench/testbed"

	"golang.org/x/sys/unix"
)

// message is what the lab tells Run.
type message struct {
	Progress *Progress
	Report   *Report
	Error    string
}

// order is what Run tells the lab, once.
type order struct {
	Config Config
	Dir    string // empty, for what programs need
}

// veth joins the hosts, under this name on both.
const veth = "veth0"

// lab is host A, and all that runs on both.
type lab struct {
	cfg    Config
	dir    string
	tell   *gob.Encoder
	report *Report

	server   *agent
	client   *agent // the one on A
	wire     *agent // what joins the hosts in place of a veth, nil if none does
	programs []*runner
	routes   []*route
	round    int // the run under way, from 0
	done     int // measurements, of total
	total    int
}

// route is a Path with what belongs to it.
type route struct {
	Path
	program *runner // nil for the kernel's
	client  *agent
	dest    netip.Addr
	socks   netip.AddrPort
}

// runLab is the lab's process. It works for as long as the connection lasts.
func runLab(conn net.Conn) error {
	defer conn.Close()
	dec := gob.NewDecoder(conn)
	var o order
	if err := dec.Decode(&o); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, conn) // ends with Run
		cancel()
	}()
	l := &lab{cfg: o.Config.withDefaults(), dir: o.Dir, tell: gob.NewEncoder(conn)}
	err := l.run(ctx)
	l.close()
	_ = os.RemoveAll(l.dir) // Run does so too, unless it was killed
	end := message{Report: l.report}
	if err != nil {
		end.Error = err.Error()
	}
	if err := l.tell.Encode(end); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (l *lab) run(ctx context.Context) error {
	if err := testbed.RaiseFiles(); err != nil {
		return err
	}
	l.limitFlows()
	if err := l.connect(ctx); err != nil {
		return err
	}
	for i := range l.cfg.Programs {
		if err := l.add(ctx, l.cfg.Programs[i], i+1); err != nil {
			return err
		}
	}
	return l.measure(ctx)
}

// connect makes host B, and the network.
func (l *lab) connect(ctx context.Context) error {
	var err error
	if l.server, err = startAgent(ctx, true); err != nil {
		return fmt.Errorf("host B: %w", err)
	}
	if l.client, err = startAgent(ctx, false); err != nil {
		return fmt.Errorf("host A: %w", err)
	}
	ports := "net.ipv4.ip_local_port_range=1024 65535"
	sysctls := []string{ports}
	join := fmt.Sprintf("link add %s type veth peer name %s netns %d", veth, veth, l.server.cmd.Process.Pid)
	up := fmt.Sprintf("link set %s up", veth)
	if l.cfg.Delay > 0 || l.cfg.Loss > 0 {
		if err := l.startWire(ctx); err != nil {
			return fmt.Errorf("the wire between the hosts: %w", err)
		}
		// Where one connection got to is not where the next begins.
		sysctls = append(sysctls, "net.ipv4.tcp_no_metrics_save=1")
		join, up = "", fmt.Sprintf("link set %s mtu %d txqueuelen %d up", veth, testbed.WireMTU, testbed.WireQueue)
	}
	if slices.ContainsFunc(l.cfg.Programs, Program.fromTUN) {
		sysctls = append(sysctls, "net.ipv4.ip_forward=1")
	}
	a := Setup{Sysctls: sysctls, IP: strings.Join([]string{
		"link set lo up",
		join,
		"addr add 10.77.0.1/24 dev " + veth,
		up,
		"route add default via 10.77.0.2",
	}, "\n")}
	b := Setup{Sysctls: sysctls, IP: strings.Join([]string{
		"link set lo up",
		"addr add 10.77.0.2/24 dev " + veth,
		up,
		"route add local 10.128.0.0/9 dev lo",
		"route add 198.18.0.0/15 via 10.77.0.1", // what leaves a program's own stack
	}, "\n")}
	if err := a.apply(); err != nil {
		return fmt.Errorf("host A: %w", err)
	}
	if err := l.server.call("Configure", b, &Nothing{}); err != nil {
		return fmt.Errorf("host B: %w", err)
	}
	if err := l.server.call("Serve", Nothing{}, &Nothing{}); err != nil {
		return fmt.Errorf("host B: %w", err)
	}
	l.routes = []*route{{Path: Path{Name: KernelPath}, client: l.client, dest: destPrefix(0).Addr().Next()}}
	return nil
}

// destPrefix is what the i-th program has to carry.
func destPrefix(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 + byte(i)}), 16)
}

// add starts the i-th program. One that doesn't start is left out, and the
// report says why.
func (l *lab) add(ctx context.Context, p Program, i int) error {
	r := &runner{Program: p, client: l.client, dest: destPrefix(i)}
	l.programs = append(l.programs, r)
	for _, path := range p.Paths {
		to := &route{Path: path, program: r, dest: r.dest.Addr().Next()}
		if path.SOCKS != "" {
			socks, err := netip.ParseAddrPort(path.SOCKS)
			if err != nil {
				return fmt.Errorf("%s: %w", path.Name, err)
			}
			to.socks = socks
		}
		l.routes = append(l.routes, to)
	}
	err := l.start(ctx, r)
	if len(l.cfg.Programs) > 1 && ctx.Err() == nil {
		r.failed, err = err, nil
	}
	return err
}

// close ends every process there is.
func (l *lab) close() {
	for _, r := range l.programs {
		r.stop()
	}
	for _, a := range []*agent{l.client, l.server, l.wire} {
		if a != nil {
			a.close()
		}
	}
}

// limitFlows keeps what is held within what a program can open: two sockets a
// flow.
func (l *lab) limitFlows() {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil && lim.Cur < 1<<20 {
		l.cfg.Flows = min(l.cfg.Flows, int(lim.Cur)/2-300)
	}
}

// wait waits, unless the lab is told to end.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
