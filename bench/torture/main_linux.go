// Command torture puts netstackd under attack, load and faults, one row of a
// table at a time, and looks at what healthy clients see meanwhile.
//
//	sudo go run ./bench/torture --short
//
// # Theory of operation
//
// The command builds netstackd, and starts itself again in network, mount and
// process namespaces of its own. That process runs the rows. For each it makes
// a new network, starts netstackd on host A, and then
//
//	before ── load ── after ── SIGTERM
//
// with a paced stream of new connections and long-lived, byte-checked flows
// beside it all the time. What each row expects is a list of checks; every row
// has the common ones (see run.verdict), and adds or relaxes some.
//
//	C: LAN host ──eth0── A: netstackd ──eth0── B: servers
//	10.88.0.2            10.88.0.1, 10.77.0.1  10.77.0.2, all of 10.78.0.0/16;
//	                                           10.79.0.0/16 behind it is silent
//
// Every load is bounded in count and time. All that runs ends with the process
// namespace, also when the command is killed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"netstackd/bench/testbed"
)

// options are the command line's.
type options struct {
	run, program, race string
	json               string
	short, list        bool
	soak               time.Duration
	filter             *regexp.Regexp
}

func parse(args []string) (o options, err error) {
	fs := pflag.NewFlagSet("torture", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.BoolVar(&o.short, "short", false, "only the rows that take two minutes in all")
	fs.StringVar(&o.run, "run", "", "only the rows whose name `REGEXP` matches")
	fs.BoolVar(&o.list, "list", false, "list the rows and end")
	fs.StringVar(&o.json, "json", "", "write the table to `FILE` as JSON")
	fs.DurationVar(&o.soak, "soak", soakDefault, "how long the soak lasts, 2m or more")
	fs.StringVar(&o.program, "netstackd", "", "torture this `FILE` (default: built from the source)")
	fs.StringVar(&o.race, "netstackd-race", "", "the same, built with -race, for the soak")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("%q: torture takes flags only", fs.Arg(0))
	}
	if o.filter, err = regexp.Compile(o.run); err != nil {
		return o, fmt.Errorf("--run: %w", err)
	}
	return o, nil
}

// selected are the rows that the options ask for.
func (o options) selected() (rows []row) {
	for _, r := range allRows(o.soak) {
		if o.filter.MatchString(r.name) && (r.short || !o.short) {
			rows = append(rows, r)
		}
	}
	return rows
}

func main() {
	status, err := dispatch()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "torture:", err)
		status = 1
	}
	os.Exit(status)
}

func dispatch() (int, error) {
	o, err := parse(os.Args[1:])
	if err != nil {
		return 0, err
	}
	rows := o.selected()
	switch {
	case len(rows) == 0:
		return 0, fmt.Errorf("--run: no row matches %q", o.run)
	case o.list:
		for _, r := range rows {
			fmt.Printf("%-40s %s\n", r.name, r.about)
		}
		return 0, nil
	case os.Args[0] == labName:
		return runRows(o, rows)
	case os.Geteuid() != 0:
		return 0, errors.New("needs root, for namespaces and raw sockets")
	}
	return startLab(o)
}

// labName is argv[0] of the process that runs the rows.
const labName = "torture-lab"

// startLab runs this program again in namespaces of its own, and returns its
// exit status.
func startLab(o options) (int, error) {
	dir, err := os.MkdirTemp("", "torture-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.build(ctx, dir); err != nil {
		return 0, err
	}
	runtime.LockOSThread() // Pdeathsig means the thread
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{labName}, os.Args[1:]...)
	cmd.Args = append(cmd.Args, "--netstackd", o.program, "--netstackd-race", o.race)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // Ctrl-C is passed on below, once
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("make namespaces: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	var ended *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &ended) {
		return 0, err
	}
	if status := cmd.ProcessState.ExitCode(); status >= 0 {
		return status, nil
	}
	return 0, fmt.Errorf("the rows' process ended by a signal: %v", cmd.ProcessState)
}

// build makes the programs that are not given.
func (o *options) build(ctx context.Context, dir string) (err error) {
	for _, p := range []struct {
		file *string
		name string
		flag []string
	}{{&o.program, "netstackd", nil}, {&o.race, "netstackd-race", []string{"-race"}}} {
		if *p.file == "" {
			*p.file = filepath.Join(dir, p.name)
			args := append([]string{"build", "-o", *p.file}, append(p.flag, "netstackd/cmd/netstackd")...)
			if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("go build: %w: %s", err, out)
			}
		} else if *p.file, err = filepath.Abs(*p.file); err != nil {
			return err
		}
	}
	return nil
}

// runRows is the lab's process.
func runRows(o options, rows []row) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := isolate(); err != nil {
		return 0, err
	}
	if err := testbed.RaiseFiles(); err != nil {
		return 0, err
	}
	began := time.Now()
	t := newTable(os.Stdout)
	for _, r := range rows {
		if ctx.Err() != nil {
			break
		}
		t.add(r.execute(ctx, o))
	}
	t.finish(time.Since(began))
	if o.json != "" {
		text, err := json.MarshalIndent(t.results, "", "  ")
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(o.json, append(text, '\n'), 0o644); err != nil {
			return 0, fmt.Errorf("--json: %w", err)
		}
	}
	if ctx.Err() != nil {
		return 0, errors.New("interrupted")
	}
	if t.failed() > 0 {
		return 1, nil
	}
	return 0, nil
}
