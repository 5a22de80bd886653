//go:build linux

package relay_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"netstackd/internal/relay"
)

// Uploads that come back whole although their sender has half-closed.
func TestEcho(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind string) {
		const size = 4 << 20
		n := 40
		if kind != stackIn || raceEnabled { // gVisor is slow then, and both ends are
			n = 8
		}
		seats := make(chan struct{}, 8)
		var wg sync.WaitGroup
		for i := range n {
			seats <- struct{}{}
			client, server, f := r.join(kind)
			wg.Go(func() {
				defer func() { <-seats }()
				var both sync.WaitGroup
				both.Go(func() {
					if _, err := io.Copy(struct{ io.Writer }{server}, struct{ io.Reader }{server}); err != nil {
						t.Errorf("echo: %v", err)
					}
					closeWrite(t, server)
				})
				sent := sha256.New()
				both.Go(func() {
					src := rand.NewChaCha8([32]byte{byte(i)})
					if _, err := io.CopyN(io.MultiWriter(client, sent), src, size); err != nil {
						t.Errorf("upload: %v", err)
					}
					closeWrite(t, client)
				})
				got := sha256.New()
				m, err := io.Copy(got, struct{ io.Reader }{client})
				both.Wait()
				if err != nil || m != size || string(got.Sum(nil)) != string(sent.Sum(nil)) {
					t.Errorf("%d of %d bytes came back, %v", m, size, err)
				}
				_ = f
			})
		}
		wg.Wait()
		r.wait()
		if st := r.flows.Stats(); st.Up != int64(n)*size || st.Down != int64(n)*size || st.Open != 0 {
			t.Errorf("counted %+v, want %d each way", st, n*size)
		}
	})
}

func TestStatsByKind(t *testing.T) {
	for kind, want := range map[string]relay.Stats{
		sockets: {Spliced: 1}, stackIn: {Userspace: 1}, stackOut: {Userspace: 1}, copied: {Copied: 1}, stackTwice: {Copied: 1},
	} {
		r := newRig(t)
		client, server, _ := r.join(kind)
		st := r.relay.Stats()
		if want.Open = 1; st != want {
			t.Errorf("%s: %+v, want %+v", kind, st, want)
		}
		closeWrite(t, client)
		closeWrite(t, server)
		r.wait()
		if want.Open = 0; r.relay.Stats() != want {
			t.Errorf("%s: %+v at the end", kind, r.relay.Stats())
		}
	}
}

// Each half lives for as long as it likes, whichever ends first.
func TestHalfClose(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind string) {
		for _, clientFirst := range []bool{true, false} {
			a, b, f := r.join(kind)
			if !clientFirst {
				a, b = b, a
			}
			write(t, a, "question")
			closeWrite(t, a)
			expect(t, b, "question")
			expectEOF(t, b)
			for range 3 { // the other half goes on, idle in between
				write(t, b, "answer")
				expect(t, a, "answer")
			}
			closeWrite(t, b)
			expectEOF(t, a)
			r.wait()
			up, down := int64(8), int64(18)
			if !clientFirst {
				up, down = down, up
			}
			if st := r.flows.Stats(); st.Open != 0 {
				t.Errorf("flow %d is open", f.ID())
			} else if clientFirst && (st.Up != up || st.Down != down) {
				t.Errorf("counted %d up and %d down, want %d and %d", st.Up, st.Down, up, down)
			}
		}
	})
}

func TestHalfCloseOfNothing(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind string) {
		// Closed before anybody looks.
		client, in, out, server := r.ends(kind)
		closeWrite(t, client)
		closeWrite(t, server)
		r.relay.Join(r.open(), in, out)
		expectEOF(t, client)
		expectEOF(t, server)
		r.wait()
		client.Close()
		server.Close()
	})
}

