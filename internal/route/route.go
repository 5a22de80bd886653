// Package route decides who may reach what. Every inbound asks the same
// function, Table.Decide, before it carries a flow on.
//
// # Theory of operation
//
// A flow is described by its flow.Meta. The rules are asked in this order, and
// the first that refuses ends the flow:
//
//	source       only this host's own addresses, and a sandbox, may use the TUN
//	             and the listeners in the stack; with Config.Open, every source may
//	published    connections to published ports go to the sandbox's own addresses
//	own          no flow leads back to a listener of netstackd
//	internal     netstackd's own flows (DNS queries, dials of an upstream) go
//	             anywhere else
//	loopback     127.0.0.0/8, ::1, 0.0.0.0 and :: of this host are for sources
//	             that are this host
//	IPv6         Config.NoIPv6
//	local net    Config.BlockLAN
//	allow list   Config.Allow
//
// An inbound that has only the source yet, such as an accepted connection
// before its request, leaves Dest and Name empty: the source alone is judged.
// An inbound that has only a name has the name judged as far as it stands for an
// address. When the name has been looked up, each of its addresses is judged
// (PermitAddr), and those that are refused are not dialed.
//
// An upstream looks names up itself. One on this host connects to this host's
// loopback for a name that leads there, so a name of a source that is not this
// host is looked up here first (SetLookup).
//
// An IPv6 address that carries an IPv4 address (NAT64, 6to4, Teredo) is judged
// by both. Only NAT64 makes an allowed destination of it.
package route

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"netstackd/internal/flow"
)

// Config says what is allowed. The zero value is for a host whose addresses are
// not known: only loopback sources are its own.
type Config struct {
	// Local reports whether a source address is this host's own. Nil = only
	// loopback addresses are.
	Local func(netip.Addr) bool
	// Sandbox are the addresses of a sandboxed command. It uses the TUN, and is
	// not this host, even where this host has the same subnet.
	Sandbox []netip.Prefix
	// Open lets every source use the TUN, such as those behind a gateway.
	Open bool
	// Stack are the addresses by which this host's sockets reach the stack.
	Stack []netip.Addr
	// Probe reports whether a transparent connection to dst is a sandbox's test
	// of itself, which is always allowed. Nil = none is.
	Probe func(dst netip.AddrPort) bool

	NoIPv6   bool           // refuse IPv6 destinations
	BlockLAN bool           // refuse destinations on local networks
	Allow    []netip.Prefix // the only destinations; none = everywhere
}

// Table holds the rules. Its methods may be called concurrently. A nil Table
// allows everything.
type Table struct {
	cfg       Config
	near      Interfaces
	listeners atomic.Pointer[listeners]
	nat64     atomic.Pointer[[]netip.Prefix]
	lookup    atomic.Pointer[func(string) []netip.Addr]
}

// New returns a Table.
func New(cfg Config) *Table { return &Table{cfg: cfg} }

// listeners are netstackd's own on the host.
type listeners struct {
	tcp []netip.AddrPort
	udp func(netip.AddrPort) bool
}

// SetListeners replaces the addresses of netstackd's own listeners on the host,
// to which no flow may lead: the TCP ones, and a function that knows the UDP
// ones, which come and go. Nil = there are none.
func (t *Table) SetListeners(tcp []netip.AddrPort, udp func(netip.AddrPort) bool) {
	t.listeners.Store(&listeners{tcp, udp})
}

// Decision is the answer for one flow.
type Decision struct {
	// Reason says why the flow is refused, in a few words for a log. Empty means
	// that it is allowed.
	Reason string
}

// Allowed reports whether the flow may run.
func (d Decision) Allowed() bool { return d.Reason == "" }

// Err returns nil for an allowed flow, else a *RefusedError.
func (d Decision) Err() error {
	if d.Allowed() {
		return nil
	}
	return &RefusedError{d.Reason}
}

// RefusedError is the error of a flow that a rule refuses. It wraps EACCES, by
// which an application sees that it is prohibited.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "route: " + e.Reason }

// Unwrap returns EACCES.
func (e *RefusedError) Unwrap() error { return syscall.EACCES }

// Reasons.
const (
	reasonSource   = "the TUN is for this host's own programs"
	reasonOwn      = "the destination is netstackd itself"
	reasonLoopback = "this host's loopback is for its own programs"
	reasonIPv6     = "IPv6 is off"
	reasonLAN      = "the destination is on a local network"
	reasonAllow    = "the destination is not on the list of allowed ones"
)

