// Package logging writes the program's log without ever blocking it.
//
// # Theory of operation
//
//	slog.Logger ──Write──► buffer (bounded) ──one goroutine──► out
//
// The reader of a log may stop reading: a terminal after Ctrl-S, a pipe whose
// reader hangs. A write to it then blocks, and a program that logs from its
// data path stops with it. So Write only copies a line into a buffer. One
// goroutine writes what the buffer holds, as many lines at once as there are.
// A line that the buffer has no room for, or that can't be written (closed
// pipe, full disk), is dropped and counted. The count is logged as soon as the
// log takes lines again.
//
// If out is standard output or standard error, the Go runtime ends the program
// with SIGPIPE when the reader is gone, before the write can fail here. A
// program prevents that with signal.Notify for SIGPIPE.
package logging

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// bufferSize is how many bytes of lines may wait: about a thousand lines.
	// As many again may be in the write under way.
	bufferSize = 256 << 10
	// closeTimeout bounds Close where the log takes no lines.
	closeTimeout = 500 * time.Millisecond
)

// Writer queues lines for a log. Each Write is one line, as slog's handlers
// make them.
type Writer struct {
	out    io.Writer
	report slog.Handler // of dropped lines, to out

	wake chan struct{} // lines wait; closed by Close
	done chan struct{} // the goroutine has ended

	mu      sync.Mutex
	waiting []byte // lines that are not in a write yet
	dropped uint64 // lines since the last report
	closed  bool
}

// NewWriter returns a writer to out and starts its goroutine, which Close ends.
// handler gives the report of dropped lines its format; nil means no report.
func NewWriter(out io.Writer, handler func(io.Writer) slog.Handler) *Writer {
	w := &Writer{
		out:    out,
		report: slog.DiscardHandler,
		wake:   make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
	if handler != nil {
		w.report = handler(out)
	}
	go w.run()
	return w
}

// Write queues a copy of p. It never blocks and never fails.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.waiting)+len(p) > bufferSize {
		w.dropped++
		return len(p), nil
	}
	w.waiting = append(w.waiting, p...)
	select {
	case w.wake <- struct{}{}:
	default: // a wake-up is pending
	}
	return len(p), nil
}

// Close writes what is queued, for half a second at most. Later lines are
// dropped. The goroutine ends when its last write returns.
func (w *Writer) Close() error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.wake)
	}
	w.mu.Unlock()
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	select {
	case <-w.done:
	case <-timeout.C:
	}
	return nil
}

func (w *Writer) run() {
	defer close(w.done)
	var spare []byte
	for open := true; open; {
		_, open = <-w.wake
		for {
			batch, dropped := w.take(spare)
			spare = batch // also when empty: the writers have the other one now
			if len(batch) == 0 && dropped == 0 {
				break
			}
			if lost := w.write(batch, dropped); lost > 0 {
				w.mu.Lock()
				w.dropped += lost
				w.mu.Unlock()
				break // the next line tries again
			}
		}
	}
}

// take exchanges spare for the lines that wait, and returns how many were
// dropped behind them.
func (w *Writer) take(spare []byte) (batch []byte, dropped uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	batch, dropped = w.waiting, w.dropped
	w.waiting, w.dropped = spare[:0], 0
	return batch, dropped
}

// write writes lines and the report of those that were dropped. It returns how
// many lines the log lacks now without a report.
func (w *Writer) write(batch []byte, dropped uint64) (lost uint64) {
	if len(batch) > 0 {
		if n, err := w.out.Write(batch); err != nil {
			return dropped + uint64(bytes.Count(batch[n:], []byte{'\n'}))
		}
	}
	if dropped == 0 {
		return 0
	}
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines were dropped: the log's reader was too slow", 0)
	r.AddAttrs(slog.Uint64("lines", dropped))
	if err := w.report.Handle(context.Background(), r); err != nil {
		return dropped
	}
	return 0
}
