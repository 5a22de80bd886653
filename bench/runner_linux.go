package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// runner is a program with what belongs to it.
type runner struct {
	Program
	process *process // nil while it is stopped
	client  *agent   // where its users are
	own     bool     // client belongs to it alone
	dest    netip.Prefix
	failed  error // why it didn't start
}

// start starts a program that is not running.
func (l *lab) start(ctx context.Context, r *runner) (err error) {
	dir := filepath.Join(l.dir, strconv.Itoa(int(r.dest.Addr().As4()[1])))
	if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	pid := os.Getpid()
	var netns []*os.File
	if r.Attach {
		if r.client, err = startAgent(ctx, true); err != nil {
			return err
		}
		r.own, pid = true, r.client.cmd.Process.Pid
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			return err
		}
		defer f.Close()
		netns = append(netns, f)
		if err := r.client.call("Configure", Setup{IP: "link set lo up"}, &Nothing{}); err != nil {
			return err
		}
	}
	if r.process, err = startProgram(ctx, r.expand(dir, pid), dir, netns); err != nil {
		return err
	}
	if r.Attach {
		if err := r.client.call("Online", Nothing{}, &Nothing{}); err != nil {
			return fmt.Errorf("%s: %w: %s", r.Name, err, r.process.Output())
		}
	}
	for _, to := range l.routes {
		if to.program == r {
			to.client = r.client
		}
	}
	return nil
}

// expand fills in what a Program's strings leave open.
func (r *runner) expand(dir string, pid int) Program {
	fill := strings.NewReplacer("{dest}", r.dest.String(), "{veth}", veth, "{dir}", dir,
		"{pid}", strconv.Itoa(pid), "{netns}", fmt.Sprintf("/proc/self/fd/%d", helperFD))
	p := r.Program
	p.Files = map[string]string{}
	for name, text := range r.Files {
		p.Files[name] = fill.Replace(text)
	}
	p.Command, p.Up = nil, nil
	for _, s := range r.Command {
		p.Command = append(p.Command, fill.Replace(s))
	}
	for _, s := range r.Up {
		p.Up = append(p.Up, fill.Replace(s))
	}
	return p
}

func (r *runner) stop() {
	if r.process != nil {
		r.process.Stop()
		r.process = nil
	}
	if r.own {
		r.client.close()
		r.own = false
	}
}
