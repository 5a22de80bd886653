package sandbox

import (
	"net/netip"
	"time"
)

// message is what netstackd and the helper say to each other, as JSON, one in
// each packet of a SOCK_SEQPACKET socketpair. Op says which fields count.
type message struct {
	Op op

	Setup    *setup   `json:",omitempty"` // opSetup
	Probe    *probe   `json:",omitempty"` // opProbe
	ID       uint64   `json:",omitempty"` // opDial, opDialed
	Network  string   `json:",omitempty"` // opDial
	Address  string   `json:",omitempty"` // opDial
	Signal   int      `json:",omitempty"` // opSignal, opStopped
	Status   int      `json:",omitempty"` // opExited, opFailed: as exec exits
	Text     string   `json:",omitempty"` // opFailed, opDialed: the error
	Errno    int      `json:",omitempty"` // opFailed, opDialed: 0 if there is none
	PID      int      `json:",omitempty"` // opStarted
	Streams  int      `json:",omitempty"` // opReady: how many of the fds are listeners
	NoIPv6   bool     `json:",omitempty"` // opReady: there is none inside
	Warnings []string `json:",omitempty"` // opReady
}

// op names a message. The fds that come with one are in brackets.
type op string

const (
	// From netstackd to the helper.
	opSetup  op = "setup"
	opProbe  op = "probe"
	opStart  op = "start"
	opSignal op = "signal" // a signal that netstackd got
	opDial   op = "dial"
	opKill   op = "kill" // end the command and all it started

	// From the helper to netstackd.
	opReady   op = "ready"  // [TUN queues, then DNS listeners, then DNS packet sockets]
	opProbed  op = "probed" // Text is what came back
	opStarted op = "started"
	opStopped op = "stopped"
	opExited  op = "exited" // the command, and all that it left behind
	opDialed  op = "dialed" // [the connection]
	opFailed  op = "failed" // what opSetup, opProbe or opStart asked for; the helper exits
)

// setup is what the helper has to know of Config.
type setup struct {
	TUN        string
	Queues     int
	MTU        int
	PathMTU    int
	Addresses  []netip.Prefix
	Nameserver netip.Addr
	NoIPv6     bool
	Grace      time.Duration
}

// probe tells the helper where to connect to, and what to send there.
type probe struct {
	Addrs   []netip.AddrPort
	Secret  string
	Timeout time.Duration
}
