package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"netstackd/internal/config"
	"netstackd/internal/hostnet"
	"netstackd/internal/netcfg"
)

// loop detects flows that an upstream on this host opens itself. If such a flow is
// captured, netstackd sends it to the upstream, which opens another flow for it,
// and so on without end.
//
// A flow is the upstream's if the socket that it comes from is open in a process
// that holds the upstream's listening socket.
type loop struct {
	host   *netcfg.Host
	via    string           // as the user knows it
	listen []netip.AddrPort // where on this host the upstream listens
	log    *slog.Logger

	mu    sync.Mutex
	procs []netcfg.Process
	read  time.Time // when procs was
	told  time.Time
}

// lookAgain is how old what is known of the upstream's processes may be.
const lookAgain = 2 * time.Second

// newLoop returns nil unless traffic is captured and the first upstream is on
// this host. It fails where the upstream is sure to be captured itself. Of some
// destinations that is not known: an upstream may connect to a server elsewhere.
func newLoop(ctx context.Context, cfg config.Config, host *netcfg.Host, names *hostnet.Dialer, log *slog.Logger) (*loop, error) {
	if len(cfg.Via) == 0 || !cfg.RouteDefault && len(cfg.Route) == 0 {
		return nil, nil
	}
	u := cfg.Via[0]
	l := &loop{host: host, via: u.Scheme + "://" + u.Host, log: log}
	port, err := strconv.ParseUint(u.Port(), 10, 16) // --via has one
	if err != nil {
		return nil, fmt.Errorf("--via %s: %w", l.via, err)
	}
	for _, a := range addressesHere(ctx, u.Hostname(), names.LookupNetIP, host.IsLocal) {
		l.listen = append(l.listen, netip.AddrPortFrom(a, uint16(port)))
	}
	if len(l.listen) == 0 {
		return nil, nil
	}
	everything := slices.ContainsFunc(cfg.Routes(), func(p netip.Prefix) bool { return p.Bits() == 0 })
	if i := slices.IndexFunc(l.processes(), host.Captures); i >= 0 && everything && len(cfg.Exclude) == 0 {
		p := l.procs[i]
		return nil, fmt.Errorf("--via %s: this upstream is on this host (%s, pid %d, uid %d), and what it sends would be captured and come back to it: "+
			"run it as a user of its own and add --exclude-uid, or --exclude-cgroup, or --exclude with where it connects to", l.via, p.Name, p.PID, p.UID)
	}
	return l, nil
}

// processes are those of the upstream. The caller may not change them.
func (l *loop) processes() []netcfg.Process {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.read.IsZero() && time.Since(l.read) < lookAgain {
		return l.procs
	}
	l.read, l.procs = time.Now(), nil
	for _, at := range l.listen {
		anywhere := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
		if at.Addr().Is6() {
			anywhere = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		}
		if owner, err := netcfg.SocketOwner("tcp", at, anywhere); err == nil {
			l.procs = append(l.procs, owner.Processes()...)
		}
	}
	return l.procs
}

// closes reports whether the upstream opened a captured flow, and logs a warning
// at most once a minute. A nil loop reports false.
func (l *loop) closes(network string, src, dst netip.AddrPort) bool {
	if l == nil || !l.host.IsLocal(src.Addr()) {
		return false
	}
	owner, err := netcfg.SocketOwner(network, src, dst)
	if err != nil {
		return false
	}
	for _, p := range l.processes() {
		if p.UID == owner.UID && p.Has(owner) {
			l.tell(p)
			return true
		}
	}
	return false
}

func (l *loop) tell(p netcfg.Process) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.told.IsZero() && time.Since(l.told) < faultEvery {
		return
	}
	l.told = time.Now()
	l.log.Warn("what the upstream sends is captured and would come back to it: refused; add --exclude-uid, or --exclude with where it connects to",
		"via", l.via, "process", p.Name, "uid", p.UID)
}

// errLoop is the error for a flow that the upstream itself opened.
func errLoop(network string, dst netip.AddrPort) error {
	return &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(dst), Err: syscall.ECONNREFUSED}
}
