package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"netstackd/bench/testbed"
)

// drain is the --drain of every row.
const drain = 2 * time.Second

// daemon is netstackd on host A.
type daemon struct {
	*testbed.Process
	host *host
}

// startDaemon returns once it is ready. files, if not 0, is its limit of open
// files.
func startDaemon(ctx context.Context, h *host, program string, files int, flags []string) (*daemon, error) {
	cmd := exec.Command(program, flags...)
	if files > 0 {
		script := fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files)
		cmd = exec.Command("sh", append([]string{"-c", script, program}, flags...)...)
	}
	d := &daemon{host: h}
	err := h.do(func() (err error) {
		d.Process, err = testbed.Start(cmd, "ready")
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := d.Await(ctx, nil); err != nil {
		d.Kill()
		return nil, fmt.Errorf("netstackd %s: %w: %s", strings.Join(flags, " "), err, d.Output())
	}
	return d, nil
}

// alive reports whether it runs.
func (d *daemon) alive() bool {
	select {
	case <-d.Ended():
		return false
	default:
		return true
	}
}

// terminate sends SIGTERM and returns how long the end took.
func (d *daemon) terminate(within time.Duration) (time.Duration, error) {
	began := time.Now()
	d.Signal(syscall.SIGTERM)
	select {
	case <-d.Ended():
	case <-time.After(within):
		return time.Since(began), errors.New("still runs")
	}
	if status := d.Status(); status != 0 {
		return time.Since(began), fmt.Errorf("exit status %d", status)
	}
	return time.Since(began), nil
}

// files is how many descriptors it has open.
func (d *daemon) files() int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Pid()))
	return len(entries)
}

// memory is its own, and what the kernel holds in the sockets of its host.
func (d *daemon) memory(ctx context.Context) (process, sockets int64) {
	process, _ = testbed.Memory(d.Pid())
	out, _ := d.host.output(ctx, "ss", "-tuaneHm")
	return process, socketMemory(out)
}

// socketMemory adds up what ss(8) prints about queues: skmem:(r…,rb…,t…,tb…,
// f…,w…,o…,bl…,d…), of which r, f, w, o and bl are bytes held. f may be negative
// for a moment; ss prints that as a large number of 32 bits.
func socketMemory(out string) (sum int64) {
	for _, part := range strings.Split(out, "skmem:(")[1:] {
		fields, _, _ := strings.Cut(part, ")")
		for _, field := range strings.Split(fields, ",") {
			name := strings.TrimRight(field, "0123456789")
			switch name {
			case "r", "f", "w", "o", "bl":
				n, _ := strconv.ParseUint(field[len(name):], 10, 32)
				sum += int64(int32(n))
			}
		}
	}
	return sum
}

// left is what netstackd may leave on a host, one a line: its interface, rules
// and tables.
func left(ctx context.Context, h *host) (lines []string) {
	for _, query := range [][]string{
		{"ip", "-o", "link", "show"}, {"ip", "rule"}, {"ip", "-6", "rule"},
		{"ip", "route", "show", "table", "all", "proto", "198"}, {"ip", "-6", "route", "show", "table", "all", "proto", "198"},
		{"nft", "list", "tables"},
	} {
		out, err := h.output(ctx, query[0], query[1:]...)
		if err != nil {
			lines = append(lines, fmt.Sprintf("%s: %v", strings.Join(query, " "), err))
			continue
		}
		for line := range strings.Lines(out) {
			line = strings.TrimSpace(line)
			if query[1] == "-o" && !strings.Contains(line, tunDevice) ||
				strings.HasSuffix(query[len(query)-1], "rule") && isDefaultRule(line) {
				continue
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// isDefaultRule is for the rules that every host has.
func isDefaultRule(line string) bool {
	priority, _, _ := strings.Cut(line, ":")
	return priority == "0" || priority == "32766" || priority == "32767"
}
