//go:build linux

package main_test

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// The same for datagrams, to an address and to a name.
func TestIntegrationAccessRemoteDatagrams(t *testing.T) {
	n := testnet.New(t)
	arrived := make(chan string, 16)
	private := n.A.ServeUDP(t, "127.0.0.1:0", func(d testnet.Datagram) { arrived <- string(d.Payload) })
	public := n.B.ServeUDP(t, "0.0.0.0:0", testnet.EchoUDP)
	files(t, n.A, map[string]string{"hosts": "127.0.0.1 inside.test\n10.77.0.2 both.test\n127.0.0.1 both.test\n"})
	d := n.A.Start(t, program.Path(t), "--drain", "0s", "--socks", "10.77.0.1:1080", "--allow-open")
	defer d.Stop()
	r, relay, _ := socks5(t, n.B, "10.77.0.1:1080", socksAssociate, "0.0.0.0:0")
	if r != socksOK {
		t.Fatalf("reply %d", r)
	}
	c := dialUDP(t, n.B, relay.String())
	send := func(hostport, payload string) {
		t.Helper()
		if _, err := c.Write(append(append([]byte{0, 0, 0}, socksAddr(t, hostport)...), payload...)); err != nil {
			t.Fatal(err)
		}
	}
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "[::ffff:127.0.0.1]", "inside.test", "localhost"} {
		send(fmt.Sprintf("%s:%d", host, private), host)
	}
	// What follows on the same association has overtaken nothing: when it is back,
	// the others have been judged. A name is looked up beside the traffic.
	for _, host := range []string{"10.77.0.2", "both.test"} {
		send(fmt.Sprintf("%s:%d", host, public), "echo")
		buf := make([]byte, 100)
		if n, err := c.Read(buf); err != nil || !strings.HasSuffix(string(buf[:n]), "echo") {
			t.Fatalf("%s: %q, %v", host, buf[:n], err)
		}
	}
	select {
	case got := <-arrived:
		t.Errorf("a datagram to %s reached this host's loopback", got)
	default:
	}
}

// Another host's client can't send, through its own association, to the one of a
// client of this host, and so pass for that.
func TestIntegrationAccessAssociationOfAnother(t *testing.T) {
	n := testnet.New(t)
	arrived := make(chan string, 4)
	private := n.A.ServeUDP(t, "127.0.0.1:0", func(d testnet.Datagram) { arrived <- string(d.Payload) })
	public := n.B.ServeUDP(t, "0.0.0.0:0", testnet.EchoUDP)
	const proxy = "10.77.0.1:1080"
	n.A.Start(t, program.Path(t), "--drain", "0s", "--socks", proxy, "--allow-open")
	wrap := func(hostport, payload string) string {
		return "\x00\x00\x00" + string(socksAddr(t, hostport)) + payload
	}
	_, victim, _ := socks5(t, n.A, proxy, socksAssociate, "0.0.0.0:0")
	_, relay, _ := socks5(t, n.B, proxy, socksAssociate, "0.0.0.0:0")
	attacker := dialUDP(t, n.B, relay.String())
	inside := fmt.Sprintf("127.0.0.1:%d", private)
	for _, d := range []string{
		wrap(victim.String(), wrap(inside, "the other host's")),
		wrap(fmt.Sprintf("10.77.0.2:%d", public), "what comes back has overtaken nothing"),
	} {
		if _, err := io.WriteString(attacker, d); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := attacker.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(dialUDP(t, n.A, victim.String()), wrap(inside, "this host's")); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-arrived:
		if got != "this host's" {
			t.Errorf("%q reached this host's loopback", got)
		}
	case <-time.After(5 * time.Second):
		t.Error("the association was taken from its client")
	}
}

// A gateway client's DNS query reaches the nameserver that this host uses, also
// one on its loopback, which the client itself does not reach.
func TestIntegrationAccessGatewayDNS(t *testing.T) {
	testnet.RequireTool(t, "dig")
	n := testnet.New(t)
	n.A.ServeDNS(t, "127.0.0.53:53", map[string][]netip.Addr{"www.test": {testnet.Dest(testnet.IPv4, 1)}})
	files(t, n.A, map[string]string{"resolv.conf": "nameserver 127.0.0.53\n"})
	n.A.Run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	n.B.Run(t, "ip", "route", "add", "198.18.0.0/30", "via", n.A.IP4.String())
	d := n.A.Start(t, program.Path(t), "--drain", "0s", "--route", "default", "--gateway")
	defer d.Stop()
	for _, transport := range []string{"+notcp", "+tcp"} {
		for _, h := range []*testnet.Host{n.A, n.B} {
			out := h.Run(t, "dig", "+short", "+tries=1", "+time=5", transport, "@198.18.0.2", "www.test")
			if got := strings.TrimSpace(out); got != testnet.Dest(testnet.IPv4, 1).String() {
				t.Errorf("dig %s on %s: %q", transport, h.Name, got)
			}
		}
	}
}

// A resolv.conf that names the stack does not make it ask itself.
func TestIntegrationAccessResolverLoop(t *testing.T) {
	testnet.RequireTool(t, "dig")
	n := testnet.New(t)
	n.B.ServeDNS(t, "10.77.0.2:53", map[string][]netip.Addr{"www.test": {testnet.Dest(testnet.IPv4, 1)}})
	for conf, want := range map[string]string{
		"nameserver 198.18.0.2\nnameserver 10.77.0.2\n": testnet.Dest(testnet.IPv4, 1).String(),
		"nameserver 198.18.0.2\n":                       "SERVFAIL",
	} {
		files(t, n.A, map[string]string{"resolv.conf": conf})
		d := n.A.Start(t, program.Path(t), "--drain", "0s", "--route", "default")
		for range 3 {
			began := time.Now()
			out := n.A.Run(t, "dig", "+tries=1", "+time=8", "@198.18.0.2", "www.test")
			took := time.Since(began)
			if !strings.Contains(out, want) || took > time.Second {
				t.Errorf("%q: after %v:\n%s", conf, took, out)
			}
		}
		if c := strings.Count(d.Stderr(), "nameserver is of no use"); c != 1 {
			t.Errorf("%q: %d warnings:\n%s", conf, c, d.Stderr())
		}
		d.Stop()
	}
}
