package bench

import "errors"

// WritePlot draws the report.
func (r *Report) WritePlot(file string) error { return errors.ErrUnsupported }
