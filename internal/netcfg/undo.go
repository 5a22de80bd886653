package netcfg

import "errors"

// undoStack holds what to do to take back what was done, last first.
type undoStack []func() error

func (u *undoStack) push(f func() error) { *u = append(*u, f) }

// run empties the stack. Every step runs, whatever the others returned.
func (u *undoStack) run() error {
	var errs []error
	for len(*u) > 0 {
		last := len(*u) - 1
		f := (*u)[last]
		*u = (*u)[:last]
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}
