package socks_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"syscall"

	"netstackd/socks"
	"netstackd/socks/auth"
	"netstackd/socks/wire"
)

// A server that asks for a password and does not connect to port 25, and a client
// that goes through it.
func Example() {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from the site")
	}))
	defer site.Close()

	users, err := auth.New([]string{"alice:secret"}, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := socks.NewServer(socks.Config{
		Auth: users,
		Rule: func(r *socks.Request) error {
			if r.Command == wire.Connect {
				fmt.Printf("%s asks by %s\n", r.User, r.Protocol)
			}
			if r.Dest.Port == 25 {
				return errors.New("no mail")
			}
			return nil
		},
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	served := make(chan error)
	go func() { served <- server.Serve(ctx, ln) }()

	client := socks.NewClient(ln.Addr().String(), nil, socks.ClientConfig{
		Auth: wire.UserPass{User: "alice", Pass: "secret"},
	})
	transport := &http.Transport{DialContext: client.DialContext}
	resp, err := (&http.Client{Transport: transport}).Get(site.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	transport.CloseIdleConnections()
	fmt.Printf("%s", body)

	_, err = client.DialContext(ctx, "tcp", "192.0.2.1:25")
	fmt.Println(errors.Is(err, syscall.EACCES))
	stop()
	fmt.Println(<-served)
	// Output:
	// alice asks by socks5
	// hello from the site
	// alice asks by socks5
	// true
	// <nil>
}

// Requests for one network go out directly, all others through another proxy.
func ExampleConfig_dialer() {
	upstream, err := socks.Via(nil, "http://user:password@proxy.example:3128")
	if err != nil {
		fmt.Println(err)
		return
	}
	office := netip.MustParsePrefix("192.0.2.0/24")
	cfg := socks.Config{
		Dialer: func(r *socks.Request) socks.Dialer {
			if office.Contains(r.Dest.IP) {
				return nil // this host's own network
			}
			return upstream
		},
	}
	for _, dest := range []string{"192.0.2.7:80", "example.com:80"} {
		addr, _ := wire.ParseHostPort(dest)
		fmt.Println(dest, cfg.Dialer(&socks.Request{Command: wire.Connect, Dest: addr}))
	}
	// Output:
	// 192.0.2.7:80 <nil>
	// example.com:80 http://proxy.example:3128
}
