package sandbox

import (
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// passed returns the signals that netstackd passes on. Those of the terminal are
// among them: they reach the whole process group, and so the command, by
// themselves, which relay tells from those sent to netstackd alone.
func passed() []os.Signal {
	return []os.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGTERM,
		unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGWINCH, unix.SIGPWR,
	}
}

// notify has c receive signals, but for those that our caller ignores, as
// nohup(1) does: the command inherits that.
func notify(c chan<- os.Signal, signals []os.Signal) {
	for _, s := range signals {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
}

// catchSignals has signals wait for passSignals, from before the command is
// there to get them: none may end this process and leave the command alone.
func (s *Sandbox) catchSignals() {
	s.signals = make(chan os.Signal, 64)
	notify(s.signals, passed())
}

// passSignals tells the helper of each signal that this process got since
// catchSignals, until the function that it returns is called.
func (s *Sandbox) passSignals() (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case sig := <-s.signals:
				_ = s.conn.send(message{Op: opSignal, Signal: int(sig.(unix.Signal))})
			case <-end:
				return
			}
		}
	}()
	return func() {
		signal.Stop(s.signals)
		close(end)
		<-done
	}
}

// relay decides which of the signals that netstackd got the command is to get
// from us. The kernel doesn't tell a Go program who a signal is from and whom
// else it went to. But the helper is in netstackd's process group: what it got
// too was sent to the group, and the command, if it is still in that group, has
// it already; a second SIGINT would make many a program give up its cleaning up.
type relay struct {
	own    chan os.Signal // those that the helper gets
	timer  *time.Timer    // when the first of waiting is due
	waits  map[unix.Signal]time.Time
	recent map[unix.Signal]time.Time
}

const (
	// relayDelay is how long the helper's copy of a signal may take, once
	// netstackd has reported its own. The kernel sends both in one go.
	relayDelay = 100 * time.Millisecond
	// relayMemory is how long a copy of the helper's waits for netstackd's. One
	// that stops waits for ever: the command may have stopped, and netstackd with
	// it, before netstackd could tell.
	relayMemory = 2 * time.Second
)

func newRelay() *relay {
	r := &relay{
		own:    make(chan os.Signal, 64),
		timer:  time.NewTimer(relayDelay),
		waits:  make(map[unix.Signal]time.Time),
		recent: make(map[unix.Signal]time.Time),
	}
	// Also SIGTTOU: the default would be to stop.
	notify(r.own, append(passed(), unix.SIGTTOU))
	return r
}

// got notes that the helper got a signal itself.
func (r *relay) got(sig unix.Signal, now time.Time) {
	if _, ok := r.waits[sig]; ok {
		delete(r.waits, sig)
		return
	}
	r.recent[sig] = now
}

// collect notes what the helper got and has not looked at.
func (r *relay) collect() {
	for {
		select {
		case sig := <-r.own:
			r.got(sig.(unix.Signal), time.Now())
		default:
			return
		}
	}
}

// asked notes that netstackd got a signal, and sends it if it can't have reached
// the command.
func (r *relay) asked(sig unix.Signal, grouped bool, now time.Time, send func(unix.Signal)) {
	at, had := r.recent[sig]
	delete(r.recent, sig)
	switch {
	case !grouped || sig == unix.SIGCONT: // a second SIGCONT does nothing
		send(sig)
	case had && (stops(sig) || now.Sub(at) < relayMemory):
	default:
		r.waits[sig] = now.Add(relayDelay)
		r.schedule(now)
	}
}

// stops reports whether a signal is one that the terminal stops jobs with.
func stops(sig unix.Signal) bool {
	return sig == unix.SIGTSTP || sig == unix.SIGTTIN || sig == unix.SIGTTOU
}

// due sends those whose time has come.
func (r *relay) due(now time.Time, send func(unix.Signal)) {
	for sig, at := range r.waits {
		if !at.After(now) {
			delete(r.waits, sig)
			send(sig)
		}
	}
	r.schedule(now)
}

func (r *relay) schedule(now time.Time) {
	var first time.Time
	for _, at := range r.waits {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	if !first.IsZero() {
		r.timer.Reset(first.Sub(now))
	}
}
