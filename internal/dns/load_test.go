package dns_test

import (
	"bytes"
	"encoding/binary"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"netstackd/internal/dns"

	"golang.org/x/net/dns/dnsmessage"
)

func TestServerConcurrent(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			ns := newNameserver(t, records(2))
			s := serve(t, &dialer{}, dns.Config{}, ns)
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() {
					asked := question(t, uint16(i), name(i), dnsmessage.TypeA, 0)
					if a := unpack(t, asked, s.ask(t, network, asked)); len(a.Answers) != 2 {
						t.Errorf("%+v", a)
					}
				})
			}
			wg.Wait()
		})
	}
}

// Many questions on one connection: a slow one doesn't hold the others up.
func TestServerPipelines(t *testing.T) {
	release := make(chan struct{})
	slow := question(t, 0, "slow.example.", dnsmessage.TypeA, 0)
	ns := newNameserver(t, func(network string, q []byte) [][]byte {
		if bytes.EqualFold(q[12:], slow[12:]) {
			<-release
		}
		return [][]byte{reply(q, 0, 1)}
	})
	s := serve(t, &dialer{}, dns.Config{Stagger: time.Minute, Timeout: time.Minute}, ns)
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	questions := [][]byte{slow}
	for i := 1; i <= 200; i++ {
		questions = append(questions, question(t, uint16(i), name(i), dnsmessage.TypeA, 0))
	}
	go func() {
		for _, q := range questions {
			writeTCP(c, q)
		}
	}()
	answered := make(map[int]bool)
	for range questions {
		b, err := readTCP(c)
		if err != nil {
			t.Fatal(err)
		}
		id := int(binary.BigEndian.Uint16(b))
		unpack(t, questions[id], b)
		if answered[id] = true; len(answered) == 200 {
			if answered[0] {
				t.Error("the slow answer did not wait")
			}
			close(release)
		}
	}
	if len(answered) != len(questions) {
		t.Errorf("%d questions answered, want %d", len(answered), len(questions))
	}
}

// What is under way is bounded: the rest is dropped, and there is room again
// later.
func TestServerBounded(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 10)
	ns := newNameserver(t, func(_ string, q []byte) [][]byte {
		arrived <- struct{}{}
		<-release
		return [][]byte{reply(q, 0, 1)}
	})
	s := serve(t, &dialer{}, dns.Config{MaxQueries: 1, Stagger: time.Minute, Timeout: time.Minute}, ns)
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	first := question(t, 1, "first.example.", dnsmessage.TypeA, 0)
	c.Write(first)
	<-arrived
	for i := range 3 {
		c.Write(question(t, 2, name(i), dnsmessage.TypeA, 0))
	}
	for s.Stats().Dropped != 3 {
		runtime.Gosched()
	}
	close(release)
	b := make([]byte, 512)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	unpack(t, first, b[:n])
	// The first query's place is free only after its answer is sent. A query over
	// TCP waits for that; a datagram could come before and be dropped.
	again := question(t, 3, "again.example.", dnsmessage.TypeA, 0)
	unpack(t, again, s.ask(t, "tcp", again))
}

func BenchmarkServer(b *testing.B) {
	ns := newNameserver(b, records(1))
	s := serve(b, &dialer{}, dns.Config{}, ns)
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	asked := question(b, 1, "www.example.com.", dnsmessage.TypeA, 1232)
	buf := make([]byte, 512)
	for b.Loop() {
		c.Write(asked)
		if _, err := c.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}
