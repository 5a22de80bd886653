package socks

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"netstackd/socks/wire"
)

// Via returns a client of the upstreams that the URLs name, one behind the other.
// The first is dialed through next; nil = the host's own network. Each URL is as
// ParseUpstream takes it, or "direct", which adds nothing. Without any, Via returns
// nil. Errors do not repeat credentials.
func Via(next ContextDialer, urls ...string) (Upstream, error) {
	var last Upstream
	for _, raw := range urls {
		if raw == "direct" {
			continue
		}
		u, err := ParseUpstream(raw)
		if err != nil {
			return nil, fmt.Errorf("socks: upstream %w", err)
		}
		last = clientOf(u, next)
		next = last
	}
	return last, nil
}

// clientOf returns the client of a URL that ParseUpstream has taken.
func clientOf(u *url.URL, next ContextDialer) Upstream {
	port := u.Port()
	if port == "" {
		port = defaultPort(u.Scheme)
	}
	server := net.JoinHostPort(u.Hostname(), port)
	var cfg ClientConfig
	cfg.Auth.User = u.User.Username()
	cfg.Auth.Pass, _ = u.User.Password()
	switch u.Scheme {
	case "http":
		return NewHTTPClient(server, next, cfg)
	case "socks4a":
		return NewClient4(server, next, cfg)
	}
	return NewClient(server, next, cfg)
}

// defaultPort returns the port of a URL that names none, or "" if the scheme is
// not that of a proxy.
func defaultPort(scheme string) string {
	switch scheme {
	case "socks5", "socks5h", "socks4a":
		return "1080"
	case "http":
		return "80"
	}
	return ""
}

// ParseUpstream parses an upstream's URL, SCHEME://[USER[:PASSWORD]@]HOST[:PORT].
// The scheme is socks5 or socks5h, which mean the same, since names are always
// left to the upstream; socks4a, which has no password; or http. The error is
// one line without a prefix, and never holds credentials.
func ParseUpstream(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.Scheme == "" {
		return nil, errNotURL // what it holds may be credentials
	}
	shown := u.Scheme + "://" + u.Host
	if strings.Contains(u.Path+u.RawQuery+u.Fragment, "@") {
		return nil, errNotURL // of credentials with a / or the like, the first part is taken for the host
	}
	auth := wire.UserPass{User: u.User.Username()}
	auth.Pass, _ = u.User.Password()
	switch port := defaultPort(u.Scheme); {
	case port == "" && u.User != nil:
		return nil, fmt.Errorf("has an unknown scheme; use %s", schemes)
	case port == "":
		return nil, fmt.Errorf("%q is not the scheme of a proxy; use %s", u.Scheme+"://", schemes)
	case u.Hostname() == "":
		return nil, fmt.Errorf("has no host; write %s://host:%s", u.Scheme, port)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("ends with its port; leave out what follows %q", shown)
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); u.Port() != "" && (err != nil || n == 0) {
		return nil, fmt.Errorf("%q: %s is not a port; use 1 to 65535", shown, u.Port())
	}
	if _, err := destination(net.JoinHostPort(u.Hostname(), "1")); err != nil {
		return nil, fmt.Errorf("%q: %s is neither a name nor an address", shown, u.Hostname())
	}
	switch {
	case len(auth.User) > 255 || len(auth.Pass) > 255: // RFC 1929 §2
		return nil, fmt.Errorf("%q: user and password may have 255 bytes each", shown)
	case u.Scheme == "http" && strings.Contains(auth.User, ":"): // RFC 7617 §2
		return nil, fmt.Errorf("%q: HTTP can't carry a user name with a colon", shown)
	case u.Scheme == "socks4a" && auth.Pass != "":
		return nil, fmt.Errorf("%q: SOCKS4a has no password; leave it out, or use socks5://", shown)
	case u.Scheme == "socks4a" && strings.Contains(auth.User, "\x00"):
		return nil, fmt.Errorf("%q: SOCKS4a can't carry this user name", shown)
	}
	return u, nil
}

const schemes = "socks5://, socks5h://, socks4a:// or http://"

var errNotURL = errors.New("is not a URL; write socks5://[user:password@]host:port, " +
	"and in user and password %2F for /, %23 for #, %3F for ?, %40 for @ and %25 for %")

var (
	_ Upstream = (*Client)(nil)
	_ Upstream = (*Client4)(nil)
	_ Upstream = (*HTTPClient)(nil)
)
