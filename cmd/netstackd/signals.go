package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// keepWithoutReader makes a write to a closed pipe an error like any other.
// Otherwise the Go runtime ends the program by SIGPIPE when the reader of
// standard output or standard error goes, and leaves the host's rules behind.
// Signals that are caught have their default effect again in programs that
// this one starts; ignored ones would not.
func keepWithoutReader() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// untilSignal returns a context that SIGINT or SIGTERM ends. The second such
// signal has its default effect and ends the process at once.
func untilSignal() (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// onHangup turns SIGHUP into a value on the returned channel. Hangups that
// come while one is waiting add nothing to it.
func onHangup() (<-chan struct{}, func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	reload := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range signals {
			select {
			case reload <- struct{}{}:
			default:
			}
		}
	}()
	return reload, func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}
