package socks

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"netstackd/socks/wire"
)

// HTTPClient dials through an HTTP proxy by CONNECT (RFC 9110 §9.3.6), for TCP. It
// is an Upstream.
type HTTPClient struct{ tcpClient }

// NewHTTPClient returns a client of the HTTP proxy at host:port, dialed through
// next; nil = the host's own network.
func NewHTTPClient(address string, next ContextDialer, cfg ClientConfig) *HTTPClient {
	c := &HTTPClient{tcpClient{upstream: newUpstream("http", address, next, cfg)}}
	c.handshake = c.connectHTTP
	return c
}

// HTTPError is an HTTP proxy's refusal. It wraps the syscall.Errno that the
// status means, or that a Proxy-Status header field (RFC 9209) says.
type HTTPError struct {
	Status int    // HTTP status code
	Type   string // error type of Proxy-Status; often empty
}

func (e *HTTPError) Error() string {
	text := "socks: proxy says: " + strconv.Itoa(e.Status) + " " + http.StatusText(e.Status)
	if e.Type != "" {
		text += " (" + e.Type + ")"
	}
	return text
}

// Unwrap returns the matching error, or nil when there is none.
func (e *HTTPError) Unwrap() error {
	switch e.Type {
	case "connection_refused":
		return syscall.ECONNREFUSED
	case "connection_timeout", "dns_timeout":
		return syscall.ETIMEDOUT
	case "destination_ip_unroutable":
		return syscall.ENETUNREACH
	case "dns_error", "destination_unavailable", "destination_not_found":
		return syscall.EHOSTUNREACH
	case "destination_ip_prohibited", "http_request_denied":
		return syscall.EACCES
	}
	switch e.Status {
	case http.StatusProxyAuthRequired:
		return ErrAuth
	case http.StatusForbidden:
		return syscall.EACCES
	case http.StatusBadGateway:
		return syscall.EHOSTUNREACH
	case http.StatusGatewayTimeout:
		return syscall.ETIMEDOUT
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return syscall.EOPNOTSUPP
	}
	return nil
}

// connectHTTP asks for dst and returns what came after the answer.
func (c *HTTPClient) connectHTTP(conn net.Conn, dst wire.Addr) ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n", dst)
	if c.cfg.Auth != (wire.UserPass{}) {
		pair := c.cfg.Auth.User + ":" + c.cfg.Auth.Pass
		b.WriteString("Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) + "\r\n")
	}
	b.WriteString("\r\n")
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return nil, err
	}
	// The limit is on the header alone: what is beyond it stays unread.
	from := &endReader{Reader: conn}
	limited := &io.LimitedReader{R: from, N: maxHTTPHeader}
	br := bufio.NewReaderSize(limited, 1024)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	switch {
	case err == nil:
	case from.err != nil: // the parser has its own error for the text that it ends
		return nil, from.err
	case limited.N <= 0:
		return nil, fmt.Errorf("socks: an answer of more than %d bytes", maxHTTPHeader)
	default:
		return nil, fmt.Errorf("%w: not HTTP", wire.ErrVersion)
	}
	if resp.StatusCode/100 != 2 {
		return nil, &HTTPError{Status: resp.StatusCode, Type: proxyError(resp.Header.Get("Proxy-Status"))}
	}
	early := make([]byte, br.Buffered())
	io.ReadFull(br, early)
	return early, nil
}

// endReader keeps the error that ended its reader.
type endReader struct {
	io.Reader
	err error
}

func (r *endReader) Read(b []byte) (n int, err error) {
	n, err = r.Reader.Read(b)
	if err != nil {
		r.err = err
	}
	return n, err
}

// proxyError finds the error type in a Proxy-Status header field.
func proxyError(field string) string {
	for param := range strings.SplitSeq(field, ";") {
		if name, value, ok := strings.Cut(strings.TrimSpace(param), "="); ok && name == "error" {
			value, _, _ = strings.Cut(value, ",")
			return strings.TrimSpace(value)
		}
	}
	return ""
}
