package netstack_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"netstackd/internal/epoll"
	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// Connections behave as net.Conn does, however they came about.
func TestConnConformance(t *testing.T) {
	for _, plain := range []bool{false, true} {
		for _, own := range []netip.Addr{ownV4.Addr(), ownV6.Addr(), foreignV4, foreignV6} {
			t.Run(fmt.Sprintf("plain=%v/%s", plain, own), func(t *testing.T) {
				requests := make(chan *netstack.Request, 1)
				app, server := pair(t, tuntest.Config{Plain: plain}, netstack.Config{Connect: func(r *netstack.Request) { requests <- r }})
				nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
					to := netip.AddrPortFrom(own, 80)
					acceptOne := func() (net.Conn, error) {
						return (<-requests).Accept(context.Background())
					}
					if own == ownV4.Addr() || own == ownV6.Addr() {
						l, err := server.ListenTCP(to)
						if err != nil {
							return nil, nil, nil, err
						}
						defer l.Close()
						acceptOne = l.Accept
					}
					var aerr error
					accepted := make(chan struct{})
					go func() {
						c2, aerr = acceptOne()
						close(accepted)
					}()
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					c1, err = app.DialContext(ctx, nil, "tcp", to.String())
					if err != nil {
						return nil, nil, nil, err
					}
					<-accepted
					return c1, c2, func() {
						c1.Close()
						c2.Close()
					}, aerr
				})
			})
		}
	}
}

func TestConnAddresses(t *testing.T) {
	for _, dest := range []netip.Addr{foreignV4, foreignV6} {
		got := make(chan *netstack.Request, 1)
		app, _ := pair(t, tuntest.Config{}, netstack.Config{Connect: func(r *netstack.Request) { got <- r }})
		go func() {
			r := <-got
			c, err := r.Accept(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprint(c, r.Source(), " ", r.Dest(), " ", c.RemoteAddr(), " ", c.LocalAddr())
			c.Close()
		}()
		c := dial(t, app, netip.AddrPortFrom(dest, 443))
		b, err := io.ReadAll(c)
		if want := fmt.Sprint(c.LocalAddr(), " ", c.RemoteAddr(), " ", c.LocalAddr(), " ", c.RemoteAddr()); err != nil || string(b) != want {
			t.Errorf("ends %q, %v; want %q", b, err, want)
		}
	}
}

// A reset breaks a connection whatever was closed before, and every later call
// reports it.
func TestConnReset(t *testing.T) {
	for _, fin := range []string{"none", "client", "server", "both"} {
		t.Run(fin, func(t *testing.T) {
			app, own := pair(t, tuntest.Config{}, netstack.Config{})
			client, server := connected(t, app, own)
			events := make(chan uint32, 100)
			server.Watch(func(ev uint32) { events <- ev })
			if err := server.Broken(); err != nil {
				t.Fatalf("broken at birth: %v", err)
			}
			if fin == "client" || fin == "both" {
				client.CloseWrite()
				if _, err := server.Read(make([]byte, 1)); err != io.EOF {
					t.Fatal(err)
				}
			}
			if fin == "server" {
				server.CloseWrite()
				if _, err := client.Read(make([]byte, 1)); err != io.EOF {
					t.Fatal(err)
				}
			}
			if fin == "both" { // ended in good order: nothing is left to reset
				server.CloseWrite()
				if _, err := client.Read(make([]byte, 1)); err != io.EOF {
					t.Fatal(err)
				}
				client.Reset()
				server.Unwatch()
				if err := server.Broken(); err != nil {
					t.Fatalf("broken after both closed: %v", err)
				}
				return
			}
			client.Reset()
			for ev := uint32(0); ev&(epoll.HUp|epoll.Err) == 0; {
				ev = recv(t, events)
			}
			server.Unwatch()
			for range 3 {
				if err := server.Broken(); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNABORTED) {
					t.Fatalf("broken: %v", err)
				}
			}
			if _, err := server.Write([]byte("x")); err == nil {
				t.Fatal("wrote to a broken connection")
			}
			if _, err := server.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Fatalf("read: %v", err)
			}
			// Ours is as closed as its.
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Fatalf("read from what we reset: %v", err)
			}
		})
	}
}

func TestConnCloseUnblocks(t *testing.T) {
	app, own := pair(t, tuntest.Config{}, netstack.Config{})
	for _, end := range []func(*netstack.Conn){func(c *netstack.Conn) { c.Close() }, (*netstack.Conn).Reset} {
		client, _ := connected(t, app, own)
		done := make(chan error, 2)
		go func() {
			_, err := client.Read(make([]byte, 1))
			done <- err
		}()
		go func() {
			for {
				if _, err := client.Write(make([]byte, 1<<20)); err != nil { // there is no reader
					done <- err
					return
				}
			}
		}()
		runtime.Gosched()
		end(client)
		for range 2 {
			isErr(t, recv(t, done), net.ErrClosed)
		}
		end(client) // again is nothing
	}
}

