// Command compare does the same work with netstackd and with what people would
// use instead, in turns, and says which of netstackd's targets are met.
//
//	sudo go run ./bench/compare --json compare.json --plot compare.html
//
// tun2socks and sing-box are built at fixed versions, which takes the module
// proxy and some minutes the first time; pasta, slirp4netns, microsocks and
// dante take part when they are installed (Debian's passt, slirp4netns,
// microsocks and dante-server). All of it runs in network namespaces that go
// with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	if isPump() { // started as one of the programs; a signal ends it
		fmt.Fprintln(os.Stderr, "compare: pump:", runPump(os.Args[2]))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// pumpCommand makes this program the pump that it also measures.
const pumpCommand = "pump"

func isPump() bool { return len(os.Args) == 3 && os.Args[1] == pumpCommand }

// result is what --json writes.
type result struct {
	Goals []Goal
	*bench.Report
}

func run(ctx context.Context) error {
	cfg := bench.Config{Release: time.Minute}
	fs := pflag.NewFlagSet("compare", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.DurationVar(&cfg.Duration, "duration", time.Second, "of each measurement")
	fs.IntVar(&cfg.Runs, "runs", 5, "of each measurement, interleaved; medians count")
	fs.IntVar(&cfg.Flows, "flows", 10_000, "idle flows to hold, and destinations")
	fs.StringSliceVar(&cfg.Tests, "test", nil, "measure only these `NAMES`: "+bench.TestNames())
	only := fs.StringSlice("only", nil, "take only these `PROGRAMS`, by the start of their names")
	against := fs.StringSlice("against", nil, "measure these `FILES`, too: other builds of netstackd")
	dir := fs.String("tools", "", "`DIR` where the other programs are built, and found the next time (default: the user's cache)")
	jsonFile := fs.String("json", "", "write it all to `FILE` as JSON")
	plotFile := fs.String("plot", "", "draw it: an HTML page, to `FILE`")
	if err := fs.Parse(os.Args[1:]); err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	tools, err := build(ctx, *dir)
	if err != nil {
		return err
	}
	defer tools.close()
	for _, file := range *against {
		if file, err = filepath.Abs(file); err != nil {
			return fmt.Errorf("--against: %w", err)
		}
		tools.against = append(tools.against, file)
	}
	cfg.Programs = tools.programs(*only)
	line := bench.NewProgressLine(os.Stderr, "")
	cfg.Progress = line.Show
	report, err := bench.Run(ctx, cfg)
	line.End()
	if err != nil {
		return err
	}
	all := result{Goals: goals(report), Report: report}
	if err := report.WriteTable(os.Stdout); err != nil {
		return err
	}
	if err := writeGoals(os.Stdout, all.Goals); err != nil {
		return err
	}
	if *jsonFile != "" {
		if err := bench.WriteJSON(*jsonFile, all); err != nil {
			return err
		}
	}
	if *plotFile != "" {
		return report.WritePlot(*plotFile)
	}
	return nil
}
