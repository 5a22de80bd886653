package socks

import (
	"context"
	"sync/atomic"
)

// Progress shows what a dial through upstreams waits for while it is under way.
// The zero value is ready for one dial. Its methods may be called concurrently.
type Progress struct{ at atomic.Pointer[stage] }

// stage is what a client can wait for at its server.
type stage struct {
	server string // as in OpError
	err    error  // what is wrong if that never comes
}

// stages are those of one server.
type stages struct{ connect, answer stage }

func stagesOf(server string) stages {
	return stages{stage{server, ErrUnreached}, stage{server, ErrSilent}}
}

type progressKey struct{}

// WithProgress returns a context for a dial that p then shows.
func WithProgress(ctx context.Context, p *Progress) context.Context {
	return context.WithValue(ctx, progressKey{}, p)
}

// progressOf returns the Progress of a context; nil = none.
func progressOf(ctx context.Context) *Progress {
	p, _ := ctx.Value(progressKey{}).(*Progress)
	return p
}

func (p *Progress) set(s *stage) {
	if p != nil {
		p.at.Store(s)
	}
}

// Waits returns the upstream that the dial waits for, or last waited for, and
// what is wrong with it if it keeps the dial waiting: ErrUnreached or ErrSilent.
// The cause is nil before the first upstream is dialed.
func (p *Progress) Waits() (server string, cause error) {
	if s := p.at.Load(); s != nil {
		return s.server, s.err
	}
	return "", nil
}
