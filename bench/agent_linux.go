package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"netstackd/bench/testbed"

	"golang.org/x/sys/unix"
)

// Agent is what the lab calls in an agent's process. A process is on one host,
// and is one end of the load: the server's, or a client's.
type Agent struct {
	server server

	mu   sync.Mutex
	load *load
}

// Nothing stands for no argument, or no result.
type Nothing struct{}

// Configure shapes the agent's own network namespace.
func (a *Agent) Configure(s Setup, _ *Nothing) error { return s.apply() }

// Online waits until the agent's host has an address.
func (a *Agent) Online(_ Nothing, _ *Nothing) error {
	for deadline := time.Now().Add(testbed.ReadyWithin); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		addrs, _ := net.InterfaceAddrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
				return nil
			}
		}
	}
	return errors.New("the namespace got no address")
}

// Serve starts the server.
func (a *Agent) Serve(_ Nothing, _ *Nothing) error { return a.server.start() }

// Received is how many bytes the server's sinks have read.
func (a *Agent) Received(_ Nothing, n *int64) error {
	*n = a.server.received.Load()
	return nil
}

// Start starts a load.
func (a *Agent) Start(spec Load, _ *Nothing) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.load != nil {
		return errors.New("a load is under way")
	}
	l, err := startLoad(spec)
	a.load = l
	if err != nil {
		a.load = nil
	}
	return err
}

// Count returns what the load has done.
func (a *Agent) Count(_ Nothing, c *Counts) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.load != nil {
		*c = a.load.counts()
	}
	return nil
}

// Stop ends the load.
func (a *Agent) Stop(_ Nothing, c *Counts) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.load != nil {
		*c = a.load.stop()
		a.load = nil
	}
	return nil
}

// runAgent serves the lab until that closes the connection.
func runAgent(conn net.Conn) error {
	// A thread that returns from the kernel finds a P idle, and doesn't wait for one.
	runtime.GOMAXPROCS(4 * workers)
	return serveCalls(conn, &Agent{})
}

// serveCalls lets the lab call what has methods for it.
func serveCalls(conn net.Conn, service any) error {
	s := rpc.NewServer()
	if err := s.RegisterName(serviceName, service); err != nil {
		return err
	}
	s.ServeConn(conn)
	return nil
}

// serviceName is the one service of each of the lab's helpers.
const serviceName = "Helper"

// agent is the lab's side of one, or of the wire.
type agent struct {
	cmd  *exec.Cmd
	conn *rpc.Client
}

// startAgent starts one in this network namespace, or in one of its own.
func startAgent(ctx context.Context, ownNet bool) (*agent, error) {
	attr := &syscall.SysProcAttr{}
	if ownNet {
		attr.Cloneflags = unix.CLONE_NEWNET
	}
	return startPeer(ctx, roleAgent, attr)
}

// startPeer starts a helper that serves calls.
func startPeer(ctx context.Context, role string, attr *syscall.SysProcAttr) (*agent, error) {
	cmd, conn, err := startHelper(ctx, role, attr)
	if err != nil {
		return nil, err
	}
	return &agent{cmd: cmd, conn: rpc.NewClient(conn)}, nil
}

func (a *agent) call(method string, args, reply any) error {
	done := a.conn.Go(serviceName+"."+method, args, reply, make(chan *rpc.Call, 1)).Done
	select {
	case call := <-done:
		return call.Error
	case <-time.After(2 * time.Minute):
		return fmt.Errorf("the agent does not answer to %s", method)
	}
}

func (a *agent) start(l Load) error { return a.call("Start", l, &Nothing{}) }

func (a *agent) counts() (c Counts, err error) { return c, a.call("Count", Nothing{}, &c) }

func (a *agent) stop() (c Counts, err error) { return c, a.call("Stop", Nothing{}, &c) }

func (a *agent) received() (n int64, err error) { return n, a.call("Received", Nothing{}, &n) }

// close ends the agent's process.
func (a *agent) close() {
	_ = a.conn.Close()
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

// Setup shapes a network namespace: what ip(8) is given, a command a line, and
// sysctls, name and value.
type Setup struct {
	IP      string
	Sysctls []string
}

func (s Setup) apply() error {
	if s.IP != "" {
		if err := testbed.IP(s.IP); err != nil {
			return err
		}
	}
	return testbed.Sysctl(s.Sysctls...)
}
