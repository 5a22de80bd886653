package socks

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"netstackd/queue/admission"
	"netstackd/socks/wire"
)

// Bounds of an HTTP client's requests.
const (
	maxHTTPHeader   = 16 << 10
	httpIdleTimeout = 2 * time.Minute // between two requests
)

// web serves the connections that speak HTTP. net/http parses the requests and
// frames the messages. web is the listener of its http.Server.
//
// A connection holds a place among the handshakes until its first request is
// in and authenticated, and one among the idle connections while it waits for
// a further one. A request in progress counts as the flow that it makes.
type web struct {
	svc   *service
	http  *http.Server
	conns chan net.Conn
	done  chan struct{} // closed when no more connections are taken
	once  sync.Once
	ended atomic.Bool // the drain timeout is over

	open sync.WaitGroup // connections that net/http has
	mu   sync.Mutex
	all  map[*webConn]struct{} // the same
}

func newWeb(svc *service) *web {
	w := &web{svc: svc, conns: make(chan net.Conn), done: make(chan struct{}), all: make(map[*webConn]struct{})}
	w.http = &http.Server{
		Handler:                      w,
		ReadHeaderTimeout:            svc.cfg.HandshakeTimeout,
		IdleTimeout:                  httpIdleTimeout,
		MaxHeaderBytes:               maxHTTPHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0),
		// Requests end with the drain, hijacked ones too.
		BaseContext: func(net.Listener) context.Context { return svc.drain.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, webConnKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) { c.(*webConn).changed(state) },
	}
	return w
}

type webConnKey struct{}

// serve runs until ctx has ended and what was in progress is over.
func (w *web) serve(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { w.http.Serve(w) })
	<-ctx.Done()
	w.Close()
	w.closeWaiting()
	w.http.Shutdown(w.svc.drain.ctx)
	w.ended.Store(true)
	w.http.Close()
	wg.Wait()
	w.open.Wait()
}

// closeWaiting ends the connections that have no request in progress.
func (w *web) closeWaiting() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.all {
		if c.waiting.Load() {
			c.Conn.Close()
		}
	}
}

// Accept gives net/http the next connection, for net.Listener.
func (w *web) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.done:
		return nil, net.ErrClosed
	}
}

// Close is there for net.Listener.
func (w *web) Close() error {
	w.once.Do(func() { close(w.done) })
	return nil
}

// Addr is there for net.Listener.
func (w *web) Addr() net.Addr { return wire.Addr{Name: "http"} }

// take passes a connection on to net/http.
func (w *web) take(c *client) {
	c.conn.SetDeadline(noDeadline)
	own := *c // the original ends with its goroutine
	own.protocol, own.in = HTTP, nil
	wc := &webConn{Conn: c.conn, prefix: c.in.rest(), client: &own, web: w, place: c.place}
	c.place = nil
	wc.waiting.Store(true)
	w.open.Add(1)
	w.mu.Lock()
	w.all[wc] = struct{}{}
	w.mu.Unlock()
	if !wc.place.OnEvict(wc.evict) {
		wc.evict()
	}
	select {
	case w.conns <- wc:
	case <-w.done:
		wc.Conn.Close()
		wc.release()
	}
}

// webConn is a client's connection while net/http has it.
type webConn struct {
	net.Conn
	prefix  []byte
	client  *client
	web     *web
	waiting atomic.Bool // for a request
	once    sync.Once

	// These belong to net/http's goroutine of the connection.
	place    *admission.Place // among the handshakes or the idle ones, while waiting
	hijacked bool
	forward  *forwarder // of plain requests; made by the first
}

// changed is called when the state of the connection in net/http changes.
func (c *webConn) changed(state http.ConnState) {
	switch state {
	case http.StateActive: // the header of a request was read, or reading it failed
		c.waiting.Store(false)
	case http.StateIdle:
		c.waiting.Store(true)
		c.place, _ = c.web.svc.idle.Enter(c.client.src.Addr(), c.evict)
	case http.StateHijacked:
		c.hijacked = true
	case http.StateClosed:
		c.release()
	}
}

// evict ends a connection that waits for a request.
func (c *webConn) evict() { c.Conn.Close() }

