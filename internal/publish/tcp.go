package publish

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"

	"netstackd/internal/flow"
	"netstackd/internal/sys"
)

// tcpPort is one published TCP port.
type tcpPort struct {
	s    *Server
	ln   net.Listener
	port uint16
}

// accept takes connections until the listener closes. An error of accept(2) is
// one connection's (ECONNABORTED) or passes (EMFILE, ENOBUFS): the command and
// its other traffic go on, and what waits in the kernel's backlog is not lost.
func (p *tcpPort) accept(ctx context.Context) {
	var pause pause
	for {
		in, err := p.ln.Accept()
		if err == nil {
			pause = 0
			p.s.serving.Go(func() { p.carry(ctx, in) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if pause == 0 {
			p.s.cfg.Logger.Warn("a published port takes no connections for now", "err", err)
		}
		if !pause.wait(ctx) {
			return
		}
	}
}

// carry joins one connection with the command's server. When the server does not
// take it, the client's is reset, as if the port were closed.
func (p *tcpPort) carry(ctx context.Context, in net.Conn) {
	cfg := &p.s.cfg
	m := flow.Meta{Inbound: flow.Published, Network: "tcp", Dest: netip.AddrPortFrom(cfg.Inside[0], p.port)}
	if a, ok := in.RemoteAddr().(*net.TCPAddr); ok {
		m.Source = a.AddrPort()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var f *flow.Flow
	err := cfg.Permit(&m)
	if err == nil {
		f, err = cfg.Flows.Open(m, cancel)
	}
	if err == nil {
		var out net.Conn
		if out, err = p.dial(ctx); err == nil {
			cfg.Join(f, in, out)
			return
		}
		f.Close()
	}
	cfg.Logger.Debug("publish", "proto", "tcp", "src", m.Source, "dst", m.Dest, "err", err)
	sys.CloseWithReset(in)
}

// dial tries the addresses that the server may listen on.
func (p *tcpPort) dial(ctx context.Context) (c net.Conn, err error) {
	cfg := &p.s.cfg
	for _, addr := range cfg.Inside {
		c, err = cfg.Dial(ctx, "tcp", net.JoinHostPort(addr.String(), strconv.Itoa(int(p.port))))
		if err != nil {
			continue
		}
		if c, ok := c.(*net.TCPConn); ok {
			_ = c.SetKeepAliveConfig(cfg.KeepAlive) // the server may be forwarded on, and vanish
		}
		return c, nil
	}
	return nil, err
}
