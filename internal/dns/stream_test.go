package dns_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/internal/dns"
	"netstackd/internal/flow"

	"golang.org/x/net/dns/dnsmessage"
)

// pipeDialer makes connections to a nameserver that serve plays.
type pipeDialer struct{ serve func(net.Conn) }

func (d pipeDialer) DialContext(context.Context, *flow.Meta, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go d.serve(theirs)
	return ours, nil
}

// More queries than one connection takes at once wait for their turn without
// using the processor, and all are answered.
func TestStreamQueriesWait(t *testing.T) {
	// A spinning goroutine stops a bubble's clock, and its Wait.
	guard := time.AfterFunc(20*time.Second, func() { panic("queries spin") })
	defer guard.Stop()
	synctest.Test(t, func(t *testing.T) {
		const queries = dns.StreamQueries + 44
		asked := make(chan []byte, queries)
		answers := make(chan []byte)
		s := dns.New(pipeDialer{func(c net.Conn) {
			go func() {
				for b := range answers {
					writeTCP(c, b)
				}
				c.Close()
			}()
			for {
				b, err := readTCP(c)
				if err != nil {
					return
				}
				asked <- b
			}
		}}, dns.Config{Servers: func() []netip.AddrPort { return nil }})
		q, err := dns.ParseQuery(question(t, 9, "example.com.", dnsmessage.TypeA, 0))
		if err != nil {
			t.Fatal(err)
		}
		results := make(chan error, queries)
		for range queries {
			go func() {
				_, err := s.ExchangeTCP(t.Context(), netip.MustParseAddrPort("192.0.2.53:53"), q)
				results <- err
			}()
		}
		synctest.Wait()
		if n := len(asked); n != dns.StreamQueries {
			t.Errorf("%d queries are under way, want %d", n, dns.StreamQueries)
		}
		for range queries {
			answers <- reply(<-asked, 0, 1)
		}
		close(answers)
		synctest.Wait()
		for range queries {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
	})
}