func (c *webConn) Read(b []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(b, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// release is called when the goroutine of the connection ends: that of net/http or,
// after a hijack, ours.
func (c *webConn) release() {
	c.once.Do(func() {
		c.place.Leave()
		if c.forward != nil {
			c.forward.close()
		}
		c.web.mu.Lock()
		delete(c.web.all, c)
		c.web.mu.Unlock()
		c.web.open.Done()
	})
}

// Close closes the connection so that the last answer arrives; net/http would sleep
// for that. An idle client has received its answers.
func (c *webConn) Close() error {
	if c.waiting.Load() || c.web.ended.Load() {
		c.Conn.Close()
	} else {
		closeAfterReply(c.Conn)
	}
	return nil
}

// ServeHTTP serves one request.
func (w *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	wc := r.Context().Value(webConnKey{}).(*webConn)
	defer func() {
		if wc.hijacked { // net/http has nothing more to do with it
			wc.release()
		}
	}()
	if w.svc.cfg.Auth != nil {
		user, ok := w.authenticate(wc.client, r)
		if !ok {
			w.svc.stats.badAuth.Add(1)
			// An open connection would let the client guess again without a handshake.
			rw.Header().Set("Connection", "close")
			rw.Header().Set("Proxy-Authenticate", `Basic realm="`+w.svc.cfg.Name+`", charset="UTF-8"`)
			http.Error(rw, "proxy authentication required", http.StatusProxyAuthRequired)
			return
		}
		wc.client.user = user
	}
	wc.place.Leave()
	if r.Method == http.MethodConnect {
		w.connect(wc, rw, r)
		return
	}
	wc.plain(rw, r)
}

// authenticate checks Proxy-Authorization (RFC 7617).
func (w *web) authenticate(c *client, r *http.Request) (user string, ok bool) {
	scheme, value, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", false
	}
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil {
		return "", false
	}
	user, pass, found := strings.Cut(string(text), ":")
	ctx, cancel := context.WithTimeout(r.Context(), w.svc.cfg.HandshakeTimeout)
	defer cancel()
	if !found || !w.svc.cfg.Auth.VerifyFrom(ctx, c.src.Addr(), wire.UserPass{User: user, Pass: pass}) {
		return "", false
	}
	return user, true
}

// connect serves CONNECT: it takes the connection back from net/http and serves it
// as client.connect does.
func (w *web) connect(wc *webConn, rw http.ResponseWriter, r *http.Request) {
	dst, err := wire.ParseHostPort(r.Host)
	if err == nil {
		err = dst.Check()
	}
	if err != nil || r.ContentLength != 0 {
		http.Error(rw, "CONNECT needs host:port and no body", http.StatusBadRequest)
		return
	}
	_, buf, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	early := buffered(buf)
	c := wc.client
	ctx, cancel := context.WithCancelCause(w.svc.drain.ctx)
	defer cancel(nil)
	wc.Conn.SetDeadline(noDeadline)
	c.cancel = cancel
	c.conn = withPrefix(wc.Conn, append(early, wc.prefix...))
	c.in = newReader(c.conn)
	defer func() { c.in.free() }()
	c.answer = c.answerHTTP
	c.connect(ctx, dst)
}

// buffered returns what net/http had read ahead.
func buffered(buf *bufio.ReadWriter) []byte {
	n := buf.Reader.Buffered()
	if n == 0 {
		return nil
	}
	b := make([]byte, n)
	io.ReadFull(buf.Reader, b)
	return b
}

// answerHTTP is the reply to CONNECT.
func (c *client) answerHTTP(b []byte, r wire.Reply, _ netip.AddrPort, cause error) []byte {
	if r == wire.ReplySucceeded {
		return append(b, "HTTP/1.1 200 Connection established\r\n\r\n"...)
	}
	status, proxyStatus := httpStatus(cause)
	text := reason(r, cause) + "\n"
	return fmt.Appendf(b, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"+
		"Proxy-Status: %s; error=%s\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(text), c.cfg.Name, proxyStatus, text)
}

// reason returns why a request failed, for the client. It leaves out the error's
// text, which could reveal something about the host.
func reason(r wire.Reply, cause error) string {
	if is(cause, ErrLimit) {
		return "no more flows are taken"
	}
	return r.String()
}

// httpStatus translates the cause of a failure into a status code and the
// error type of RFC 9209.
func httpStatus(err error) (status int, proxyStatus string) {
	switch r := ReplyFor(err); {
	case is(err, ErrLimit):
		return http.StatusServiceUnavailable, "connection_limit_reached"
	case r == wire.ReplyNotAllowed:
		return http.StatusForbidden, "destination_ip_prohibited"
	case r == wire.ReplyTTLExpired:
		return http.StatusGatewayTimeout, "connection_timeout"
	case r == wire.ReplyConnectionRefused:
		return http.StatusBadGateway, "connection_refused"
	case isDNS(err):
		return http.StatusBadGateway, "dns_error"
	case r == wire.ReplyHostUnreachable:
		return http.StatusBadGateway, "destination_unavailable"
	case r == wire.ReplyNetworkUnreachable, r == wire.ReplyAddressType:
		return http.StatusBadGateway, "destination_ip_unroutable"
	}
	return http.StatusBadGateway, "proxy_internal_error"
}
