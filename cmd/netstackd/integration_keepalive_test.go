//go:build linux

package main_test

import (
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/testnet"
)

// A flow whose peer vanishes, on either side, ends within the time that
// --keepalive gives, idle or not; one that stays idle lives on.
func TestIntegrationVanishedPeer(t *testing.T) {
	testnet.RequireTool(t, "nft")
	const within = 6 * time.Second // 1s + 5 × 1s
	n, _ := startRouted(t, "--keepalive", "1s/1s/5")
	n.A.Run(t, "nft", "add table inet vanish; add chain inet vanish in { type filter hook input priority 0; }; "+
		"add chain inet vanish out { type filter hook output priority 0; }")
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		for i, c := range []struct {
			name, rule string // what makes the peer vanish, for a port
			socks      bool
			flood      bool // the server sends all the time
			serverSees bool // and not the client
		}{
			{name: "application", rule: `in iifname "` + tun + `" tcp sport PORT drop`, serverSees: true},
			{name: "application that downloads", rule: `out oifname "` + tun + `" tcp dport PORT drop`, flood: true, serverSees: true},
			{name: "destination", rule: `in iifname "` + testnet.Device + `" tcp sport PORT drop`},
			{name: "SOCKS client", rule: `in iifname "lo" tcp dport 1080 drop`, socks: true, serverSees: true},
		} {
			t.Run(c.name, func(t *testing.T) {
				ended := make(chan error, 2) // the server's end, and the client's
				port := n.B.ServeTCP(t, wildcard(f), func(s *net.TCPConn) {
					if c.flood {
						flood(s)
						ended <- errors.New("its writes fail")
						return
					}
					_, err := io.Copy(s, s)
					ended <- err
				})
				to := dest(f, i, port)
				var client, quiet net.Conn = dialTCP(t, n.A, to), dialTCP(t, n.A, dest(f, i, n.B.ServeTCP(t, wildcard(f), testnet.Echo)))
				if c.socks {
					client.Close()
					<-ended
					client = dialSOCKS(t, n.A, "127.0.0.1:1080", to)
				}
				if !c.flood {
					exchange(t, client, "here")
					acknowledge(t, client) // what waits for its acknowledgement is not idle
				}
				exchange(t, quiet, "here")
				n.A.Run(t, "nft", "add rule inet vanish "+strings.ReplaceAll(c.rule, "PORT", strconv.Itoa(int(port))))
				defer n.A.Run(t, "nft", "flush table inet vanish")
				began := time.Now()
				if !c.serverSees {
					_ = client.SetDeadline(time.Now().Add(3 * within))
					_, err := client.Read(make([]byte, 1))
					ended <- err
				} else if c.flood {
					go io.Copy(io.Discard, client)
				}
				select {
				case err := <-ended:
					var timeout net.Error
					if errors.As(err, &timeout) && timeout.Timeout() {
						t.Error(err)
					}
					t.Logf("ended after %v: %v", time.Since(began), err)
				case <-time.After(3 * within):
					t.Fatalf("not ended after %v", time.Since(began))
				}
				if took := time.Since(began); took > within+2*time.Second {
					t.Errorf("took %v, want %v", took, within)
				}
				exchange(t, quiet, "still here")
			})
		}
	})
}

// acknowledge has the kernel acknowledge now what the connection has received.
func acknowledge(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_QUICKACK, 1) }); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
}
