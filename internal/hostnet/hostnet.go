// Package hostnet carries flows on with the host kernel's own sockets.
//
// # Theory of operation
//
// A Dialer opens the outbound side of a flow: TCP by DialContext, UDP by
// ListenPacket (one unconnected socket per mapping, RFC 4787) or DialContext,
// echo requests by ListenPing, and SOCKS BIND by Listen. What sets these
// sockets apart from any other on this host is that they must never be routed
// back into the TUN that their flow came out of. Two things keep them out,
// each applied between socket(2) and the first routing lookup, so that no
// packet can leave without them:
//
//   - a mark (SO_MARK), which a routing rule sends past the TUN's own table;
//   - an interface (SO_BINDTODEVICE): a route by another device, such as the
//     TUN, is then no candidate.
//
// The resolver's sockets are made the same way, so that the lookup of a
// destination's name cannot loop either.
//
// Connections are sockets of the kernel and nothing else, so that relays may
// splice them and forwarders may use their file descriptors. Errors are those
// of package net and keep the errno: errors.Is(err, syscall.ECONNREFUSED).
package hostnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"netstackd/internal/flow"
)

// Config of a Dialer. The zero value dials as any program on this host does.
type Config struct {
	// Mark is the SO_MARK of every socket, 0 for none. It needs CAP_NET_ADMIN.
	Mark uint32
	// Interface is the device that every socket is bound to, "" for none.
	Interface string
	// DialTimeout bounds one DialContext, lookups included; 0 is 10 seconds.
	DialTimeout time.Duration
	// NoIPv6 refuses IPv6 destinations with ENETUNREACH and asks the
	// resolver for IPv4 addresses only.
	NoIPv6 bool
	// KeepAlive is of every TCP connection, dialed or accepted.
	KeepAlive net.KeepAliveConfig
	// Nameservers, if set, answers lookups in place of those that
	// /etc/resolv.conf names. It is called for each lookup, so that it may
	// follow changes; an empty answer means /etc/resolv.conf.
	Nameservers func() []netip.AddrPort
	// Permit judges each address that a flow's name stands for. Those for which
	// it returns an error are not dialed; when none is left, the error is that
	// of the dial. Literal addresses are not asked about. Nil permits all.
	Permit func(m *flow.Meta, dst netip.AddrPort) error
	// Evict is called when a dial finds no free descriptor. It ends something that
	// has one, and reports whether there was anything to end. Nil evicts nothing.
	Evict func() bool
}

const defaultDialTimeout = 10 * time.Second

// Dialer makes outbound sockets. Its methods may be called concurrently.
type Dialer struct {
	cfg      Config
	dialer   net.Dialer
	listen   net.ListenConfig
	resolver *net.Resolver
}

// New returns a Dialer. It opens nothing: a mark or an interface that the
// process may not use shows at the first socket; see Check.
func New(cfg Config) *Dialer {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	d := &Dialer{cfg: cfg}
	d.resolver = &net.Resolver{PreferGo: true, Dial: d.dialNameserver}
	d.dialer = net.Dialer{
		Timeout:         cfg.DialTimeout,
		Resolver:        d.resolver,
		KeepAlive:       -1, // package net's own default
		KeepAliveConfig: cfg.KeepAlive,
		Control:         d.control,
	}
	d.listen = net.ListenConfig{Control: d.control, KeepAlive: -1, KeepAliveConfig: cfg.KeepAlive}
	d.listen.SetMultipathTCP(false) // accepted connections must be ones that splice(2) takes
	return d
}

// Check makes and closes one socket, so that a mark or an interface that can't
// be used is known before the first flow. The error says how to mend it.
func (d *Dialer) Check(ctx context.Context) error {
	c, err := d.listen.ListenPacket(ctx, "udp4", ":0")
	if err != nil {
		return controlError(err)
	}
	return c.Close()
}

