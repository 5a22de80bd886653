package daemon

import "errors"

// flagError is an error that names the flag to change. The packages below know
// their own configuration and no flags.
type flagError struct {
	flag string
	err  error
}

func (e *flagError) Error() string { return "--" + e.flag + ": " + e.err.Error() }

func (e *flagError) Unwrap() error { return e.err }

// withFlag adds the flag that sets the field of a library's Config, where err is
// about one and has no flag yet.
func withFlag(err error) error {
	var named *flagError
	var about interface {
		error
		ConfigField() string
	}
	if errors.As(err, &named) || !errors.As(err, &about) {
		return err
	}
	flag, ok := map[string]string{
		"Addresses":      "address",
		"ExcludeCgroups": "exclude-cgroup",
		"Interface":      "interface",
		"MTU":            "mtu",
		"Mark":           "fwmark",
		"Name":           "tun",
		"Queues":         "queues",
	}[about.ConfigField()]
	if !ok {
		return err
	}
	return &flagError{flag, err}
}
