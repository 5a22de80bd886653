package hostnet_test

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"netstackd/internal/hostnet"
)

func TestDialEvicts(t *testing.T) {
	for _, tt := range []struct {
		name         string
		err          error
		fails, flows int
		want         error
		dials, left  int
	}{
		{"room", nil, 0, 9, nil, 1, 9},
		{"one session", syscall.EMFILE, 1, 9, nil, 2, 8},
		{"the whole host", syscall.ENFILE, 3, 9, nil, 4, 6},
		{"nothing to evict", syscall.EMFILE, 9, 0, syscall.EMFILE, 1, 0},
		{"no end", syscall.EMFILE, 99, 99, syscall.EMFILE, 1 + hostnet.MaxEvictions, 99 - hostnet.MaxEvictions},
		{"another reason", syscall.ECONNREFUSED, 9, 9, syscall.ECONNREFUSED, 1, 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			left, dials := tt.flows, 0
			evict := func() bool {
				if left == 0 {
					return false
				}
				left--
				return true
			}
			dial := func() (net.Conn, error) {
				if dials++; dials <= tt.fails {
					return nil, fmt.Errorf("socket: %w", tt.err)
				}
				return nil, nil
			}
			_, err := hostnet.DialEvicting(t.Context(), evict, dial)
			if !errors.Is(err, tt.want) || dials != tt.dials || left != tt.left {
				t.Errorf("%v after %d dials with %d flows left, want %v, %d, %d", err, dials, left, tt.want, tt.dials, tt.left)
			}
		})
	}
}
