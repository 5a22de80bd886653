package sandbox

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/resolvconf"
)

// IsHelper reports whether this process is a sandbox's helper. A program that
// uses this package asks first thing in main, and exits with what Main returns.
func IsHelper() bool { return len(os.Args) > 0 && os.Args[0] == HelperName }

// Main is the helper, in the sandbox's namespaces: it shapes them, starts the
// command, and stays as its parent. It returns what the process exits with.
func Main() int {
	// One thread's capabilities are changed, and the command forked off it.
	runtime.LockOSThread()
	// top(1) would call it by the name of /proc/self/exe. At most 15 bytes.
	_ = os.WriteFile("/proc/self/comm", []byte("netstackd-exec"), 0)
	h, err := newHelper(os.Args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v: it is started by `netstackd exec`\n", HelperName, err)
		return StatusFailed
	}
	if err := h.serve(); err != nil {
		return StatusFailed
	}
	return 0
}

// helper is the process inside.
type helper struct {
	conn    *conn
	argv    []string // the command
	setup   setup
	lent    []int // what the caller left open for the command
	masks   *masks
	signals *relay
}

func newHelper(args []string) (*helper, error) {
	if len(args) < 3 {
		return nil, fmt.Errorf("%d arguments", len(args))
	}
	fd, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	conn, err := newConn(fd)
	if err != nil {
		return nil, err
	}
	return &helper{conn: conn, argv: args[2:], lent: lent(), signals: newRelay()}, nil
}

// serve does what netstackd asks for, up to the end of either.
func (h *helper) serve() error {
	for {
		m, fds, err := h.conn.receive()
		if err != nil {
			return err
		}
		closeAll(fds)
		switch m.Op {
		case opSetup:
			err = h.setUp(*m.Setup)
		case opProbe:
			err = h.probe(*m.Probe)
		case opStart:
			return h.run()
		case opKill:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fail tells netstackd why it has to give up.
func (h *helper) fail(status int, err error) error {
	_ = h.conn.send(message{Op: opFailed, Status: status, Text: err.Error(), Errno: int(errnoOf(err))})
	return err
}

// setUp shapes the namespaces and hands out the fds.
func (h *helper) setUp(s setup) error {
	h.setup = s
	proc := os.DirFS("/proc")
	var warnings []string
	tuns, err := openTUN(s.TUN, s.Queues)
	if err != nil {
		return h.fail(StatusFailed, explainTUN(err, proc))
	}
	ipv6 := !s.NoIPv6 && haveIPv6()
	if err := configureLinks(s, ipv6); err != nil {
		return h.fail(StatusFailed, explainInside(err, proc))
	}
	if err := allowPing(); err != nil {
		warnings = append(warnings, fmt.Sprintf("ping won't work for the command: %v", err))
	}
	if err := allowPorts(); err != nil {
		warnings = append(warnings, fmt.Sprintf("the command can't serve ports below 1024: %v", err))
	}
	conf, _ := resolvconf.Read(resolvconf.Path) // without it there is no setting to keep
	if h.masks, err = newMasks(commandConf(conf, s.Nameserver)); err != nil {
		return h.fail(StatusFailed, explainMount(err, proc))
	}
	if os.Geteuid() == 0 {
		if err := protectSettings(); err != nil {
			return h.fail(StatusFailed, explainMount(err, proc))
		}
	}
	streams, packets := listenDNS(loopbackServers(conf))
	fds := append(append(tuns, streams...), packets...)
	defer closeAll(fds)
	return h.conn.send(message{Op: opReady, NoIPv6: !ipv6, Streams: len(streams), Warnings: warnings}, fds...)
}

// probe connects to where netstackd will look for it, and tells what it found.
func (h *helper) probe(p probe) error {
	ctx, cancel := context.WithTimeout(context.Background(), p.Timeout)
	defer cancel()
	var answers strings.Builder
	for _, addr := range p.Addrs {
		if err := ask(ctx, addr.String(), p.Secret, &answers); err != nil {
			return h.fail(StatusFailed, err)
		}
	}
	return h.conn.send(message{Op: opProbed, Text: answers.String()})
}

// ask sends the question to addr and appends the answer.
func ask(ctx context.Context, addr, question string, answer *strings.Builder) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	if _, err := io.WriteString(c, question); err != nil {
		return err
	}
	_, err = io.Copy(answer, io.LimitReader(c, 256))
	return err
}

// dialTimeout bounds a connection to the command's own server, which is on the
// same host.
const dialTimeout = 5 * time.Second

// dial connects inside and hands the connection out.
func (h *helper) dial(m message) {
	reply := message{Op: opDialed, ID: m.ID}
	address, err := dialAddress(m.Network, m.Address)
	var c net.Conn
	if err == nil {
		d := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
		c, err = d.Dial(m.Network, address)
	}
	if err != nil {
		reply.Text, reply.Errno = err.Error(), int(errnoOf(err))
		_ = h.conn.send(reply)
		return
	}
	defer c.Close()
	raw, err := c.(syscall.Conn).SyscallConn() // as all of package net's are
	if err == nil {
		err = raw.Control(func(fd uintptr) { _ = h.conn.send(reply, int(fd)) })
	}
	if err != nil {
		reply.Text = err.Error()
		_ = h.conn.send(reply)
	}
}

// dialAddress fills in the host of a UDP address without one: a connection to a
// closed UDP port does not fail, so hosts can't be tried one after the other.
func dialAddress(network, address string) (string, error) {
	port, ok := strings.CutPrefix(address, ":")
	if network != "udp" || !ok {
		return address, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", err
	}
	bound, err := boundUDP(os.DirFS("/proc"), uint16(n))
	return bound.String(), err
}
