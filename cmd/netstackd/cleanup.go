package main

import (
	"fmt"

	"netstackd/internal/netcfg"
)

// runCleanup is `netstackd cleanup`.
func runCleanup(args []string) (int, error) {
	fs := newFlagSet("cleanup")
	rest, err := parse(fs, args, func() string {
		return "netstackd cleanup\n" +
			"Removes the rules and routes that killed daemons left in this network namespace.\n" +
			"They lead nowhere and change nothing; those of running daemons stay. Needs root.\n"
	})
	if err != nil {
		return 0, err
	}
	if err := noArguments("cleanup", rest); err != nil {
		return 0, err
	}
	n, err := netcfg.Cleanup()
	if err != nil {
		return 0, fmt.Errorf("cleanup: %w", err)
	}
	fmt.Printf("removed %d rules and routes of killed daemons\n", n)
	return 0, nil
}