// Decide says whether a flow may run. It does not allocate, and blocks only for
// the function of SetLookup.
func (t *Table) Decide(m *flow.Meta) Decision {
	if t == nil {
		return Decision{}
	}
	if !t.sourceAllowed(m) {
		return Decision{reasonSource}
	}
	dst := m.Dest.Addr()
	if !dst.IsValid() {
		if dst = nameAddr(m.Name); !dst.IsValid() {
			return t.decideName(m) // no destination yet, or one whose addresses are judged later
		}
	}
	dst = dst.Unmap().WithZone("")
	inner, translated := t.embedded(dst)
	if m.Network == "tcp" && t.cfg.Probe != nil && m.Inbound == flow.Transparent && t.cfg.Probe(m.Dest) {
		return Decision{}
	}
	if m.Inbound == flow.Published {
		return Decision{} // its destination is in the sandbox, where no listener of ours is
	}
	if t.own(m, dst) {
		return Decision{reasonOwn}
	}
	if m.Inbound == flow.Internal {
		return Decision{}
	}
	if (loopback(dst) || loopback(inner)) && !t.Local(m.Source.Addr()) {
		return Decision{reasonLoopback}
	}
	if t.cfg.NoIPv6 && dst.Is6() {
		return Decision{reasonIPv6}
	}
	if t.cfg.BlockLAN && t.lan(dst, inner) {
		return Decision{reasonLAN}
	}
	if len(t.cfg.Allow) > 0 && !contains(t.cfg.Allow, dst) && !(translated && contains(t.cfg.Allow, inner)) {
		return Decision{reasonAllow}
	}
	return Decision{}
}

// SetLookup sets how the addresses are found to which an upstream on this host
// connects for a name. The function returns none for a name that it can't look up.
func (t *Table) SetLookup(find func(name string) []netip.Addr) { t.lookup.Store(&find) }

// decideName judges a name that an upstream on this host looks up: by its addresses
// that lead back to this host. The other rules do not know what an upstream does.
func (t *Table) decideName(m *flow.Meta) Decision {
	find := t.lookup.Load()
	if find == nil || m.Name == "" || m.Inbound == flow.Internal || t.Local(m.Source.Addr()) {
		return Decision{}
	}
	to := *m
	to.Name = ""
	for _, a := range (*find)(m.Name) {
		to.Dest = netip.AddrPortFrom(a, m.Dest.Port())
		if d := t.Decide(&to); d.Reason == reasonLoopback || d.Reason == reasonOwn {
			return d
		}
	}
	return Decision{}
}

// Permit is Decide as an error: nil, or a *RefusedError.
func (t *Table) Permit(m *flow.Meta) error { return t.Decide(m).Err() }

// PermitAddr is Permit for one address that the flow's name stands for.
func (t *Table) PermitAddr(m *flow.Meta, dst netip.AddrPort) error {
	to := *m
	to.Name, to.Dest = "", dst
	return t.Permit(&to)
}

// Remote reports whether a source is another host, which is neither this one nor
// a sandbox of it.
func (t *Table) Remote(src netip.Addr) bool {
	return t != nil && !t.Local(src) && !contains(t.cfg.Sandbox, src.Unmap())
}

// sourceAllowed reports whether the flow's source may use its inbound.
func (t *Table) sourceAllowed(m *flow.Meta) bool {
	switch m.Inbound {
	case flow.Transparent, flow.SOCKSStack:
		return t.open() || t.Local(m.Source.Addr())
	case flow.Internal: // the source is that of the DNS query, if any
		return t.open() || !m.Source.IsValid() || t.Local(m.Source.Addr())
	}
	return true
}

func (t *Table) open() bool { return t.cfg.Open || len(t.cfg.Sandbox) > 0 }

// Local reports whether a source is this host, and not a sandbox of it.
func (t *Table) Local(src netip.Addr) bool {
	src = src.Unmap()
	return src.IsLoopback() || t != nil && t.cfg.Local != nil && !contains(t.cfg.Sandbox, src) && t.cfg.Local(src)
}

// own reports whether a destination is a listener of netstackd.
func (t *Table) own(m *flow.Meta, dst netip.Addr) bool {
	if slices.Contains(t.cfg.Stack, dst) {
		return true
	}
	on := t.listeners.Load()
	if on == nil {
		return false
	}
	if m.Network == "udp" { // packets of the TUN have no address of this host
		return on.udp != nil && m.Inbound != flow.Transparent && on.udp(netip.AddrPortFrom(dst, m.Dest.Port()))
	}
	for _, l := range on.tcp {
		if l.Port() == m.Dest.Port() && m.Network == "tcp" && t.answers(l.Addr(), dst) {
			return true
		}
	}
	return false
}

// answers reports whether a listener on address a gets connections to dst.
func (t *Table) answers(a, dst netip.Addr) bool {
	switch dst { // the kernel connects to loopback in their place
	case netip.IPv4Unspecified():
		dst = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		dst = netip.IPv6Loopback()
	}
	if !a.IsUnspecified() {
		return a == dst
	}
	return (a.Is6() || dst.Is4()) && t.Local(dst)
}

// loopback reports whether a connection to a stays on its host. The kernel takes
// an unspecified address for loopback.
func loopback(a netip.Addr) bool { return a.IsLoopback() || a.IsUnspecified() }

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
