// Command tunproxy is a SOCKS and HTTP proxy whose connections leave through a
// TCP/IP stack of their own and a TUN interface. It shows how a program outside
// netstackd uses its public packages: tun, link, queue and socks.
//
//	(cd docs/examples; go build -o /tmp ./tunproxy); sudo /tmp/tunproxy &
//	sudo ip address add 198.18.5.1/30 dev tunproxy0
//	sudo ip link set tunproxy0 up
//	curl --socks5 127.0.0.1:1080 http://198.18.5.1/    # a server of this host, over the TUN
package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"netstackd/link"
	"netstackd/queue"
	"netstackd/socks"
	"netstackd/tun"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tunproxy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dev, err := tun.Open(tun.Config{Name: "tunproxy0"})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:1080")
	if err != nil {
		dev.Close()
		return err
	}
	return serve(ctx, dev, netip.MustParseAddr("198.18.5.2"), ln, func(line string) { fmt.Println(line) })
}

// serve carries what the clients of ln ask for through a stack with this address
// on dev, until ctx ends. It gives a line for each request to log, on one
// goroutine, so that a slow log delays no client.
func serve(ctx context.Context, dev link.Device, address netip.Addr, ln net.Listener, log func(string)) error {
	out, err := newStack(dev, address)
	if err != nil {
		ln.Close()
		dev.Close()
		return err
	}
	defer out.close()

	lines := queue.New[string](256)
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		batch := make([]string, 16)
		for {
			n, err := lines.Get(context.Background(), batch)
			if err != nil {
				return // closed and empty
			}
			for _, line := range batch[:n] {
				log(line)
			}
		}
	}()
	defer func() { lines.Close(); <-logged }()

	server := socks.NewServer(socks.Config{
		Dialer: func(r *socks.Request) socks.Dialer {
			lines.TryPut(fmt.Sprintf("%s %s %s from %s", r.Protocol, r.Command, r.Dest, r.Source.Addr()))
			return out
		},
	})
	return server.Serve(ctx, ln)
}
