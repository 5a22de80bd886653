package main

import (
	"netstackd/internal/config"
	"netstackd/internal/daemon"
	"netstackd/internal/timerslack"
)

// runDaemon is `netstackd run`.
func runDaemon(args []string) (int, error) {
	timerslack.Raise()
	cfg := config.Default()
	rest, err := parseConfig(commandNamed("run"), &cfg, config.ForRun, args)
	if err != nil {
		return 0, err
	}
	if err := noArguments("run", rest); err != nil {
		return 0, err
	}
	ctx, stop := untilSignal()
	defer stop()
	reload, stopReload := onHangup()
	defer stopReload()
	cfg.Reload = reload
	return 0, daemon.Run(ctx, cfg)
}
