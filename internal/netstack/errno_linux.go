package netstack

import "syscall"

// errNoNet is what a host that is isolated is told (RFC 792, code 8).
const errNoNet = syscall.ENONET
