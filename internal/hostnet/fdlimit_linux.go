package hostnet

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// RaiseFDLimit lifts this process's soft limit of open files to the hard one
// and returns the soft limit as it was and as it is.
func RaiseFDLimit() (before, now uint64, err error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, 0, fmt.Errorf("hostnet: getrlimit RLIMIT_NOFILE: %w", err)
	}
	before = l.Cur
	// Go has raised it to one below the hard limit, and gives children their old
	// one back, unless it is set again.
	if l.Cur < l.Max-1 {
		l.Cur = l.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			return before, before, fmt.Errorf("hostnet: setrlimit RLIMIT_NOFILE %d: %w", l.Max, err)
		}
	}
	return before, l.Cur, nil
}
