package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Sandbox is a set of namespaces with a TUN in it, and the command that runs
// there once Run has let it.
type Sandbox struct {
	cfg     Config
	conn    *conn
	helper  *exec.Cmd
	reap    func() error // waits for the helper, once
	tuns    []int
	lent    []int // what our caller left open for the command
	packets []net.PacketConn
	streams []net.Listener
	proof   atomic.Pointer[proof] // set while Run probes
	calls   calls
	signals chan os.Signal // with Config.JobControl, from Run on
	warn    []string
}

// Start makes the namespaces and the TUN in them. The command doesn't run yet:
// carry the TUN's traffic, then call Run and Wait. ctx bounds Start alone. The
// error is an *Error with StatusFailed, which says what to mend.
func Start(ctx context.Context, cfg Config) (*Sandbox, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, &Error{StatusFailed, err}
	}
	spaces := namespaces(cfg.UserNamespace)
	s, err := start(ctx, cfg, spaces[0])
	for _, alternative := range spaces[1:] {
		if err == nil || ctx.Err() != nil {
			break
		}
		cfg.Logger.Debug("no user namespace", "err", err)
		s, err = start(ctx, cfg, alternative) // its error is the reason: it needs the least
	}
	if err != nil {
		return nil, asError(err)
	}
	for _, w := range s.warn {
		cfg.Logger.Warn(w)
	}
	return s, nil
}

func start(ctx context.Context, cfg Config, attr *syscall.SysProcAttr) (*Sandbox, error) {
	s := &Sandbox{cfg: cfg}
	if err := s.startHelper(attr); err != nil {
		return nil, err
	}
	if err := s.setUp(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// startHelper runs this program again in namespaces of its own.
func (s *Sandbox) startHelper(attr *syscall.SysProcAttr) error {
	ours, theirs, err := newPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	s.lent = lent()
	extra, closeExtra := extraFiles(s.lent)
	defer closeExtra()
	// The helper's own arguments are the command's, and its environment too,
	// so that what exec can carry, we can: a message could not.
	s.helper = &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        append([]string{HelperName, fmt.Sprint(3 + len(extra))}, s.cfg.Command...),
		Env:         s.cfg.Env,
		Dir:         s.cfg.Dir,
		Stdin:       os.Stdin,
		Stdout:      os.Stdout,
		Stderr:      os.Stderr,
		ExtraFiles:  append(extra, theirs),
		SysProcAttr: attr,
	}
	if err := s.helper.Start(); err != nil {
		ours.Close()
		if dirErr := checkDir(s.cfg.Dir); dirErr != nil {
			return dirErr
		}
		if errors.Is(err, unix.E2BIG) {
			return &Error{StatusCannotRun, err}
		}
		return explainClone(err, os.DirFS("/proc"))
	}
	s.conn = ours
	s.reap = sync.OnceValue(s.helper.Wait)
	return nil
}

// checkDir says what is wrong with a working directory; fork and exec would not
// say that it was that.
func checkDir(dir string) error {
	if dir == "" {
		return nil
	}
	if err := unix.Access(dir, unix.X_OK); err != nil {
		return &os.PathError{Op: "chdir", Path: dir, Err: err}
	}
	return nil
}

// setUp has the helper shape its namespaces, and takes over the fds from there.
func (s *Sandbox) setUp(ctx context.Context) error {
	m, fds, err := s.ask(ctx, message{Op: opSetup, Setup: &setup{
		TUN:        s.cfg.TUN,
		Queues:     s.cfg.Queues,
		MTU:        s.cfg.MTU,
		PathMTU:    s.cfg.PathMTU,
		Addresses:  s.cfg.Addresses,
		Nameserver: s.cfg.Nameserver,
		NoIPv6:     s.cfg.NoIPv6,
		Grace:      s.cfg.Grace,
	}}, opReady)
	if err != nil {
		return err
	}
	s.warn = m.Warnings
	s.cfg.NoIPv6 = m.NoIPv6
	if len(fds) < s.cfg.Queues+m.Streams {
		closeAll(fds)
		return fmt.Errorf("%d fds from the helper: the fd limit may be reached (ulimit -n)", len(fds))
	}
	s.tuns = fds[:s.cfg.Queues]
	return s.adoptDNS(fds[s.cfg.Queues:], m.Streams)
}

// adoptDNS makes the first streams of fds listeners and the rest packet conns.
func (s *Sandbox) adoptDNS(fds []int, streams int) error {
	var errs error
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "dns")
		if i < streams {
			l, err := net.FileListener(f)
			if err == nil {
				s.streams = append(s.streams, l)
			}
			errs = errors.Join(errs, err)
		} else {
			c, err := net.FilePacketConn(f)
			if err == nil {
				s.packets = append(s.packets, c)
			}
			errs = errors.Join(errs, err)
		}
		f.Close()
	}
	return errs
}

// ask sends m and returns the answer, which has to be a want. It must not run
// beside Wait, which receives too.
func (s *Sandbox) ask(ctx context.Context, m message, want op) (message, []int, error) {
	stop := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.conn.send(m); err != nil {
		return message{}, nil, s.died(err)
	}
	m, fds, err := s.conn.receive()
	switch {
	case ctx.Err() != nil:
		closeAll(fds)
		return message{}, nil, context.Cause(ctx)
	case err != nil:
		return message{}, nil, s.died(err)
	case m.Op == opFailed:
		return message{}, nil, &Error{m.Status, remoteError(m)}
	case m.Op != want:
		closeAll(fds)
		return message{}, nil, fmt.Errorf("%s from the helper, not %s", m.Op, want)
	}
	return m, fds, nil
}

// died makes an error of the helper's end.
func (s *Sandbox) died(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) {
		if err := s.reap(); err != nil {
			return fmt.Errorf("the helper died: %w", err)
		}
		return errors.New("the helper is gone")
	}
	return err
}

// TUN hands over the fds of the TUN's queues, which are the caller's from now
// on. They have a virtio header (IFF_VNET_HDR), no packet information, and no
// offloads yet. The second call returns none.
func (s *Sandbox) TUN() []int {
	fds := s.tuns
	s.tuns = nil
	return fds
}

// DNS hands over sockets on the sandbox's loopback: for each nameserver that
// the host's resolv.conf has on the host's loopback, such as 127.0.0.53, and on
// 127.0.0.1 and ::1 when it names none. A program that asks there, because it
// doesn't read resolv.conf or because there is none to lay ours over, is served
// like one that asks the stack. The second call returns none.
func (s *Sandbox) DNS() ([]net.PacketConn, []net.Listener) {
	packets, streams := s.packets, s.streams
	s.packets, s.streams = nil, nil
	return packets, streams
}

// Close ends whatever is left: the command and all it started are killed, and
// what TUN and DNS have not handed over is closed. It must not be called before
// Run or Wait has returned. It is idempotent.
func (s *Sandbox) Close() error {
	closeAll(s.TUN())
	packets, streams := s.DNS()
	for _, c := range packets {
		c.Close()
	}
	for _, l := range streams {
		l.Close()
	}
	if s.signals != nil {
		signal.Stop(s.signals)
	}
	_ = s.conn.send(message{Op: opKill}) // it may be gone
	_ = s.conn.CloseWrite()
	_ = s.reap()
	_ = s.conn.Close()
	return nil
}
