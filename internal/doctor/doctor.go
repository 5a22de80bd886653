// Package doctor looks at everything on this host that netstackd depends on. It
// changes nothing, and sends no packet beyond the first router.
package doctor

// Status is how a check went.
type Status uint8

// The three outcomes: all is well; something will not work as well as it could,
// or only in some mode; something that netstackd needs is missing.
const (
	Pass Status = iota
	Warn
	Fail
)

// String returns the word that the doctor prints.
func (s Status) String() string {
	switch s {
	case Pass:
		return "pass"
	case Warn:
		return "warn"
	}
	return "fail"
}

// Check is the result of one check.
type Check struct {
	Name   string // what was looked at
	Status Status
	Detail string // what was found, in one line
	Fix    string // the command that mends it; "" for a pass
}

func pass(name, detail string) Check      { return Check{name, Pass, detail, ""} }
func warn(name, detail, fix string) Check { return Check{name, Warn, detail, fix} }
func fail(name, detail, fix string) Check { return Check{name, Fail, detail, fix} }
