//go:build linux

package testnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Host is one network namespace with an address of each family.
type Host struct {
	Name     string // of the namespace, for `ip netns exec`
	IP4, IP6 netip.Addr
}

// Addr is the host's address on Device.
func (h *Host) Addr(f Family) netip.Addr {
	if f == IPv4 {
		return h.IP4
	}
	return h.IP6
}

// Do runs fn on a thread that is in the host's namespace. Sockets that fn
// makes stay there; goroutines that it starts are not in it.
func (h *Host) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine, so that no
		// other goroutine finds itself in the wrong namespace.
		runtime.LockOSThread()
		fd, err := os.Open("/run/netns/" + h.Name)
		if err != nil {
			done <- err
			return
		}
		defer fd.Close()
		if err := unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("testnet: enter %s: %w", h.Name, err)
			return
		}
		done <- fn()
	}()
	return <-done
}

// Command is a program that will run on the host. It dies with ctx, with all that
// it has started.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", h.Name, name}, args...)...)
	cmd.Cancel = func() error {
		KillTree(cmd.Process.Pid)
		return nil
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Output runs a program to its end, at most a minute, and returns what it
// printed to standard output and standard error.
func (h *Host) Output(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %q on %s: %w: %s", name, args, h.Name, err, out)
	}
	return string(out), nil
}

// Run is Output for programs that must succeed.
func (h *Host) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := h.Output(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (h *Host) ip(t testing.TB, args ...string) {
	t.Helper()
	ip(t, append([]string{"-n", h.Name}, args...)...)
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("testnet: ip %q: %v: %s", args, err, out)
	}
}

// DialTimeout connects from the host to an address, not to a name.
func (h *Host) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	return h.Dial(&net.Dialer{Timeout: timeout}, network, address)
}

// Dial connects from the host with d. With an address for a destination, the
// dialer makes its socket on the calling thread.
func (h *Host) Dial(d *net.Dialer, network, address string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("testnet: dial: %w", err)
	}
	err = h.Do(func() (err error) {
		c, err = d.Dial(network, address)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// ListenPacket opens a UDP socket on the host.
func (h *Host) ListenPacket(t testing.TB, network, address string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	err := h.Do(func() (err error) {
		c, err = net.ListenPacket(network, address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}
