package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"netstackd/bench/testbed"
)

// lifeRows stop netstackd, or take away what it stands on.
func lifeRows() []row {
	return []row{
		{
			name: "life/kill -9 at random points", short: true, paths: transparentPaths, window: time.Minute,
			about: "8 times: killed while it starts or carries 200 connections; then the kernel's path, cleanup, a new start",
			load:  killRepeatedly, expect: expect{conns: -1, rate: -1, breaks: true},
		},
		{
			name: "life/SIGSTOP for 3 s", short: true,
			about: "stopped for 3 s, then continued", expect: expect{rate: -1, timeout: 2 * timeoutDefault},
			load: func(ctx context.Context, r *run) error {
				r.daemon.Signal(syscall.SIGSTOP)
				pause(ctx, 3*time.Second)
				r.daemon.Signal(syscall.SIGCONT)
				<-ctx.Done()
				return nil
			},
		},
		{
			name: "life/SIGTERM under load", paths: transparentPaths,
			about: "SIGTERM with 500 flows, 100 idle HTTP clients, 20 upgraded ones, 100 half handshakes and an ICMP flood",
			load:  terminateUnderLoad, expect: expect{conns: -1, rate: -1, breaks: true, own: true}, window: 3 * windowDefault,
		},
		{
			name: "life/TUN down for 1 s", paths: transparentPaths,
			about: "ip link set down, and up again", expect: expect{conns: -1, rate: -1, breaks: true},
			load: func(ctx context.Context, r *run) error {
				if err := r.net.a.ip("link set " + tunDevice + " down"); err != nil {
					return err
				}
				pause(ctx, time.Second)
				if err := r.net.a.ip("link set " + tunDevice + " up"); err != nil {
					return err
				}
				return nil
			},
		},
		{
			name: "life/TUN deleted", short: true, paths: transparentPaths,
			about: "ip link del", expect: expect{conns: -1, rate: -1, breaks: true, own: true},
			load: deleteTUN,
		},
		{
			name:  "life/link to the servers down for 2 s",
			about: "A's interface goes down and comes back", expect: expect{conns: -1, rate: -1},
			load: func(ctx context.Context, r *run) error {
				if err := r.net.a.ip("link set " + device + " down"); err != nil {
					return err
				}
				pause(ctx, 2*time.Second)
				return r.net.linkUp()
			},
		},
	}
}

// killRepeatedly ends with a daemon that runs.
func killRepeatedly(ctx context.Context, r *run) error {
	random := rand.New(rand.NewPCG(3, 4))
	path := transparentPaths(r.net)[0]
	var wrong []string
	for i := range 8 {
		if i%2 == 0 {
			load, cancel := context.WithTimeout(ctx, time.Duration(random.IntN(400))*time.Millisecond)
			var c crowd
			err := c.gather(load, path, portEcho, 1000, 200, nil)
			cancel()
			if err != nil {
				return err
			}
			r.daemon.Kill()
			c.disperse()
		} else if err := r.killStarting(time.Duration(random.IntN(80)) * time.Millisecond); err != nil {
			return err
		}
		// Without netstackd, at once, on the kernel's path.
		try, cancel := context.WithTimeout(ctx, time.Second)
		c, err := path.connect(try, 20_000+i, portEcho)
		cancel()
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("no connectivity: %v", err))
		} else {
			c.Close()
		}
		if out, err := r.net.a.output(ctx, r.options.program, "cleanup"); err != nil {
			wrong = append(wrong, fmt.Sprintf("cleanup: %v: %s", err, out))
		}
		for _, line := range left(ctx, r.net.a) {
			wrong = append(wrong, "left after cleanup: "+line)
		}
		if err := r.start(ctx); err != nil {
			return fmt.Errorf("start after kill %d: %w", i, err)
		}
		if i%2 == 0 { // the next one is killed while it starts
			r.daemon.Kill()
		}
	}
	for _, text := range wrong {
		r.note("%s", text)
	}
	r.check(len(wrong) == 0, "8 kills: connectivity at once, cleanup leaves nothing, starts again", "%d of 8 with defects", len(wrong))
	return nil
}

// killStarting kills a daemon so long after its start.
func (r *run) killStarting(after time.Duration) error {
	cmd := exec.Command(r.options.program, r.allFlags()...)
	return r.net.a.do(func() error {
		p, err := testbed.Start(cmd, "ready")
		if err != nil {
			return err
		}
		time.Sleep(after)
		p.Kill()
		return nil
	})
}

// terminateUnderLoad ends netstackd while all kinds of clients hold it.
func terminateUnderLoad(ctx context.Context, r *run) error {
	var flows, idle, upgraded, half crowd
	for _, c := range []*crowd{&flows, &idle, &upgraded, &half} {
		defer c.disperse()
	}
	n := r.net
	socks := netip.MustParseAddrPort("127.0.0.1:1080")
	proxy := path{from: n.a, direct: socks}
	begin := func(c *crowd, p path, port uint16, most int, say func(net.Conn, int) error) error {
		return c.gather(ctx, p, port, 1000, most, say)
	}
	request := func(text string) func(net.Conn, int) error {
		return func(c net.Conn, _ int) error {
			if _, err := io.WriteString(c, text); err != nil {
				return err
			}
			_, err := c.Read(make([]byte, 4096))
			return err
		}
	}
	for _, err := range []error{
		n.servers.serve(n.b, ":8080", httpServer),
		begin(&flows, path{from: n.a}, portSource, 500, nil),
		begin(&idle, proxy, 0, 100, request("GET http://10.78.0.1:8080/ HTTP/1.1\r\nHost: x\r\n\r\n")),
		begin(&upgraded, proxy, 0, 20, request("GET http://10.78.0.1:8080/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")),
		begin(&half, proxy, 0, 100, func(c net.Conn, _ int) error { _, err := c.Write([]byte{5}); return err }),
	} {
		if err != nil {
			return err
		}
	}
	r.note("flows: %v; idle: %v; upgraded: %v; half: %v", &flows, &idle, &upgraded, &half)
	flood, stop := context.WithTimeout(ctx, windowDefault)
	defer stop()
	done := make(chan error, 1)
	go func() {
		j, err := n.fromLAN()
		if err == nil {
			err = j.flood(flood, r, 20_000, 100_000, func(i int, _ *rand.Rand) []byte {
				return icmpEcho(addr4(10, 88, 0x303), addr4(10, 78, i%1000), 7, uint16(i), at(0, 56))
			})
		}
		done <- err
	}()
	pause(ctx, 500*time.Millisecond)
	r.checkEnd(ctx)
	stop()
	return <-done
}

// httpServer answers each request, and goes on as something else where it is
// asked to.
func httpServer(c net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		reply := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
		if strings.Contains(string(buf[:n]), "Upgrade: x") {
			reply = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return
		}
	}
}

func deleteTUN(ctx context.Context, r *run) error {
	began := time.Now()
	if err := r.net.a.ip("link del " + tunDevice); err != nil {
		return err
	}
	const want = "exits 1 ≤ 3 s, leaves nothing"
	select {
	case <-r.daemon.Ended():
	case <-time.After(endsWithin):
		r.check(false, want, "still runs")
		return nil
	}
	lines := left(ctx, r.net.a)
	for _, line := range lines {
		r.note("left behind: %s", line)
	}
	status := r.daemon.Status()
	r.check(status == 1 && len(lines) == 0, want, "status %d after %.1f s, left %d", status, time.Since(began).Seconds(), len(lines))
	return nil
}
