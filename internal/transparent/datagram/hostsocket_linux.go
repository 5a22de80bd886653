package datagram

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/epoll"
	"netstackd/internal/ippkt"
	"netstackd/internal/sys"
)

// hostSocket is what the carriers over host sockets have in common. The
// descriptor is a duplicate of that of a connection, which is closed. Otherwise
// the Go runtime's poller would wake up for each packet too.
//
// Sending happens on the goroutine that delivers packets, without blocking. What
// does not fit in the socket's buffer is dropped, as a router would.
type hostSocket struct {
	s     *session
	fd    int
	task  epoll.Task
	watch atomic.Pointer[epoll.Watch]

	mode int // IP_MTU_DISCOVER as set, -1 at first; the sender's

	errorsLeft bool // the error queue was not read to its end; the task's
	quoted     func(e *sys.QueuedError) (ippkt.Quote, bool)

	mu  sync.Mutex
	mtu struct { // of the last path that was too narrow
		dst   netip.Addr
		bytes uint32
		when  time.Duration
	}
	big   ippkt.Quote // the last packet that was too big
	isBig bool        // its sender waits for an ICMP error: the MTU is not known yet
}

// adopt takes the socket over from its connection, and turns on the options
// that every socket needs and those given. A readable socket, or one with an
// error, will call run.
func (k *hostSocket) adopt(s *session, c syscall.Conn, run func(), quoted func(*sys.QueuedError) (ippkt.Quote, bool), more ...option) error {
	k.s, k.fd, k.mode, k.quoted = s, -1, -1, quoted
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := rc.Control(func(fd uintptr) {
		k.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); cerr != nil {
		return cerr
	}
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	k.task.Init(s.set.loop, run)
	err = k.enable(
		option{"IP_RECVERR", unix.IP_RECVERR, unix.IPV6_RECVERR},
		option{"IP_RECVTOS", unix.IP_RECVTOS, unix.IPV6_RECVTCLASS},
	)
	if err == nil {
		err = k.enable(more...)
	}
	if err != nil {
		unix.Close(k.fd)
	}
	return err
}

func (k *hostSocket) v4() bool { return k.s.src.Addr().Is4() }

// option is one to turn on, by its name in each family.
type option struct {
	what   string
	v4, v6 int
}

// enable turns options on.
func (k *hostSocket) enable(opts ...option) error {
	for _, o := range opts {
		level, name := unix.SOL_IPV6, o.v6
		if k.v4() {
			level, name = unix.SOL_IP, o.v4
		}
		if err := unix.SetsockoptInt(k.fd, level, name, 1); err != nil {
			return fmt.Errorf("setsockopt %s: %w", o.what, err)
		}
	}
	return nil
}

func (k *hostSocket) start() {
	w, err := k.s.set.loop.Add(k.fd, unix.EPOLLIN, &k.task)
	if err != nil {
		k.s.set.log.Debug("session lost", "proto", k.s.meta.Network, "src", k.s.src, "err", err)
		k.s.close()
		return
	}
	k.watch.Store(w)
}

func (k *hostSocket) blocks() bool { return false }
func (k *hostSocket) interrupt()   {}

func (k *hostSocket) destroy() {
	k.task.Stop()
	if w := k.watch.Load(); w != nil {
		w.Remove()
	}
	unix.Close(k.fd)
}

// serve is the body of the task: it reads the errors if there are some, and
// lets receive read the rest. More to do means another turn after the others.
func (k *hostSocket) serve(receive func() (more bool)) {
	if !k.s.enter() {
		return
	}
	defer k.s.leave()
	events := uint32(unix.EPOLLERR)
	if w := k.watch.Load(); w != nil {
		events = w.Events()
	}
	if k.errorsLeft || events&unix.EPOLLERR != 0 {
		k.errorsLeft = !k.drainErrors()
	}
	if receive() || k.errorsLeft {
		k.task.Schedule()
	}
}

// setMode copies the path-MTU mode of the application's socket, which shows in the
// don't-fragment bit of its packets. With df, the kernel sets the bit and refuses
// packets longer than the path's MTU. Without df it does neither.
func (k *hostSocket) setMode(df bool) {
	mode := unix.IP_PMTUDISC_DONT
	if df {
		mode = unix.IP_PMTUDISC_DO
	}
	if mode == k.mode {
		return
	}
	k.mode = mode
	// The values are the same for both families. No socket that can be here
	// refuses them.
	if k.v4() {
		_ = unix.SetsockoptInt(k.fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, mode)
	} else {
		_ = unix.SetsockoptInt(k.fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, mode)
	}
}

// hostMTU is the usual MTU of an interface that packets leave by.
const hostMTU = 1500

// tracingTTL is the largest TTL that is taken as a sign of path tracing: the TTL
// is meant to expire.
const tracingTTL = 32

// outcome is what to do after a packet was refused.
type outcome uint8

const (
	tryAgain outcome = iota
	tryFragmented
	dropPacket
	dropBatch
)

// refused handles the error of sending d. The kernel reports the error of an
// earlier packet once, at the next call. So only the error of the second try is
// certain to be about d.
func (k *hostSocket) refused(d *datagram, errno unix.Errno, tries int) outcome {
	switch errno {
	case unix.EINTR:
		return tryAgain
	case unix.EAGAIN:
		return dropBatch
	case unix.ENOBUFS, unix.ENOMEM, unix.EBADF:
		return dropPacket
	}
	if tries < 2 {
		return tryAgain
	}
	switch errno {
	case unix.EMSGSIZE:
		return k.tooBig(d)
	case unix.EACCES, unix.EPERM:
		k.s.refuse(d, ippkt.AdminProhibited)
	default:
		if why, ok := reasonOf(errno); ok {
			k.s.refuse(d, why)
		}
	}
	return dropPacket
}

// tooBig handles a packet that the kernel knows to exceed the path's MTU.
//
// A packet that would fit a usual interface is dropped, as a router would, and
// answered with an ICMP error. A longer one has its don't-fragment bit only
// because the TUN's MTU is so large: on any other interface, the application's
// kernel would have fragmented it. So it is sent in fragments. An ICMP error that
// matches no socket tells the application's kernel the path's MTU. A packet with
// a small TTL comes from a tool that measures paths: it gets the plain ICMP error.
func (k *hostSocket) tooBig(d *datagram) outcome {
	if !d.df || k.mode != unix.IP_PMTUDISC_DO {
		return dropPacket // too long for any IP packet
	}
	q := k.s.quote(d)
	q.Payload = nil // the quote may have to wait for longer than the packet lives
	if d.ttl <= tracingTTL || ippkt.HeaderLen(q.Dst)+ippkt.UDPLen+min(d.size, d.seg) <= hostMTU {
		k.tellMTU(q)
		return dropPacket
	}
	k.tellMTU(q.AsEchoReply())
	return tryFragmented
}
