package netstack

import "syscall"

// errNoNet is the errno of "source host isolated" (RFC 792, code 8).
const errNoNet = syscall.ENONET
