package main

import (
	"context"
	"errors"

	"netstackd/internal/config"
	"netstackd/internal/daemon"
	"netstackd/internal/sandbox"
	"netstackd/internal/timerslack"

	"github.com/spf13/pflag"
)

// runExec is `netstackd exec`. Its status is the command's own, and 125 for
// every mistake and failure before the command runs.
func runExec(args []string) (int, error) {
	timerslack.Raise()
	cfg := config.DefaultExec()
	rest, err := parseConfig(commandNamed("exec"), &cfg, config.ForExec, args)
	if errors.Is(err, pflag.ErrHelp) {
		return 0, err
	}
	if err == nil && len(rest) == 0 {
		err = usageError("exec: no command; write netstackd exec [flags] -- CMD ARGS ...")
	}
	if err != nil {
		return sandbox.StatusFailed, err
	}
	// The sandbox handles signals and passes them to the command, which the terminal
	// signals as well. Before the command runs, a signal ends this process and the
	// sandbox.
	return daemon.Exec(context.Background(), cfg, rest)
}
