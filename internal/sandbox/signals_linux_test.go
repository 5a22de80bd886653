package sandbox_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"netstackd/internal/sandbox"

	"golang.org/x/sys/unix"
)

// counter prints the number of each signal that it gets.
const counter = `
import os, signal, sys
if "setsid" in sys.argv: os.setsid()
all = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGTSTP, signal.SIGWINCH}
signal.pthread_sigmask(signal.SIG_BLOCK, all)
print("ready", flush=True)
while True: print(int(signal.sigwait(all)), flush=True)
`

// A signal to netstackd alone is passed on; one to its group has reached the
// command, and doesn't come twice; unless the command has left the group.
func TestIntegrationSignals(t *testing.T) {
	const (
		alone = 1
		group = -1
	)
	for _, who := range who {
		for _, how := range []string{"", "setsid"} {
			t.Run(name(who.name)+how, func(t *testing.T) {
				t.Parallel()
				cmd := who.exec(t, "python3", "-c", counter, how)
				if cmd.SysProcAttr == nil {
					cmd.SysProcAttr = &syscall.SysProcAttr{}
				}
				cmd.SysProcAttr.Setpgid = true
				c := start(t, cmd)
				c.line(t)
				for _, s := range []struct {
					sig unix.Signal
					to  int
				}{
					{unix.SIGINT, group}, {unix.SIGTERM, alone}, {unix.SIGTSTP, group},
					{unix.SIGHUP, group}, {unix.SIGWINCH, group}, {unix.SIGUSR1, alone},
				} {
					if err := unix.Kill(s.to*c.Process.Pid, s.sig); err != nil {
						t.Fatal(err)
					}
					if got := c.line(t); got != fmt.Sprint(int(s.sig)) {
						t.Fatalf("got signal %s, want %d", got, int(s.sig))
					}
				}
				// What was sent twice would have come before this ends it.
				unix.Kill(c.Process.Pid, unix.SIGQUIT)
				rest, _ := c.out.ReadString('\n')
				if got := c.status(); got != 128+3 || rest != "" {
					t.Errorf("status %d, want %d; after the last signal came %q", got, 128+3, rest)
				}
			})
		}
	}
}

// nohup(1) reaches through.
func TestIntegrationNohup(t *testing.T) {
	cmd := asUser(t, open, "sh", "-c", `kill -HUP $PPID $$; sleep .2; echo lived`)
	cmd.Args = append([]string{"sh", "-c", `trap "" HUP; exec -a "$0" "$@"`, cmd.Args[0], cmd.Path}, cmd.Args[1:]...)
	cmd.Args[0], cmd.Path = "bash", "/bin/bash"
	want(t, cmd, "lived\n")
}

func TestRelay(t *testing.T) {
	const (
		tick = time.Millisecond
		late = sandbox.RelayDelay
		old  = sandbox.RelayMemory
	)
	type event struct {
		at      time.Duration
		own     bool // the helper got it, or else netstackd
		sig     unix.Signal
		grouped bool
	}
	for _, tc := range []struct {
		name   string
		events []event
		want   []unix.Signal
	}{
		{"alone", []event{{0, false, unix.SIGINT, true}}, []unix.Signal{unix.SIGINT}},
		{"group, helper first", []event{{0, true, unix.SIGINT, true}, {tick, false, unix.SIGINT, true}}, nil},
		{"group, netstackd first", []event{{0, false, unix.SIGINT, true}, {tick, true, unix.SIGINT, true}}, nil},
		{"group, not the command's", []event{{0, true, unix.SIGINT, false}, {tick, false, unix.SIGINT, false}}, []unix.Signal{unix.SIGINT}},
		{"two kinds", []event{{0, true, unix.SIGINT, true}, {tick, false, unix.SIGTERM, true}}, []unix.Signal{unix.SIGTERM}},
		{"group, then alone", []event{
			{0, true, unix.SIGINT, true}, {tick, false, unix.SIGINT, true}, {2 * tick, false, unix.SIGINT, true},
		}, []unix.Signal{unix.SIGINT}},
		{"helper alone, and much later netstackd", []event{
			{0, true, unix.SIGINT, true}, {old + tick, false, unix.SIGINT, true},
		}, []unix.Signal{unix.SIGINT}},
		{"stopped before netstackd told", []event{
			{0, true, unix.SIGTSTP, true}, {time.Minute, false, unix.SIGTSTP, true},
		}, nil},
		{"too late", []event{{0, false, unix.SIGINT, true}, {late + tick, true, unix.SIGINT, true}}, []unix.Signal{unix.SIGINT}},
		{"continue", []event{{0, true, unix.SIGCONT, true}, {tick, false, unix.SIGCONT, true}}, []unix.Signal{unix.SIGCONT}},
	} {
		t.Run(name(tc.name), func(t *testing.T) {
			var sent []unix.Signal
			send := func(s unix.Signal) { sent = append(sent, s) }
			r := sandbox.NewRelay()
			defer r.Stop()
			begin := time.Unix(0, 0)
			for _, e := range tc.events {
				now := begin.Add(e.at)
				r.Due(now, send)
				if e.own {
					r.Got(e.sig, now)
				} else {
					r.Asked(e.sig, e.grouped, now, send)
				}
			}
			r.Due(begin.Add(time.Hour), send)
			if !slices.Equal(sent, tc.want) {
				t.Errorf("sent %v, want %v", sent, tc.want)
			}
		})
	}
}
