package logging_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/internal/logging"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log is where lines go. While stopped it takes none.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
	err  error         // of every write
	part int           // bytes that a failing write takes
	stop chan struct{} // writes wait for it to be closed
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	stop := l.stop
	l.mu.Unlock()
	if stop != nil {
		<-stop
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		l.text.Write(p[:l.part])
		return l.part, l.err
	}
	return l.text.Write(p)
}

func (l *log) fail(err error, part int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.part = err, part
}

// hold has writes wait for resume.
func (l *log) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop = make(chan struct{})
}

func (l *log) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.stop)
	l.stop = nil
}

func (l *log) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.SplitAfter(l.text.String(), "\n")
}

func text(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) }

func TestWriterKeepsOrder(t *testing.T) {
	var l log
	w := logging.NewWriter(&l, text)
	var want strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&want, "line %d\n", i)
		fmt.Fprintf(w, "line %d\n", i)
	}
	w.Close()
	if got := strings.Join(l.lines(), ""); got != want.String() {
		t.Errorf("%d bytes of %d, or in another order", len(got), want.Len())
	}
}

// Lines that are queued during a write don't change those in the write: after
// a pause, too, when the buffer was found empty.
func TestWriterOwnsItsBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		w := logging.NewWriter(&l, text)
		want := ""
		for _, line := range []string{"one\n", "two\n", "six\n"} {
			l.hold()
			fmt.Fprint(w, line)
			synctest.Wait() // it is in the write
			fmt.Fprint(w, "---\n")
			l.resume()
			synctest.Wait() // the buffer is empty
			want += line + "---\n"
		}
		w.Close()
		if got := strings.Join(l.lines(), ""); got != want {
			t.Errorf("the log is %q, want %q", got, want)
		}
	})
}

// A log that takes nothing blocks no line; those that found no room are
// counted, and the count follows the lines before them.
func TestWriterReportsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := log{stop: make(chan struct{})}
		w := logging.NewWriter(&l, func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) })
		const written = 20_000
		for i := range written {
			fmt.Fprintf(w, "%099d\n", i) // deadlocks here if it blocks
			if i == 0 {
				synctest.Wait() // a batch that is taken later makes a gap of its own
			}
		}
		close(l.stop)
		synctest.Wait()
		fmt.Fprintf(w, "after\n")
		w.Close()
		lines := l.lines()
		kept := len(lines) - 3 // the report, "after", and what follows the last newline
		if kept < 1000 || kept >= written {
			t.Fatalf("%d of %d lines were kept", kept, written)
		}
		for i, line := range lines[:kept] {
			if line != fmt.Sprintf("%099d\n", i) {
				t.Fatalf("line %d is %q", i, line)
			}
		}
		if want := fmt.Sprintf(`"lines":%d}`, written-kept); !strings.Contains(lines[kept], want) {
			t.Errorf("the report %q lacks %s", lines[kept], want)
		}
		if lines[kept+1] != "after\n" {
			t.Errorf("the line after the report is %q", lines[kept+1])
		}
	})
}

// Lines that can't be written are counted too, and reported once they can.
func TestWriterSurvivesErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		w := logging.NewWriter(&l, text)
		l.fail(syscall.ENOSPC, 4)
		fmt.Fprint(w, "one\ntwo\n")
		synctest.Wait()
		l.fail(syscall.EPIPE, 0)
		fmt.Fprint(w, "three\n")
		synctest.Wait()
		l.fail(nil, 0)
		fmt.Fprint(w, "four\n")
		w.Close()
		lines := l.lines()
		if len(lines) != 4 || lines[0] != "one\n" || lines[1] != "four\n" || !strings.Contains(lines[2], " lines=2\n") {
			t.Errorf("the log is %q", lines)
		}
	})
}

// A blocked log doesn't hold up the end of the program.
func TestWriterCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := log{stop: make(chan struct{})}
		w := logging.NewWriter(&l, text)
		fmt.Fprintln(w, "a line")
		began := time.Now()
		w.Close()
		if took := time.Since(began); took == 0 || took > time.Second {
			t.Errorf("closed after %v", took)
		}
		close(l.stop)
		w.Close()
		if got := l.lines()[0]; got != "a line\n" {
			t.Errorf("the log is %q", got)
		}
	})
}
