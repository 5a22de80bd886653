//go:build linux

package main_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/testnet"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A closed port looks closed and an unreachable host unreachable, at once.
func TestIntegrationTCPErrors(t *testing.T) {
	n, _ := startRouted(t)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		host, network := "icmp type host-unreachable", "icmp type net-unreachable"
		if f == testnet.IPv6 {
			host, network = "icmpv6 type addr-unreachable", "icmpv6 type no-route"
		}
		filter(t, n.B, f, 210, "reject with "+host)
		filter(t, n.B, f, 211, "reject with "+network)
		for _, tt := range []struct {
			name string
			dest string
			want syscall.Errno
		}{
			{"closed port", dest(f, 1, 1), syscall.ECONNREFUSED},
			{"host unreachable", dest(f, 210, 80), syscall.EHOSTUNREACH},
			{"network unreachable", dest(f, 211, 80), syscall.ENETUNREACH},
		} {
			t.Run(tt.name, func(t *testing.T) {
				n.A.Through(t, tun, 40, 40, func() {
					began := time.Now()
					_, err := n.A.DialTimeout("tcp", tt.dest, 10*time.Second)
					if !errors.Is(err, tt.want) {
						t.Errorf("got %v, want %v", err, tt.want)
					}
					if d := time.Since(began); d > 2*time.Second {
						t.Errorf("known after %v", d)
					}
				})
			})
		}
	})
}

// A host that is not there at all, for which the kernel asks in vain.
func TestIntegrationTCPNoSuchHost(t *testing.T) {
	t.Parallel()
	n, _ := start(t, "--route", "10.77.0.99/32", "--route", "fd77::99/128")
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		nobody := map[testnet.Family]string{testnet.IPv4: "10.77.0.99:80", testnet.IPv6: "[fd77::99]:80"}[f]
		n.A.Through(t, tun, 40, 40, func() {
			if _, err := n.A.DialTimeout("tcp", nobody, 10*time.Second); !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("got %v, want no route to host", err)
			}
		})
	})
}

// A silent destination times out at the application and not before, even when
// our own dial gives up first; when it wakes up, the next SYN gets through.
func TestIntegrationTCPSilent(t *testing.T) {
	t.Parallel()
	n, _ := startRouted(t, "--dial-timeout", "1s")
	tcp := n.B.ServeTCP(t, ":0", testnet.Echo)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		filter(t, n.B, f, 220, "drop")
		const patience = 2500 * time.Millisecond
		began := time.Now()
		_, err := n.A.DialTimeout("tcp", dest(f, 220, tcp), patience)
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(began) < patience {
			t.Errorf("after %v: %v, want a timeout after %v", time.Since(began), err, patience)
		}
		wake := time.AfterFunc(1500*time.Millisecond, func() { unfilter(n.B, 220) })
		defer wake.Stop()
		exchange(t, dialTCP(t, n.A, dest(f, 220, tcp)), "awake")
	})
}

// Either side may finish first; the other half lives as long as it likes.
func TestIntegrationHalfClose(t *testing.T) {
	n, _ := startRouted(t)
	const size = 3_000_000
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		t.Run("client first", func(t *testing.T) {
			port := n.B.ServeTCP(t, ":0", func(c *net.TCPConn) {
				_, _ = io.Copy(io.Discard, c) // all of it, to the FIN
				_, _ = c.Write(make([]byte, size))
			})
			c := dialTCP(t, n.A, dest(f, 1, port))
			mustWrite(t, c, make([]byte, size))
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || len(got) != size {
				t.Errorf("after our FIN: %d bytes, %v, want %d", len(got), err, size)
			}
		})
		t.Run("server first", func(t *testing.T) {
			got := make(chan int64, 1)
			port := n.B.ServeTCP(t, ":0", func(c *net.TCPConn) {
				_, _ = c.Write(make([]byte, size))
				_ = c.CloseWrite()
				n, _ := io.Copy(io.Discard, c)
				got <- n
			})
			c := dialTCP(t, n.A, dest(f, 1, port))
			if in, err := io.ReadAll(c); err != nil || len(in) != size {
				t.Fatalf("to the server's FIN: %d bytes, %v, want %d", len(in), err, size)
			}
			mustWrite(t, c, make([]byte, size))
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if n := <-got; n != size {
				t.Errorf("the server got %d bytes after its FIN, want %d", n, size)
			}
		})
	})
}

// A half that is quiet for seconds after the other's FIN is not cut.
func TestIntegrationHalfCloseQuiet(t *testing.T) {
	t.Parallel()
	n, _ := startRouted(t)
	port := n.B.ServeTCP(t, ":0", func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c)
		<-time.After(6 * time.Second)
		_, _ = io.WriteString(c, "late")
	})
	c := dialTCP(t, n.A, dest(testnet.IPv4, 1, port))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "late" {
		t.Errorf("got %q, %v, want late", got, err)
	}
}

func mustWrite(t *testing.T, w io.Writer, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
}

// Forty uploads are echoed back to the last byte, ended by half-close.
func TestIntegrationUploads(t *testing.T) {
	n, _ := startRouted(t)
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	const uploads, size = 40, 4_000_000
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		n.A.Through(t, tun, uploads*size, uploads*size, func() {
			var g errgroup.Group
			g.SetLimit(8)
			for i := range uploads {
				g.Go(func() error {
					c, err := n.A.DialTimeout("tcp", dest(f, i, port), 10*time.Second)
					if err != nil {
						return err
					}
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(time.Minute))
					return upload(c.(*net.TCPConn), byte(i), size)
				})
			}
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
		})
	})
}

