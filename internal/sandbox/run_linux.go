package sandbox

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// run starts the command and is its parent until it has ended, and with it all
// that it started, or until netstackd is gone.
func (h *helper) run() error {
	// Orphans become ours, to be reaped and in the end killed.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return h.fail(StatusFailed, os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", err))
	}
	parent := unix.Getppid()
	pid, status, err := h.start()
	if err != nil {
		return h.fail(status, err)
	}
	letGo(3, h.lent)
	if err := h.conn.send(message{Op: opStarted, PID: pid}); err != nil {
		return err
	}
	go h.masks.watch() // to the end of the process
	children := make(chan waited)
	go wait(children)
	messages := make(chan message)
	go func() {
		defer close(messages)
		for {
			m, fds, err := h.conn.receive()
			if err != nil {
				return
			}
			closeAll(fds)
			messages <- m
		}
	}()
	c := command{helper: h, pid: pid, parent: parent, running: true}
	for {
		select {
		case w, more := <-children:
			if !more {
				return h.conn.send(message{Op: opExited, Status: c.status})
			}
			c.changed(w)
		case m, more := <-messages:
			if !more && c.ending == nil {
				return nil // netstackd is gone, and the network with it
			}
			if !more {
				messages = nil
				continue
			}
			c.told(m)
		case sig := <-h.signals.own:
			h.signals.got(sig.(unix.Signal), time.Now())
		case <-h.signals.timer.C:
			h.signals.collect()
			h.signals.due(time.Now(), c.signal)
		case <-c.ending:
			if c.insist() {
				return h.conn.send(message{Op: opExited, Status: c.status})
			}
		}
	}
}

// command is what run knows of the command.
type command struct {
	*helper
	pid     int
	parent  int // netstackd
	running bool
	status  int
	ending  <-chan time.Time // set once all were asked to end: what is left is killed then
	kills   int
}

// changed takes an event of a child.
func (c *command) changed(w waited) {
	switch {
	case w.pid != c.pid:
	case w.status.Stopped():
		_ = c.conn.send(message{Op: opStopped, Signal: int(w.status.StopSignal())})
	case w.status.Continued():
		// The command alone was continued. netstackd stopped for it: continue that too.
		if unix.Getppid() == c.parent {
			_ = unix.Kill(c.parent, unix.SIGCONT)
		}
	default:
		c.running = false
		c.status = exitStatus(w.status)
		c.end()
	}
}

// told does what netstackd says.
func (c *command) told(m message) {
	switch m.Op {
	case opSignal:
		c.signals.asked(unix.Signal(m.Signal), c.inOurGroup(), time.Now(), c.signal)
	case opDial:
		go c.dial(m)
	case opKill:
		c.end()
	}
}

// signal sends one to the command, which is our child and not reaped before
// changed has seen it.
func (c *command) signal(sig unix.Signal) {
	if c.running {
		_ = unix.Kill(c.pid, sig)
	}
}

// inOurGroup reports whether the command gets what is sent to our process group.
func (c *command) inOurGroup() bool {
	group, err := unix.Getpgid(c.pid)
	return err == nil && group == unix.Getpgrp()
}

// end asks all that is left to end.
func (c *command) end() {
	if c.ending == nil {
		signalDescendants(unix.SIGTERM)
		c.ending = time.After(c.setup.Grace)
	}
}

const (
	killInterval = 100 * time.Millisecond // between looks for what was forked meanwhile
	killAttempts = 50                     // then it can't be killed, as in a hung file system
)

// insist kills what is left, and reports whether that is hopeless.
func (c *command) insist() bool {
	signalDescendants(unix.SIGKILL)
	c.ending = time.After(killInterval)
	c.kills++
	if c.kills < killAttempts {
		return false
	}
	if c.running {
		c.status = statusSignalBase + int(unix.SIGKILL)
	}
	return true
}
