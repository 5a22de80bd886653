//go:build !linux

package doctor

import "context"

// Run says that netstackd does not run on this system.
func Run(context.Context) []Check {
	return []Check{fail("system", "netstackd runs on Linux only", "")}
}
