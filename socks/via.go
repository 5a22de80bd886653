package socks

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Via returns a Dialer that goes through the upstreams that the URLs name, one
// behind the other; the first is dialed by next. A URL is
// socks5://[user:password@]host[:port], http://[user:password@]host[:port], or
// "direct", which adds nothing. Without any, next is returned. Errors do not
// repeat credentials.
func Via(next Dialer, urls ...string) (Dialer, error) {
	for _, raw := range urls {
		d, err := upstream(raw, next)
		if err != nil {
			return nil, err
		}
		next = d
	}
	return next, nil
}

func upstream(raw string, next Dialer) (Dialer, error) {
	if raw == "direct" {
		return next, nil
	}
	u, err := url.Parse(raw)
	if err != nil { // its text would show the password
		return nil, errors.New("socks: upstream is not a URL: write socks5://[user:password@]host:port, " +
			"with %-escapes for special characters in user and password")
	}
	shown := u.Scheme + "://" + u.Host
	if u.Hostname() == "" || u.Opaque != "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("socks: upstream %q: write socks5://[user:password@]host:port", shown)
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"socks5": "1080", "socks5h": "1080", "http": "80"}[u.Scheme]
	}
	server, err := destination(net.JoinHostPort(u.Hostname(), port))
	if err == nil && server.Port == 0 {
		err = errors.New("port 0")
	}
	var cfg ClientConfig
	if u.User != nil {
		cfg.Auth.User = u.User.Username()
		cfg.Auth.Pass, _ = u.User.Password()
	}
	switch u.Scheme {
	case "socks5", "socks5h":
		if len(cfg.Auth.User) > 255 || len(cfg.Auth.Pass) > 255 {
			return nil, fmt.Errorf("socks: upstream %q: user and password may have 255 bytes each", shown)
		}
		if err == nil {
			return NewClient(server.String(), next, cfg), nil
		}
	case "http":
		if strings.Contains(cfg.Auth.User, ":") {
			return nil, fmt.Errorf("socks: upstream %q: HTTP can't carry a user name with a colon", shown)
		}
		if err == nil {
			return NewHTTPClient(server.String(), next, cfg), nil
		}
	default:
		return nil, fmt.Errorf("socks: upstream %q: unknown scheme: use socks5, http or direct", shown)
	}
	return nil, fmt.Errorf("socks: upstream %q: write host:port with a port from 1 to 65535", shown)
}

var (
	_ Dialer = (*Client)(nil)
	_ Dialer = (*HTTPClient)(nil)
)
