package bench

import (
	"fmt"
	"slices"
	"time"
)

// Config says what to measure. The zero value measures the kernel's path and
// the three uses of this program, in a few minutes.
type Config struct {
	// Programs are what carries the load beside the kernel. Nil is Netstackd of
	// this very program.
	Programs []Program
	// Tests to run, by name (see Tests); nil is all of them.
	Tests []string
	// Duration of one measurement; 0 is DefaultDuration.
	Duration time.Duration
	// Runs of each; 0 is DefaultRuns.
	Runs int
	// Flows is how many idle flows are held to weigh one, and how many
	// destinations; 0 is DefaultFlows. Scarce file descriptors make it fewer.
	Flows int
	// Delay is how long a round trip between the hosts takes, and Loss the fraction
	// of each way's packets that is lost, repeatably. Where either is set, the link
	// is a process of ours that copies packets of 1,500 bytes; else it is a veth.
	Delay time.Duration
	Loss  float64
	// Release is how long to wait, at most, for memory to be given back; 0 is
	// not to look.
	Release time.Duration
	// Progress, if set, is called before and after each measurement, from one
	// goroutine.
	Progress func(Progress) `json:"-"`
}

// Defaults of Config.
const (
	DefaultDuration = 800 * time.Millisecond
	DefaultRuns     = 3
	DefaultFlows    = 2000
)

// Progress is how far a Run is.
type Progress struct {
	Done, Total int
	Text        string // what is being measured, or was found
}

// A Program is one that carries traffic, and how to start it. In all of its
// strings {dest} is replaced by the prefix that it is to carry, {veth} by the
// interface that leads to it, {dir} by an empty directory.
type Program struct {
	Name    string
	Command []string          // in the foreground, until SIGTERM
	Files   map[string]string // to write into {dir} before it starts
	Ready   string            // its standard output or error says so when it is; "" looks for TUN and Listen
	TUN     string            // interface that it makes, if any
	Listen  string            // host:port where it serves SOCKS, if it does
	// Up is what ip(8) is given once it is ready, a command a line.
	Up []string
	// Attach, in place of TUN, gives the program a namespace to serve: {pid} in
	// its strings is a process in there, {netns} its namespace's file (open
	// already: a program that drops its privileges may not open it).
	Attach bool
	Paths  []Path
}

// A Path is one way through a program.
type Path struct {
	Name string
	// SOCKS is host:port of the proxy to use; "" sends straight to the destination.
	SOCKS string
	// PastTUN says that the program's TUN must not see the traffic.
	PastTUN bool
	// FromTUN says that the program's own stack makes the connection: what goes up
	// leaves the TUN, and host A forwards it.
	FromTUN bool
	// Tests that it can take; nil is all of them.
	Tests []string
}

// fromTUN says whether any of its paths needs a host that forwards.
func (p Program) fromTUN() bool {
	return slices.ContainsFunc(p.Paths, func(path Path) bool { return path.FromTUN })
}

// Names of the paths that Run measures when it is told no others.
const (
	KernelPath      = "kernel"
	TransparentPath = "transparent"
	SOCKSHostPath   = "SOCKS on host"
	SOCKSStackPath  = "SOCKS in stack"
)

// Netstackd is this project's program with its default flags, plus those given:
// the file to run, and its three uses.
func Netstackd(file string, flags ...string) Program {
	return Program{
		Name:    "netstackd",
		Command: append([]string{file, "--route", "{dest}"}, flags...),
		Ready:   "ready",
		TUN:     "netstackd0",
		Paths: []Path{
			{Name: TransparentPath},
			{Name: SOCKSHostPath, SOCKS: "127.0.0.1:1080", PastTUN: true},
			{Name: SOCKSStackPath, SOCKS: "198.18.0.2:1080"},
		},
	}
}

// Validate says what is wrong with the configuration, naming the flag of the
// command line that sets it.
func (c Config) Validate() error {
	switch {
	case c.Duration < 0 || c.Duration > 0 && c.Duration < 100*time.Millisecond || c.Duration > time.Minute:
		return fmt.Errorf("--duration: %v is not between 100ms and 1m", c.Duration)
	case c.Runs < 0 || c.Runs > 100:
		return fmt.Errorf("--runs: %d is not between 1 and 100", c.Runs)
	case c.Delay < 0 || c.Delay > 10*time.Second:
		return fmt.Errorf("--delay: %v is not between 0 and 10s", c.Delay)
	case !(c.Loss >= 0 && c.Loss < 1):
		return fmt.Errorf("--loss: %v is not a fraction, such as 0.001", c.Loss)
	case c.Flows < 0 || c.Flows > 50_000:
		return fmt.Errorf("--flows: %d is not between 1 and 50000", c.Flows)
	}
	for _, name := range c.Tests {
		if _, ok := findTest(name); !ok {
			return fmt.Errorf("--test: %q is none of %s", name, TestNames())
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Duration == 0 {
		c.Duration = DefaultDuration
	}
	if c.Runs == 0 {
		c.Runs = DefaultRuns
	}
	if c.Flows == 0 {
		c.Flows = DefaultFlows
	}
	return c
}
