package socks

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"time"

	"netstackd/socks/wire"
)

func isDNS(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns)
}

// forwarder carries the plain (absolute-URI) requests of one client
// connection. It does not share its connections to servers with other clients: a
// server may have authenticated such a connection.
type forwarder struct {
	client    *client
	transport *http.Transport
	proxy     *httputil.ReverseProxy
}

// plain serves a request with an absolute URI.
func (c *webConn) plain(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Scheme != "http" || r.URL.Host == "" {
		http.Error(rw, "this is a SOCKS and HTTP proxy: ask for http://host/path, or CONNECT host:port",
			http.StatusBadRequest)
		return
	}
	if c.forward == nil {
		c.forward = newForwarder(c.client)
	}
	c.client.stats.requests.Add(1)
	c.forward.proxy.ServeHTTP(rw, r)
}

func newForwarder(c *client) *forwarder {
	f := &forwarder{client: c}
	f.transport = &http.Transport{
		DialContext:            f.dial,
		DisableCompression:     true, // the client's own Accept-Encoding passes through
		MaxIdleConnsPerHost:    1,    // a client connection asks one thing at a time
		MaxIdleConns:           4,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 4 * maxHTTPHeader,
	}
	f.proxy = &httputil.ReverseProxy{
		Rewrite:      f.rewrite,
		Transport:    f.transport,
		ErrorHandler: f.failed,
		ErrorLog:     c.web.http.ErrorLog,
	}
	return f
}

// rewrite makes the outbound request. ReverseProxy has already taken the
// hop-by-hop header fields out; a forward proxy does not change the others.
func (f *forwarder) rewrite(p *httputil.ProxyRequest) {
	for _, k := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := p.In.Header[k]; ok {
			p.Out.Header[k] = v
		}
	}
	p.Out.URL.RawQuery = p.In.URL.RawQuery // ReverseProxy drops what Go can't parse
	p.Out.Header.Add("Via", "1.1 "+f.client.cfg.Name)
}

func (f *forwarder) close() { f.transport.CloseIdleConnections() }

// failed answers a request whose server could not be reached.
func (f *forwarder) failed(rw http.ResponseWriter, r *http.Request, err error) {
	f.client.stats.failed.Add(1)
	f.client.log("refused", r.URL.Host, err)
	status, proxyStatus := httpStatus(err)
	rw.Header().Set("Proxy-Status", f.client.cfg.Name+"; error="+proxyStatus)
	http.Error(rw, reason(ReplyFor(err), err), status)
}

// dial opens the flow of one outbound connection.
func (f *forwarder) dial(ctx context.Context, _, address string) (net.Conn, error) {
	c := f.client
	dst, err := wire.ParseHostPort(address)
	if err == nil {
		err = dst.Check()
	}
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn := &flowConn{}
	r := c.describe(wire.Connect, dst)
	if conn.flow, err = c.open(&r, func() { cancel(errKilled) }); err != nil {
		return nil, err
	}
	conn.Conn, err = c.dialer(&r).DialContext(ctx, "tcp", dst.String())
	if err != nil {
		conn.flow.Close()
		return nil, evicted(conn.flow, err)
	}
	if !conn.flow.Establish() {
		abort(conn)
		return nil, errEvicted
	}
	conn.flow.OnKill(func() { abort(conn) })
	return conn, nil
}

// flowConn is an outbound connection that counts as a flow until it is closed.
type flowConn struct {
	net.Conn
	flow   Flow
	closed atomic.Bool
}

func (c *flowConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.flow.AddDown(int64(n))
	return n, err
}

func (c *flowConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.flow.AddUp(int64(n))
	return n, err
}

// SetLinger makes Close send a reset.
func (c *flowConn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

func (c *flowConn) Close() error {
	err := c.Conn.Close()
	if c.closed.CompareAndSwap(false, true) {
		c.flow.Close()
	}
	return err
}
