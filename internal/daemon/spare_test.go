package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"netstackd/internal/flow"
)

// fullDialer fails with err until it has done so a few times.
type fullDialer struct {
	dialer
	err          error
	fails, dials int
}

func (d *fullDialer) DialContext(context.Context, *flow.Meta, string, string) (net.Conn, error) {
	if d.dials++; d.dials <= d.fails {
		return nil, fmt.Errorf("socket: %w", d.err)
	}
	return nil, nil
}

func TestDialSparesDescriptors(t *testing.T) {
	for _, tt := range []struct {
		name          string
		err           error
		fails, spared int
		want          error
		dials, left   int
	}{
		{"room", nil, 0, 9, nil, 1, 9},
		{"one session", syscall.EMFILE, 1, 9, nil, 2, 8},
		{"the whole host", syscall.ENFILE, 3, 9, nil, 4, 6},
		{"nothing to spare", syscall.EMFILE, 9, 0, syscall.EMFILE, 1, 0},
		{"no end", syscall.EMFILE, 99, 99, syscall.EMFILE, 1 + maxSpared, 99 - maxSpared},
		{"another reason", syscall.ECONNREFUSED, 9, 9, syscall.ECONNREFUSED, 1, 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			left := tt.spared
			full := &fullDialer{err: tt.err, fails: tt.fails}
			d := &sparing{full, func() bool {
				if left == 0 {
					return false
				}
				left--
				return true
			}}
			_, err := d.DialContext(t.Context(), &flow.Meta{}, "tcp", "192.0.2.1:80")
			if !errors.Is(err, tt.want) || full.dials != tt.dials || left != tt.left {
				t.Errorf("%v after %d dials with %d sessions left, want %v, %d, %d", err, full.dials, left, tt.want, tt.dials, tt.left)
			}
		})
	}
}