// upload sends size random bytes and a FIN, and compares what comes back.
func upload(c *net.TCPConn, seed byte, size int64) error {
	sent, received := sha256.New(), sha256.New()
	var g errgroup.Group
	g.Go(func() error {
		random := rand.NewChaCha8([32]byte{seed})
		if _, err := io.Copy(io.MultiWriter(c, sent), io.LimitReader(random, size)); err != nil {
			return err
		}
		return c.CloseWrite()
	})
	n, err := io.Copy(received, c)
	if err := errors.Join(err, g.Wait()); err != nil {
		return fmt.Errorf("upload %d: %d bytes back: %w", seed, n, err)
	}
	if n != size || !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		return fmt.Errorf("upload %d: %d bytes back, want the same %d", seed, n, size)
	}
	return nil
}

// A reset is a reset on the other side, also after a FIN.
func TestIntegrationReset(t *testing.T) {
	n, _ := startRouted(t)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		for _, fin := range []bool{false, true} {
			t.Run(fmt.Sprintf("from the server/client's FIN=%v", fin), func(t *testing.T) {
				port := n.B.ServeTCP(t, ":0", func(c *net.TCPConn) {
					_, _ = c.Write([]byte("x"))
					if fin {
						_, _ = io.Copy(io.Discard, c)
					} else {
						_, _ = io.ReadFull(c, make([]byte, 1))
					}
					_ = c.SetLinger(0)
				})
				c := dialTCP(t, n.A, dest(f, 1, port))
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				if fin {
					_ = c.CloseWrite()
				} else {
					mustWrite(t, c, []byte("y"))
				}
				if got, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("got %q, %v, want connection reset", got, err)
				}
			})
			t.Run(fmt.Sprintf("from the client/client's FIN=%v", fin), func(t *testing.T) {
				wantClientReset(t, n, f, fin)
			})
		}
		t.Run("from the client/server's FIN=true", func(t *testing.T) {
			state := make(chan error, 1)
			port := n.B.ServeTCP(t, ":0", func(c *net.TCPConn) {
				_ = c.CloseWrite()
				state <- waitClosed(c)
			})
			c := dialTCP(t, n.A, dest(f, 1, port))
			if _, err := io.ReadAll(c); err != nil {
				t.Fatal(err)
			}
			_ = c.SetLinger(0)
			c.Close()
			if err := <-state; err != nil {
				t.Error(err)
			}
		})
	})
}

// wantClientReset resets from the application and checks that the server's
// socket is gone without anybody writing to it.
func wantClientReset(t *testing.T, n *testnet.Network, f testnet.Family, fin bool) {
	t.Helper()
	accepted, state := make(chan struct{}), make(chan error, 1)
	port := n.B.ServeTCP(t, ":0", func(c *net.TCPConn) {
		if fin {
			_, _ = io.Copy(io.Discard, c)
		} else {
			_, _ = io.ReadFull(c, make([]byte, 1))
		}
		close(accepted)
		state <- waitClosed(c)
	})
	c := dialTCP(t, n.A, dest(f, 1, port))
	mustWrite(t, c, []byte("x"))
	if fin {
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	<-accepted
	_ = c.SetLinger(0)
	c.Close()
	if err := <-state; err != nil {
		t.Error(err)
	}
}

// waitClosed waits for a socket's state to be CLOSE, which a peer's RST makes
// it and a peer's FIN does not (linux/tcp_states.h).
func waitClosed(c *net.TCPConn) error {
	const tcpClose = 7
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var info *unix.TCPInfo
		var infoErr error
		if err := raw.Control(func(fd uintptr) {
			info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		}); err != nil || infoErr != nil {
			return errors.Join(err, infoErr)
		}
		if info.State == tcpClose {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("the server's socket is in state %d, want %d (closed by RST)", info.State, tcpClose)
		}
	}
}

// A 4-tuple that the server closed can be used again at once.
func TestIntegrationPortReuse(t *testing.T) {
	n, _ := startRouted(t)
	port := n.B.ServeTCP(t, ":0", func(c *net.TCPConn) { _, _ = io.WriteString(c, "bye") })
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		before, _ := n.A.Counters(t, tun)
		for i := range 20 {
			began := time.Now()
			c := dialFrom(t, n.A, 40001, dest(f, 1, port))
			if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
				t.Errorf("use %d: %q, %v", i, got, err)
			}
			c.Close()
			if d := time.Since(began); d > time.Second {
				t.Fatalf("use %d took %v", i, d)
			}
		}
		if after, _ := n.A.Counters(t, tun); after.TxPackets < before.TxPackets+60 {
			t.Errorf("%d packets into the TUN, want 60 or more", after.TxPackets-before.TxPackets)
		}
	})
}

// dialFrom connects from a port, and tries again while the application's own
// kernel still waits for the last acknowledgement of the port's previous use.
func dialFrom(t *testing.T, h *testnet.Host, port int, address string) net.Conn {
	t.Helper()
	d := &net.Dialer{
		LocalAddr: &net.TCPAddr{Port: port},
		Timeout:   5 * time.Second,
		Control: func(_, _ string, raw syscall.RawConn) (err error) {
			ctl := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			})
			return errors.Join(ctl, err)
		},
	}
	var c net.Conn
	testnet.Eventually(t, time.Second, "the port is free", func() bool {
		var err error
		c, err = h.Dial(d, "tcp", address)
		if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatalf("connect from port %d: %v", port, err)
		}
		return err == nil
	})
	bound(t, c)
	return c
}