// Data that was written before Close arrives, and FIN after it.
func TestConnCloseDelivers(t *testing.T) {
	app, own := pair(t, tuntest.Config{}, netstack.Config{})
	client, server := connected(t, app, own)
	const size = 3 << 20
	sent := make(chan error, 1)
	go func() {
		_, err := server.Write(make([]byte, size))
		server.Close()
		sent <- err
	}()
	n, err := io.Copy(io.Discard, client)
	if n != size || err != nil {
		t.Fatalf("%d of %d bytes: %v", n, size, err)
	}
	if err := recv(t, sent); err != nil {
		t.Fatal(err)
	}
}

// Two writers share a connection without loss, also when its buffer is full.
func TestConnConcurrentWrites(t *testing.T) {
	app, own := pair(t, tuntest.Config{}, netstack.Config{TCP: netstack.TCPConfig{SendBuffer: 16 << 10, ReceiveBuffer: 16 << 10}})
	client, server := connected(t, app, own)
	const writers, each = 4, 1 << 20
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			b := make([]byte, 10000)
			for j := range b {
				b[j] = byte(i)
			}
			for left := each; left > 0; {
				n, err := server.Write(b[:min(len(b), left)])
				if err != nil {
					t.Error(err)
					return
				}
				left -= n
			}
		})
	}
	var got [writers]int
	b := make([]byte, 64<<10)
	for total := 0; total < writers*each; {
		n, err := client.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range b[:n] {
			got[c]++
		}
		total += n
	}
	wg.Wait()
	for i, n := range got {
		if n != each {
			t.Errorf("writer %d: %d of %d bytes", i, n, each)
		}
	}
}

// The kernel, and so we, let a client use a 4-tuple again at once that the
// server closed first.
func TestTimeWaitIsShort(t *testing.T) {
	for _, to := range []netip.AddrPort{netip.AddrPortFrom(foreignV4, 80), netip.AddrPortFrom(ownV4.Addr(), 80)} {
		served := make(chan struct{}, 1)
		serve := func(c *netstack.Conn) {
			c.CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
			served <- struct{}{}
		}
		dev, own := alone(t, tuntest.Config{}, netstack.Config{Connect: func(r *netstack.Request) {
			c, err := r.Accept(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			serve(c)
		}})
		if to.Addr() == ownV4.Addr() {
			l := listen(t, own, to)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					serve(c.(*netstack.Conn))
				}
			}()
		}
		from := netip.AddrPortFrom(appV4.Addr(), 5555)
		for seq := uint32(1); seq < 20000; seq += 5000 {
			started := time.Now()
			inject(t, dev, tcp(from, to, flagSYN, seq, 0, nil))
			synack := parse(t, answer(t, dev))
			if synack.payload[13] != flagSYN|flagACK {
				t.Fatalf("flags %x, want SYN and ACK", synack.payload[13])
			}
			theirs := be.Uint32(synack.payload[4:]) + 1
			inject(t, dev, tcp(from, to, flagACK, seq+1, theirs, nil))
			fin := parse(t, answer(t, dev))
			if fin.payload[13]&flagFIN == 0 {
				t.Fatalf("flags %x, want FIN", fin.payload[13])
			}
			inject(t, dev, tcp(from, to, flagFIN|flagACK, seq+1, theirs+1, nil))
			recv(t, served)
			answer(t, dev) // the ACK of our FIN
			if took := time.Since(started); took > 2*time.Second {
				t.Fatalf("took %v", took)
			}
		}
	}
}

// So it is with a connection that the client has reset: the RST comes first,
// even if the stack has yet to read it when the SYN is there.
func TestReuseAfterReset(t *testing.T) {
	accepted := make(chan struct{}, 1)
	dev, _ := alone(t, tuntest.Config{}, netstack.Config{Connect: func(r *netstack.Request) {
		if _, err := r.Accept(context.Background()); err != nil {
			t.Error(err)
		}
		accepted <- struct{}{}
	}})
	from, to := netip.AddrPortFrom(appV4.Addr(), 5555), netip.AddrPortFrom(foreignV4, 80)
	for seq := uint32(1); seq < 300*5000; seq += 5000 {
		inject(t, dev, tcp(from, to, flagSYN, seq, 0, nil))
		synack := parse(t, answer(t, dev))
		if synack.payload[13] != flagSYN|flagACK {
			t.Fatalf("flags %x, want SYN and ACK", synack.payload[13])
		}
		inject(t, dev, tcp(from, to, flagACK, seq+1, be.Uint32(synack.payload[4:])+1, nil))
		recv(t, accepted)
		inject(t, dev, tcp(from, to, flagRST, seq+1, 0, nil))
	}
}
