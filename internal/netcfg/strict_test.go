//go:build linux

package netcfg_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

// around is how a socket goes around the capture: bound to an interface or to an
// address of it.
var around = map[string]func(fd int, dst string) error{
	"interface": func(fd int, _ string) error { return unix.BindToDevice(fd, "eth0") },
	"address": func(fd int, dst string) error {
		if strings.Contains(dst, ":") {
			return unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr(hostAddr6).As16()})
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(hostAddr4).As4()})
	},
}

// try sends one datagram or makes one connection from a socket that control set up.
func try(network, dst string, port int, text string, control func(fd int) error) error {
	return tryWithin(timeout, network, dst, port, text, control)
}

func tryWithin(patience time.Duration, network, dst string, port int, text string, control func(fd int) error) error {
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) error {
		var cerr error
		return errors.Join(c.Control(func(fd uintptr) {
			if control != nil {
				cerr = control(int(fd))
			}
		}), cerr)
	}}
	c, err := d.Dial(network, net.JoinHostPort(dst, fmt.Sprint(port)))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(text))
	return err
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// refused reports whether an error is that of a packet which a filter refused.
func refused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES)
}

// listenPeerTCP accepts and closes connections on the peer.
func listenPeerTCP(t *testing.T, port int) {
	t.Helper()
	var l net.Listener
	inPeer(t, func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprint(":", port))
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
}

// What is bound goes around a capture, and not around a strict one.
func TestIntegrationStrict(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	tun := openTUN(t, tunName)
	run(t, "ip -n nsnc-peer addr add 203.0.113.9/32 dev lo")
	listenPeerTCP(t, 5000)
	peer := listenPeer(t, 5000)
	before := hostState(t)
	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	cfg.Excludes = prefixes("203.0.113.9/32")
	cfg.ExcludeUIDs = []netcfg.UIDRange{{4711, 4712}}
	for _, mode := range []netcfg.Strict{netcfg.StrictOn, netcfg.StrictKeep} {
		cfg.Strict = mode
		h := open(t, cfg)
		for how, bind := range around {
			for _, network := range []string{"tcp", "udp"} {
				for _, dst := range far {
					bind := func(fd int) error { return bind(fd, dst) }
					if network == "tcp" && how == "interface" && dst == farAddr6 {
						// The kernel drops the error, which comes in by loopback.
						if err := tryWithin(300*time.Millisecond, network, dst, 5000, "leak", bind); !isTimeout(err) {
							t.Errorf("%s to %s, bound to an %s: %v", network, dst, how, err)
						}
						continue
					}
					if err := try(network, dst, 5000, "leak", bind); !refused(err) {
						t.Errorf("%s to %s, bound to an %s: %v", network, dst, how, err)
					}
				}
				// What is not captured may be bound as it likes.
				for _, dst := range append(near, "203.0.113.9") {
					if err := try(network, dst, 5000, how+dst, func(fd int) error { return bind(fd, dst) }); err != nil {
						t.Errorf("%s to %s, bound to an %s: %v", network, dst, how, err)
					}
				}
			}
			for _, dst := range near { // but for names, which are captured there too
				if err := try("udp", dst, 53, "leak", func(fd int) error { return bind(fd, dst) }); !refused(err) {
					t.Errorf("port 53 of %s, bound to an %s: %v", dst, how, err)
				}
			}
		}
		for _, dst := range far {
			send(t, dst, 6000, "captured", nil)
			tun.expect(t, dst, 6000)
			send(t, dst, 5000, "marked "+dst, func(fd int) error {
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(h.Mark()))
			})
			peer.expect(t, "marked "+dst)
			asUser(4712, func() { send(t, dst, 5000, "excluded "+dst, nil) })
			peer.expect(t, "excluded "+dst)
		}
		strictServices(t)
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		sameState(t, before, hostState(t))
	}
}

// strictServices checks that services of this host answer far clients.
func strictServices(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i, client := range far {
		service := []string{hostAddr4, hostAddr6}[i]
		for _, network := range []string{"tcp", "udp"} {
			port := l.Addr().(*net.TCPAddr).Port
			local := net.Addr(&net.TCPAddr{IP: net.ParseIP(client)})
			if network == "udp" {
				local = &net.UDPAddr{IP: net.ParseIP(client)}
				port = serveUDP(t, false)
			}
			var c net.Conn
			inPeer(t, func() (err error) {
				d := net.Dialer{LocalAddr: local, Timeout: timeout}
				c, err = d.Dial(network, net.JoinHostPort(service, fmt.Sprint(port)))
				return err
			})
			defer c.Close()
			if network == "tcp" {
				in, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				in.Write([]byte("hello"))
				in.Close()
			} else {
				c.Write([]byte("hello"))
			}
			buf := make([]byte, 16)
			c.SetReadDeadline(time.Now().Add(timeout))
			if n, err := c.Read(buf); err != nil || string(buf[:n]) != "hello" {
				t.Errorf("%s client %s of this host's service: %q, %v", network, client, buf[:n], err)
			}
		}
	}
}

// After a crash the refusal is gone, or kept if that was asked for, until it is
// cleaned up or the next daemon captures.
func TestIntegrationStrictKill(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	peer := listenPeer(t, 5000)
	before := hostState(t)
	bound := func(dst string) error {
		return try("udp", dst, 5000, "bound "+dst, func(fd int) error { return around["address"](fd, dst) })
	}
	free := func(when string) {
		t.Helper()
		for _, dst := range far {
			if err := errors.Join(bound(dst), try("udp", dst, 5000, when+dst, nil)); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			peer.expect(t, when+dst)
		}
	}
	kill := func(mode string) {
		t.Helper()
		os.Setenv(strictEnv, mode)
		d := startDaemon(t)
		d.wait(t, "ready")
		for _, dst := range far {
			if err := bound(dst); refused(err) != (mode != "") {
				t.Errorf("strict %q: %v", mode, err)
			}
		}
		d.kill()
	}
	kept := func() {
		t.Helper()
		for _, dst := range far {
			if err := bound(dst); !refused(err) {
				t.Errorf("bound, after a crash: %v", err)
			}
			if err := try("udp", dst, 5000, "leak", nil); !refused(err) {
				t.Errorf("not bound, after a crash: %v", err)
			}
		}
	}
	kill("on")
	eventually(t, "the table went with the process", func() bool { return !strings.Contains(run(t, "nft list ruleset"), "strict") })
	free("killed ")
	kill("keep")
	kept()
	kill("keep") // the next start takes it over
	kept()
	if n, err := netcfg.Cleanup(); n == 0 || err != nil {
		t.Fatalf("Cleanup: %d, %v", n, err)
	}
	free("cleaned up ")
	sameState(t, before, hostState(t))
	kill("keep")
	kill("") // the next start drops it
	free("dropped ")
}
