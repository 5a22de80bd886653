// Command tune measures what netstackd's defaults were chosen from: variants
// of each, in turns with the default, as ratios to it.
//
//	sudo go run ./bench/tune --json tune.json
//
// It prints a Markdown table for each group of variants and each kind of link
// between the hosts. The default takes part twice: how far the second is from 1
// is how much the machine's noise makes of nothing. All of it runs in network
// namespaces that go with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"netstackd/bench"

	"github.com/spf13/pflag"
)

func main() {
	if bench.IsHelper() {
		os.Exit(bench.Main())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "tune:", err)
		os.Exit(1)
	}
}

// result is what --json writes, for each table.
type result struct {
	Table string
	*bench.Report
}

func run(ctx context.Context) error {
	fs := pflag.NewFlagSet("tune", pflag.ContinueOnError)
	fs.SortFlags = false
	duration := fs.Duration("duration", 800*time.Millisecond, "of each measurement")
	slow := fs.Duration("wire-duration", 3*time.Second, "the same with --delay and --loss, where a rate takes long to show")
	runs := fs.Int("runs", 5, "of each measurement, interleaved; medians count")
	delay := fs.Duration("delay", 50*time.Millisecond, "of a round trip on the slow link")
	loss := fs.Float64("loss", 0.001, "the `FRACTION` of packets that it loses, each way")
	only := fs.StringSlice("table", nil, "measure only these `NAMES`: "+names())
	file := fs.String("netstackd", "", "measure this `FILE` in place of what is built")
	jsonFile := fs.String("json", "", "write it all to `FILE` as JSON")
	if err := fs.Parse(os.Args[1:]); err != nil {
		return err
	}
	todo, err := choose(*only)
	if err != nil {
		return err
	}
	if *file == "" {
		temp, err := os.MkdirTemp("", "netstackd-tune-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temp)
		*file = filepath.Join(temp, "netstackd")
		build := exec.CommandContext(ctx, "go", "build", "-o", *file, "netstackd/cmd/netstackd")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("%s: %w", build, err)
		}
	} else if *file, err = filepath.Abs(*file); err != nil {
		return fmt.Errorf("--netstackd: %w", err)
	}
	var results []result
	for _, t := range todo {
		cfg := bench.Config{Runs: *runs, Duration: *duration, Tests: t.tests(), Programs: t.programs(*file)}
		if t.link != near {
			cfg.Duration, cfg.Delay, cfg.Loss = *slow, *delay, *loss
		}
		line := bench.NewProgressLine(os.Stderr, t.name)
		cfg.Progress = line.Show
		report, err := bench.Run(ctx, cfg)
		line.End()
		if err != nil {
			return err
		}
		results = append(results, result{t.name, report})
		if err := t.write(os.Stdout, report); err != nil {
			return err
		}
	}
	if *jsonFile == "" {
		return nil
	}
	return bench.WriteJSON(*jsonFile, results)
}
