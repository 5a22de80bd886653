package publish

import (
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// failingListener fails some times with an error and is closed then.
type failingListener struct {
	net.Listener
	err   error
	times int
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.times--; l.times < 0 {
		return nil, net.ErrClosed
	}
	return nil, l.err
}

// Without descriptors a published port waits for them. The command runs on.
func TestPublishSurvivesAcceptErrors(t *testing.T) {
	for _, err := range []error{syscall.EMFILE, syscall.ECONNABORTED, syscall.ENOBUFS} {
		synctest.Test(t, func(t *testing.T) {
			var out strings.Builder
			s := &Server{cfg: Config{Logger: slog.New(slog.NewTextHandler(&out, nil))}}
			ln := &failingListener{err: err, times: 100}
			began := time.Now()
			(&tcpPort{s, ln, 80}).accept(t.Context())
			if took := time.Since(began); ln.times >= 0 || took < 10*time.Second || took > time.Minute {
				t.Errorf("%v: 100 errors of accept took %v", err, took)
			}
			if n := strings.Count(out.String(), "\n"); n != 1 {
				t.Errorf("%d lines:\n%s", n, &out)
			}
		})
	}
}
