//go:build linux

package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"netstackd/internal/testnet"
)

// --max-flows is a limit on flows at once: more are refused, and taken again
// when one has ended.
func TestIntegrationMaxFlows(t *testing.T) {
	n, _ := startRouted(t, "--max-flows", "3")
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		var held []net.Conn
		for i := range 3 {
			c := dialTCP(t, n.A, dest(f, i, port))
			exchange(t, c, "one of three")
			held = append(held, c)
		}
		if err := tryFlow(n.A, dest(f, 4, port), time.Second); err == nil {
			t.Error("a fourth flow was carried")
		}
		exchange(t, held[0], "the old ones live on")
		for _, c := range held {
			c.Close()
		}
		testnet.Eventually(t, 5*time.Second, "a new flow is carried after the old ones", func() bool {
			return tryFlow(n.A, dest(f, 5, port), time.Second) == nil
		})
	})
}

// tryFlow opens a connection and sends a few bytes each way.
func tryFlow(h *testnet.Host, address string, patience time.Duration) error {
	c, err := h.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	return tryExchange(c, "a few bytes")
}

// Out of file descriptors, new flows are refused and old ones live on, and it
// recovers when some are given back.
func TestIntegrationFileDescriptors(t *testing.T) {
	n := testnet.New(t)
	args := append(routes(), "--max-flows", "100000", "--udp-timeout", "1m", "--drain", "0s")
	d := testnet.StartCommand(t, n.A.Command(t.Context(), "sh",
		append([]string{"-c", `ulimit -n 80 && exec "$0" "$@"`, program.Path(t)}, args...)...))
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	udp := n.B.ServeUDP(t, "0.0.0.0:0", testnet.EchoUDP)

	first := dialTCP(t, n.A, dest(testnet.IPv4, 0, port))
	exchange(t, first, "first")
	var held []net.Conn
	refused := 0
	for i := range 100 {
		c, err := n.A.DialTimeout("tcp", dest(testnet.IPv4, i, port), 500*time.Millisecond)
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			if err = tryExchange(c, "held"); err == nil {
				held = append(held, c)
				continue
			}
			c.Close()
		}
		if refused++; refused == 5 {
			break
		}
	}
	if refused == 0 || len(held) < 10 {
		t.Errorf("%d connections carried and %d refused with 80 file descriptors", len(held), refused)
	}
	exchange(t, first, "the old ones live on")
	for _, c := range held {
		c.Close()
	}
	testnet.Eventually(t, 10*time.Second, "new flows are carried again", func() bool {
		return tryFlow(n.A, dest(testnet.IPv4, 5, port), time.Second) == nil
	})

	// UDP: the least recently used session makes room for the newest.
	for i := range 150 {
		c := dialUDP(t, n.A, dest(testnet.IPv4, 1, udp))
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		if err := tryExchange(c, "room for one more"); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
		c.Close()
	}
	exchange(t, first, "and TCP lives on")
	// It makes room for a connection as well.
	for i := range 5 {
		if err := tryFlow(n.A, dest(testnet.IPv4, i, port), 5*time.Second); err != nil {
			t.Errorf("connection %d among idle sessions: %v", i, err)
		}
	}
	d.Stop()
}

// With few file descriptors three quarters of them are for flows, which one line
// says. It is not said where --max-flows decides.
func TestIntegrationFewFileDescriptors(t *testing.T) {
	n := testnet.New(t)
	start := func(args ...string) *testnet.Daemon {
		return testnet.StartCommand(t, n.A.Command(t.Context(), "sh",
			append([]string{"-c", `ulimit -n 256 && exec "$0" "$@"`, program.Path(t), "--drain", "0s"}, append(routes(), args...)...)...))
	}
	const line = "few file descriptors"
	d := start("--max-flows", "100")
	if strings.Contains(d.Stderr(), line) {
		t.Errorf("with --max-flows:\n%s", d.Stderr())
	}
	d.Stop()
	d = start()
	if said := d.Stderr(); strings.Count(said, line) != 1 || !strings.Contains(said, "descriptors=256 flows=192") {
		t.Errorf("it is not said once that 256 descriptors make 192 flows:\n%s", said)
	}
	port := n.B.ServeTCP(t, ":0", testnet.Echo)
	var held []net.Conn
	for len(held) < 192 {
		c := dialTCP(t, n.A, dest(testnet.IPv4, len(held), port))
		exchange(t, c, "one of 192")
		held = append(held, c)
	}
	if err := tryFlow(n.A, dest(testnet.IPv4, 192, port), time.Second); err == nil {
		t.Error("a flow beyond the limit was carried")
	}
	exchange(t, held[0], "the old ones live on")
	d.Stop()
}

