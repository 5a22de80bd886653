package socks_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"

	"netstackd/internal/flow"
	"netstackd/socks"
)

// copier is the simplest relay.
type copier struct{}

func (copier) Join(f *flow.Flow, inbound, outbound net.Conn) {
	half := func(dst, src net.Conn) {
		io.Copy(dst, src)
		if c, ok := dst.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
		}
	}
	go func() {
		done := make(chan struct{})
		go func() { defer close(done); half(outbound, inbound) }()
		half(inbound, outbound)
		<-done
		inbound.Close()
		outbound.Close()
		f.Close()
	}()
}

// A server on the host that asks for a password, and a client that goes
// through it.
func ExampleServer() {
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from the site")
	}))
	defer site.Close()

	users, err := socks.NewCredentials([]string{"alice:secret"}, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	flows := flow.NewRegistry(flow.Config{})
	server := socks.NewServer(hostDialer{}, copier{}, flows, socks.Config{Auth: users})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	served := make(chan error)
	go func() { served <- server.Serve(ctx, ln) }()

	upstream, err := socks.Via(hostDialer{}, "socks5://alice:secret@"+ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return upstream.DialContext(ctx, nil, network, address)
	}}
	resp, err := (&http.Client{Transport: transport}).Get(site.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	fmt.Printf("%sby %s\n", body, flows.Flows()[0].Meta.User)

	transport.CloseIdleConnections()
	stop()
	fmt.Println(<-served, flows.Drain(context.Background()))
	// Output:
	// hello from the site
	// by alice
	// <nil> <nil>
}
