//go:build linux

package testnet

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
)

// Listen opens a TCP listener on the host, closed when the test ends.
func (h *Host) Listen(t testing.TB, address string) *net.TCPListener {
	t.Helper()
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// ServeTCP gives each connection to handle, on a goroutine of its own, and
// closes it afterwards. It returns the port; ":0" picks one. All handlers
// have ended, their connections closed under them, when the test has.
func (h *Host) ServeTCP(t testing.TB, address string, handle func(*net.TCPConn)) uint16 {
	t.Helper()
	l := h.Listen(t, address)
	var mu sync.Mutex
	open := map[*net.TCPConn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() {
					c.Close()
					mu.Lock()
					delete(open, c)
					mu.Unlock()
				}()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// Echo sends back what it receives, then its FIN after the client's.
func Echo(c *net.TCPConn) {
	if _, err := io.Copy(c, c); err == nil {
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
}

// Discard reads to the end and then answers with its FIN.
func Discard(c *net.TCPConn) {
	_, _ = io.Copy(io.Discard, c)
}

// Greet sends one line and waits for the client to close.
func Greet(line string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		_, _ = io.WriteString(c, line)
		_, _ = io.Copy(io.Discard, c)
	}
}

// ServeHTTP serves handler on the host until the test ends.
func (h *Host) ServeHTTP(t testing.TB, address string, handler http.Handler) uint16 {
	t.Helper()
	l := h.Listen(t, address)
	srv := &http.Server{Handler: handler}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("testnet: http: %v", err)
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// PeerPage is an HTTP handler that answers with the client's address.
func PeerPage(w http.ResponseWriter, r *http.Request) {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(w, "hello "+ap.Addr().Unmap().String()+"\n")
}
