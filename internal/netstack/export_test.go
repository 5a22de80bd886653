package netstack

import "time"

// ErrNoNet is what this system calls no network.
const ErrNoNet = errNoNet

// Deadline lets tests of the outside reach deadline.
type Deadline struct{ d deadline }

// Set is deadline.set.
func (d *Deadline) Set(t time.Time) { d.d.set(t) }

// Wait is deadline.wait.
func (d *Deadline) Wait() <-chan struct{} { return d.d.wait() }
