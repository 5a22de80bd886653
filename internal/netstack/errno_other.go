//go:build !linux

package netstack

import "syscall"

const errNoNet = syscall.ENETUNREACH
