package socks

import (
	"net/netip"

	"netstackd/socks/wire"
)

// Protocol is what a client speaks.
type Protocol string

// The protocols of a Server.
const (
	SOCKS4 Protocol = "socks4" // SOCKS4a too
	SOCKS5 Protocol = "socks5"
	HTTP   Protocol = "http"
)

// Request describes what a client of a Server wants.
type Request struct {
	Protocol Protocol       // "" before the client's first byte
	Command  wire.Command   // Associate is UDP, the others are TCP; 0 before the request
	Source   netip.AddrPort // the client
	Dest     wire.Addr      // the destination; zero where it is not known yet
	User     string         // authenticated; "" without authentication
}

// Network returns "udp" for an association and "tcp" for all else.
func (r *Request) Network() string {
	if r.Command == wire.Associate {
		return "udp"
	}
	return "tcp"
}

// Flow is the entry of one request in a registry of the caller's: it is counted
// there, and may be ended from there. Config.Open makes it. Its methods are called
// by several goroutines.
type Flow interface {
	// Establish is called when the destination of a connection is reached. It
	// returns false if the registry has evicted the flow, which then ends.
	Establish() bool
	// Evicted reports whether the flow was killed to make room for another. The
	// client then gets the reply of a timeout.
	Evicted() bool
	// OnKill replaces the function given to Config.Open, which ends the flow. If the
	// flow was killed before, OnKill must call kill at once.
	OnKill(kill func())
	// AddUp and AddDown count payload bytes, to and from the destination.
	AddUp(n int64)
	AddDown(n int64)
	// Close is called when the flow has ended. It must be idempotent. Evicted may be
	// called after it.
	Close()
}

// unregistered is the Flow of a Server without a registry.
type unregistered struct{}

func (unregistered) Establish() bool { return true }
func (unregistered) Evicted() bool   { return false }
func (unregistered) OnKill(func())   {}
func (unregistered) AddUp(int64)     {}
func (unregistered) AddDown(int64)   {}
func (unregistered) Close()          {}