// DialContext connects to address, host:port. The network is tcp, tcp4, tcp6,
// udp, udp4 or udp6; the connection is a *net.UDPConn or a *net.TCPConn, or for
// TCP on Linux a *TCPConn, unless the address has a zone. The permitted
// addresses of a name are raced (RFC 8305).
//
// The errors are those of package net: *net.DNSError for a name that has no
// address, the errno of connect(2), or one that errors.Is takes for
// context.DeadlineExceeded when DialTimeout or ctx ran out.
func (d *Dialer) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	return dialEvicting(ctx, d.cfg.Evict, func() (net.Conn, error) {
		return d.DialBy(ctx, m, network, address, d.dialLiteral)
	})
}

// dialLiteral connects to an address whose host is no name, or one that only
// package net knows the meaning of.
func (d *Dialer) dialLiteral(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	var c net.Conn
	var err error
	if dst, ok := literal(network, address); ok {
		c, err = d.dialAddr(ctx, m, network, dst)
	} else {
		c, err = d.dialer.DialContext(ctx, network, address)
	}
	if err != nil {
		return nil, controlError(err)
	}
	return c, nil
}

// literal returns the address that a TCP connection is to go to, unless it is a
// name, or one with more to it.
func literal(network, address string) (netip.AddrPort, bool) {
	dst, err := netip.ParseAddrPort(address)
	if err != nil || dst.Addr().Zone() != "" || dst.Addr().IsUnspecified() {
		return netip.AddrPort{}, false
	}
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	return dst, strings.HasPrefix(network, "tcp") && fits(network, dst.Addr())
}

// fits reports whether a network's name allows the address's family.
func fits(network string, a netip.Addr) bool {
	switch network[len(network)-1] {
	case '4':
		return a.Is4()
	case '6':
		return a.Is6()
	}
	return true
}

// ListenPacket opens one unconnected UDP socket on address, "" for any. The
// network is udp4, udp6 or udp (both, on one socket). Late ICMP
// errors are ignored: a caller that wants them turns on IP_RECVERR and reads the
// error queue, which the kernel else keeps at the cost of the receive buffer.
// Path MTU discovery (IP_MTU_DISCOVER) is left to the caller too. The socket is
// a *net.UDPConn.
func (d *Dialer) ListenPacket(ctx context.Context, _ *flow.Meta, network, address string) (net.PacketConn, error) {
	if address == "" {
		address = ":0"
	}
	if d.cfg.NoIPv6 {
		var err error
		if network, err = onlyIPv4(network, address); err != nil {
			return nil, err
		}
	}
	c, err := d.listen.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, controlError(err)
	}
	if err := enlargeBuffers(c.(*net.UDPConn)); err != nil {
		c.Close()
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	return c, nil
}

// Listen accepts TCP connections on address; they inherit mark and interface.
// It is a *net.TCPListener.
func (d *Dialer) Listen(ctx context.Context, _ *flow.Meta, network, address string) (net.Listener, error) {
	l, err := d.listen.Listen(ctx, network, address)
	if err != nil {
		return nil, controlError(err)
	}
	return l, nil
}

// LookupNetIP returns the addresses of host; network is ip, ip4 or ip6. Its
// queries leave by the same mark and interface as everything else.
func (d *Dialer) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if d.cfg.NoIPv6 {
		if network == "ip6" {
			return nil, &net.DNSError{Err: "IPv6 is off", Name: host, IsNotFound: true}
		}
		network = "ip4"
	}
	return d.resolver.LookupNetIP(ctx, network, host)
}

// onlyIPv4 narrows network to IPv4, or refuses an address that can't be.
func onlyIPv4(network, address string) (string, error) {
	refused := func() error {
		return &net.OpError{Op: "dial", Net: network, Err: syscall.ENETUNREACH}
	}
	switch {
	case strings.HasSuffix(network, "6"):
		return "", refused()
	case strings.HasPrefix(address, "["):
		host, _, err := net.SplitHostPort(address)
		if a, perr := netip.ParseAddr(host); err == nil && perr == nil && !a.Is4In6() {
			return "", refused()
		}
	}
	return strings.TrimSuffix(network, "4") + "4", nil
}

// controlError replaces package net's frame around an error of ours ("dial tcp
// 192.0.2.1:80: …"), since what is wrong then is the flag and not the address.
func controlError(err error) error {
	if se, ok := errors.AsType[*SocketError](err); ok {
		return se
	}
	return err
}