// The cost of a packet and of a flow doesn't grow with the number of distinct
// destinations.
func TestIntegrationManyDestinations(t *testing.T) {
	if testnet.Race {
		t.Skip("measures, which means nothing under the race detector")
	}
	const destinations = 10_000
	t.Run("udp", func(t *testing.T) {
		n, d := startRouted(t)
		bothFamilies(t, func(t *testing.T, f testnet.Family) {
			port := n.B.ServeUDP(t, wildcard(f), testnet.EchoUDP)
			app := listenUDP(t, n.A, f)
			var few, many time.Duration
			n.A.Through(t, tun, 4*10_000*100, 4*10_000*100, func() {
				udpCost(t, d, app, f, port, inFlight)
				few = udpCost(t, d, app, f, port, inFlight)
				udpCost(t, d, app, f, port, destinations)
				many = udpCost(t, d, app, f, port, destinations)
			})
			t.Logf("CPU for a datagram and its echo: %v with %d destinations, %v with %d", few, inFlight, many, destinations)
			if many > 2*few {
				t.Errorf("%v with %d destinations, %v with %d", many, destinations, few, inFlight)
			}
		})
	})
	bothFamilies(t, func(t *testing.T, f testnet.Family) {
		n, d := startRouted(t, "--max-flows", "11000")
		port := hold(t, n.B)
		tcpCost(t, d, n, f, port, destinations)
	})
}

// inFlight is how many datagrams are under way at once. With fewer destinations
// than that, several of them would go to one destination in one system call.
const inFlight = 16

// udpCost sends 10,000 datagrams to as many destinations as it is told and returns the daemon's CPU time for one echo.
func udpCost(t *testing.T, d *testnet.Daemon, app *net.UDPConn, f testnet.Family, port uint16, destinations int) time.Duration {
	t.Helper()
	const datagrams = 10_000
	payload, buf := make([]byte, 100), make([]byte, 200)
	before := d.CPU()
	for i := range datagrams + inFlight {
		if i >= inFlight {
			_ = app.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, _, err := app.ReadFromUDPAddrPort(buf); err != nil {
				t.Fatalf("echo %d: %v", i-inFlight, err)
			}
		}
		if i < datagrams {
			to := netip.AddrPortFrom(testnet.Dest(f, i%destinations), port)
			if _, err := app.WriteToUDPAddrPort(payload, to); err != nil {
				t.Fatal(err)
			}
		}
	}
	return (d.CPU() - before) / datagrams
}

// tcpCost opens a connection to each destination and holds them all. The
// first thousand and the last cost the daemon the same CPU, and so do
// exchanges on one connection before and after.
func tcpCost(t *testing.T, d *testnet.Daemon, n *testnet.Network, f testnet.Family, port uint16, destinations int) {
	t.Helper()
	one := dialTCP(t, n.A, dest(f, 0, port))
	_ = one.SetDeadline(time.Time{})
	exchanges := func() time.Duration {
		before := d.CPU()
		for range 2000 {
			exchange(t, one, "to and fro")
		}
		return (d.CPU() - before) / 2000
	}
	exchanges()
	alone := exchanges()
	const batch = 1000
	var first, last time.Duration
	for done := 0; done < destinations; done += batch {
		before := d.CPU()
		for i := range batch {
			c, err := n.A.DialTimeout("tcp", dest(f, done+i, port), 5*time.Second)
			if err != nil {
				t.Fatalf("connection %d: %v", done+i, err)
			}
			defer c.Close()
		}
		last = (d.CPU() - before) / batch
		if done == batch { // the second: the first warms up
			first = last
		}
	}
	crowded := exchanges()
	t.Logf("CPU for a new flow: %v early, %v at %d; for an exchange: %v alone, %v among %d; RSS %d KiB",
		first, last, destinations, alone, crowded, destinations, d.RSS(t)>>10)
	if last > 2*first {
		t.Errorf("a new flow costs %v with %d held, %v with few", last, destinations, first)
	}
	if crowded > 2*alone+5*time.Microsecond {
		t.Errorf("an exchange costs %v with %d flows held, %v alone", crowded, destinations, alone)
	}
}

// holderEnv makes the test binary a TCP echo server. Ten thousand connections
// with both ends in one process would need more descriptors than many
// machines allow it.
const holderEnv = "NETSTACKD_TEST_HOLD"

// hold starts such a server on the host and returns its port.
func hold(t *testing.T, h *testnet.Host) (port uint16) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(t.Context(), self)
	cmd.Env = append(os.Environ(), holderEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(cmd) })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(line, &port)
	}
	if err != nil {
		t.Fatalf("the holder said %q: %v", line, err)
	}
	return port
}

func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// holdConnections is that server's main.
func holdConnections() int {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(l.Addr().String(), "[::]"), ":")
	fmt.Println(port)
	for {
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		go func() {
			defer c.Close()
			_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 512))
		}()
	}
}
