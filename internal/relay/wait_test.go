//go:build linux

package relay_test

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Idle flows cost neither goroutine nor pipe, and still carry a burst.
func TestIdleFlows(t *testing.T) {
	for _, kind := range []string{sockets, stackIn, stackOut} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t)
			n := 1000
			if raceEnabled {
				n = 200
			}
			type flow struct{ client, server peer }
			flows := make([]flow, n)
			before := runtime.NumGoroutine()
			for i := range flows {
				c, s, _ := r.join(kind)
				flows[i] = flow{c, s}
				write(t, c, "hello")
				expect(t, s, "hello")
			}
			if more := runtime.NumGoroutine() - before; more > 20 {
				t.Errorf("%d flows hold %d goroutines", n, more)
			}
			burst := string(make([]byte, 1<<20))
			for i := 0; i < n; i += 50 {
				var wg sync.WaitGroup
				wg.Go(func() { write(t, flows[i].client, burst) })
				expect(t, flows[i].server, burst)
				wg.Wait()
			}
		})
	}
}

// A reader that stalls stops the writer, after no more than the buffers hold;
// then everything arrives.
func TestBackPressure(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind string) {
		client, server, _ := r.join(kind)
		const most = 64 << 20
		block := make([]byte, 64<<10)
		sent := 0
		for err := error(nil); err == nil && sent < most; {
			// A write that makes no progress for this long has met full buffers.
			client.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			var n int
			n, err = client.Write(block)
			sent += n
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if sent >= most {
			t.Fatalf("%d bytes went into a flow that nobody reads", sent)
		}
		closeWrite(t, client)
		got, err := io.Copy(io.Discard, struct{ io.Reader }{server})
		if err != nil || int(got) != sent {
			t.Fatalf("%d of %d bytes arrived: %v", got, sent, err)
		}
	})
}

// A flow whose application has yet to take what it was sent is under way,
// although both of its directions have seen their ends: it counts, and it can
// be killed.
func TestUnreadAnswerHoldsFlow(t *testing.T) {
	for _, kind := range []string{stackIn, stackTwice} {
		t.Run(kind, func(t *testing.T) {
			for _, kill := range []bool{false, true} {
				r := newRig(t)
				client, server, f := r.join(kind)
				closeWrite(t, client)
				expectEOF(t, server)
				const size = 900 << 10 // more than the client's window, less than our send buffer
				if _, err := server.Write(make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				closeWrite(t, server)
				if kind == stackIn {
					end := time.Now().Add(10 * time.Second)
					for flows := r.flows.Flows(); len(flows) == 1 && flows[0].Down < size; flows = r.flows.Flows() {
						if time.Now().After(end) {
							t.Fatalf("the stack took %d of %d bytes", flows[0].Down, size)
						}
						runtime.Gosched()
					}
				}
				for range 10 { // other flows come and go, and this one stays
					c, s, _ := r.join(sockets)
					closeWrite(t, c)
					expectEOF(t, s)
					closeWrite(t, s)
					expectEOF(t, c)
				}
				if kill {
					r.flows.Kill(f.ID())
					r.wait()
					if _, err := io.Copy(io.Discard, struct{ io.Reader }{client}); !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("read of a killed flow: %v", err)
					}
					continue
				}
				if r.flows.Len() == 0 {
					t.Error("the flow has ended while there is data")
				}
				n, err := io.Copy(io.Discard, struct{ io.Reader }{client})
				if n != size || err != nil {
					t.Errorf("read %d of %d bytes: %v", n, size, err)
				}
				r.wait()
			}
		})
	}
}
