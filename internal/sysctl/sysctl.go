// Package sysctl reads and writes kernel settings, in the namespaces of the
// calling thread. A setting is named by its path below /proc/sys, such as
// net/ipv4/ip_forward: in a name with dots, an interface like eth0.100 would be
// ambiguous.
package sysctl

import (
	"os"
	"strconv"
	"strings"
)

const root = "/proc/sys/"

// Exists reports whether the kernel has a setting, or a directory of them.
func Exists(name string) bool {
	_, err := os.Stat(root + name)
	return err == nil
}

// Read returns a setting's text.
func Read(name string) (string, error) {
	b, err := os.ReadFile(root + name)
	return strings.TrimSpace(string(b)), err
}

// Int returns a setting that is one number.
func Int(name string) (int, error) {
	text, err := Read(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// Writable reports whether this process may change a setting, without doing it.
func Writable(name string) bool {
	f, err := os.OpenFile(root+name, os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// Write changes a setting.
func Write(name, value string) error {
	f, err := os.OpenFile(root+name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
