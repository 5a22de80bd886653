package main

import (
	"errors"
	"fmt"
	"os"

	"netstackd/bench"
)

// runBench is `netstackd bench`.
func runBench(args []string) (int, error) {
	if bench.IsHelper() {
		return bench.Main(), nil
	}
	var cfg bench.Config
	fs := newFlagSet("bench")
	jsonFile := fs.String("json", "", "write the report to `FILE` as JSON")
	plotFile := fs.String("plot", "", "draw it: an HTML page, to `FILE`")
	fs.DurationVar(&cfg.Duration, "duration", bench.DefaultDuration, "of each measurement")
	fs.IntVar(&cfg.Runs, "runs", bench.DefaultRuns, "of each measurement, interleaved; medians count")
	fs.IntVar(&cfg.Flows, "flows", bench.DefaultFlows, "idle flows to hold, and destinations")
	fs.StringSliceVar(&cfg.Tests, "test", nil, "measure only these `NAMES`: "+bench.TestNames())
	rest, err := parse(fs, args, func() string {
		return "netstackd bench [flags]\n" +
			"Measures this program on this machine, beside the kernel's own path, in network\n" +
			"namespaces of its own: nothing of the host is touched. Without root it needs a\n" +
			"kernel that allows user namespaces, and access to /dev/net/tun.\n\nflags:\n" + fs.FlagUsages()
	})
	if err != nil {
		return 0, err
	}
	if err := errors.Join(noArguments("bench", rest), usage(cfg.Validate())); err != nil {
		return 0, err
	}
	ctx, stop := untilSignal()
	defer stop()
	line := bench.NewProgressLine(os.Stderr, "")
	cfg.Progress = line.Show
	report, err := bench.Run(ctx, cfg)
	line.End()
	if ctx.Err() != nil {
		return 0, errors.New("bench: interrupted")
	}
	if err != nil {
		return 0, err
	}
	return publish(report, *jsonFile, *plotFile)
}

// publish writes the report to where it is wanted. What could not be measured
// is a failure, too.
func publish(report *bench.Report, jsonFile, plotFile string) (int, error) {
	if err := report.WriteTable(os.Stdout); err != nil {
		return 0, err
	}
	if jsonFile != "" {
		if err := bench.WriteJSON(jsonFile, report); err != nil {
			return 0, fmt.Errorf("--json: %w", err)
		}
	}
	if plotFile != "" {
		if err := report.WritePlot(plotFile); err != nil {
			return 0, fmt.Errorf("--plot: %w", err)
		}
	}
	if errs := report.Errors(); len(errs) > 0 {
		return 0, fmt.Errorf("bench: %d measurements failed, the first: %w", len(errs), errs[0])
	}
	return 0, nil
}

// usage makes a mistake on the command line of an error.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError(err.Error())
}
