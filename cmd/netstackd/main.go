// Command netstackd carries the host's traffic through a userspace network
// stack: a SOCKS proxy on both sides of a TUN device, and transparent
// forwarding of what is routed into it. This package is flags, signals and
// exit codes; the work is done in internal/daemon and internal/sandbox.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"netstackd/internal/config"
	"netstackd/internal/logging"
	"netstackd/internal/sandbox"

	"github.com/spf13/pflag"
)

// The exit codes of every command but exec, which has its own on top.
const (
	exitFailure = 1
	exitUsage   = 2
)

// A command returns its exit status, or an error that decides it.
type command struct {
	name, args, summary string
	run                 func(args []string) (int, error)
}

// commands is the program's face.
func commands() []command {
	return []command{
		{"run", "[flags]", "the daemon (what a bare netstackd does)", runDaemon},
		{"exec", "[flags] -- CMD ...", "one command through the stack, no root", runExec},
		{"bench", "[flags]", "measure on this machine", runBench},
		{"doctor", "", "what stops it from working here, the fix", runDoctor},
		{"cleanup", "", "remove what a killed daemon left", runCleanup},
		{"version", "", "print the version, as --version does", runVersion},
	}
}

func main() {
	if sandbox.IsHelper() { // exec has started this program again, in its namespaces
		os.Exit(sandbox.Main())
	}
	keepWithoutReader()
	os.Exit(exitStatus(dispatch(os.Args[1:])))
}

// commandNamed is the entry of commands with that name.
func commandNamed(name string) command {
	for _, c := range commands() {
		if c.name == name {
			return c
		}
	}
	return command{}
}

// dispatch runs the command that args name, the daemon if they name none.
func dispatch(args []string) (int, error) {
	name := "run"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	if name == "help" {
		name, args = "run", []string{"--help"}
	}
	var names []string
	for _, c := range commands() {
		if c.name == name {
			return c.run(args)
		}
		names = append(names, c.name)
	}
	hint := "see netstackd --help"
	if near := config.Nearest(name, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	return 0, usageError(fmt.Sprintf("%s: unknown command; %s", name, hint))
}

// exitStatus prints err as one line on standard error and gives the status
// that the process exits with.
func exitStatus(status int, err error) int {
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return status
	}
	last := logging.NewWriter(os.Stderr, nil) // standard error may be blocked
	fmt.Fprintln(last, "netstackd: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	last.Close()
	if status != 0 {
		return status
	}
	var option *config.UsageError
	var other usageError
	if errors.As(err, &option) || errors.As(err, &other) {
		return exitUsage
	}
	return exitFailure
}

// usageError is a mistake on the command line that belongs to no known flag.
type usageError string

func (e usageError) Error() string { return string(e) }
