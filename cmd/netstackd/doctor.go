package main

import (
	"errors"
	"fmt"

	"netstackd/internal/doctor"
)

// runDoctor is `netstackd doctor`: a line for each check, status 1 if one fails.
func runDoctor(args []string) (int, error) {
	fs := newFlagSet("doctor")
	rest, err := parse(fs, args, func() string {
		return "netstackd doctor\n" +
			"Looks for what stops netstackd from working on this host, or from working well.\n" +
			"Each line is pass, warn or fail, what was found, and the command that mends it.\n" +
			"Changes nothing. Run it as the user who is going to run netstackd.\n"
	})
	if err != nil {
		return 0, err
	}
	if err := noArguments("doctor", rest); err != nil {
		return 0, err
	}
	ctx, stop := untilSignal()
	defer stop()
	checks := doctor.Run(ctx)
	if ctx.Err() != nil {
		return 0, errors.New("doctor: interrupted")
	}
	status := 0
	for _, c := range checks {
		line := fmt.Sprintf("%s  %s: %s", c.Status, c.Name, c.Detail)
		if c.Fix != "" {
			line += "; fix: " + c.Fix
		}
		fmt.Println(line)
		if c.Status == doctor.Fail {
			status = exitFailure
		}
	}
	return status, nil
}