// A reset of either end resets the other, before and after either FIN.
func TestReset(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind string) {
		for _, byClient := range []bool{true, false} {
			for _, fin := range []string{"none", "own", "other"} {
				a, b, _ := r.join(kind)
				if !byClient {
					a, b = b, a
				}
				write(t, a, "x")
				expect(t, b, "x")
				switch fin {
				case "own":
					closeWrite(t, a)
					expectEOF(t, b)
				case "other":
					closeWrite(t, b)
					expectEOF(t, a)
				}
				reset(a)
				if err := broken(b); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
					t.Errorf("by client %v, after FIN of %s: %v, want a reset", byClient, fin, err)
				}
				b.Close()
				r.wait()
			}
		}
	})
}

// broken waits for the error that ends a connection.
func broken(c peer) error {
	for {
		if _, err := c.Read(make([]byte, 100)); err != nil && err != io.EOF {
			return err
		}
		// After FIN only writing tells.
		if _, err := c.Write([]byte("y")); err != nil {
			return err
		}
		runtime.Gosched()
	}
}

// A reset reaches the other end without that it writes anything.
func TestResetUnasked(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind string) {
		if kind == copied {
			t.Skip("a copied socket is heard of only when it is read or written")
		}
		for _, byClient := range []bool{true, false} {
			a, b, f := r.join(kind)
			if !byClient {
				a, b = b, a
			}
			closeWrite(t, a)
			expectEOF(t, b)
			reset(a)
			r.wait() // the flow is gone
			_ = f
			if _, err := b.Write([]byte("x")); err == nil {
				if err = broken(b); err == nil {
					t.Error("not reset")
				}
			}
		}
	})
}

func TestKill(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind string) {
		client, server, f := r.join(kind)
		write(t, client, "x")
		expect(t, server, "x")
		if !r.flows.Kill(f.ID()) {
			t.Fatal("no such flow")
		}
		r.wait()
		for _, c := range []peer{client, server} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read: %v", err)
			}
		}
		// A flow that was killed before it was joined.
		client, in, out, server := r.ends(kind)
		f = r.open()
		f.Kill()
		r.relay.Join(f, in, out)
		r.wait()
		for _, c := range []peer{client, server} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read: %v", err)
			}
			c.Close()
		}
	})
}

// A kill takes nothing back that the kernel has to deliver already.
func TestKillAfterEnd(t *testing.T) {
	for _, kind := range []string{sockets, stackIn} { // outbound is a kernel's socket
		t.Run(kind, func(t *testing.T) {
			r := newRig(t)
			client, server, f := r.join(kind)
			write(t, client, "all of it")
			closeWrite(t, client)
			for list := r.flows.Flows(); len(list) == 1 && list[0].UpOpen; list = r.flows.Flows() {
				runtime.Gosched()
			}
			r.flows.Kill(f.ID())
			r.wait()
			expect(t, server, "all of it")
			expectEOF(t, server)
		})
	}
}

// prefixed is a connection of which a part was read.
type prefixed struct {
	net.Conn
	prefix string
}

func (p prefixed) Unwrap() ([]byte, net.Conn) { return []byte(p.prefix), p.Conn }

func TestPrefix(t *testing.T) {
	eachKind(t, func(t *testing.T, r *rig, kind string) {
		client, in, out, server := r.ends(kind)
		write(t, client, "defg")
		closeWrite(t, client)
		write(t, server, "wxyz")
		closeWrite(t, server)
		big := string(make([]byte, 5<<20)) // more than any buffer holds
		f := r.open()
		r.relay.Join(f, prefixed{prefixed{in, "a" + big}, "bc"}, prefixed{out, "v"})
		expect(t, server, "a"+big+"bcdefg")
		expectEOF(t, server)
		expect(t, client, "vwxyz")
		expectEOF(t, client)
		r.wait()
		if st := r.flows.Stats(); st.Up != int64(7+len(big)) || st.Down != 5 {
			t.Errorf("counted %+v", st)
		}
		want := relay.Stats{}
		switch kind {
		case sockets:
			want.Spliced = 1
		case stackIn, stackOut:
			want.Userspace = 1
		default:
			want.Copied = 1
		}
		if st := r.relay.Stats(); st != want {
			t.Errorf("moved as %+v", st)
		}
		client.Close()
		server.Close()
	})
}
