//go:build !linux

package publish

import (
	"errors"
	"fmt"
)

const controlSpace = 0

// local is not known on this system, which has no sandbox.
type local struct{}

func (*udpPort) reportLocal() error { return fmt.Errorf("UDP: %w", errors.ErrUnsupported) }

func parseLocal([]byte) local { return local{} }

func (local) control() []byte { return nil }

func readNow(uintptr, []byte) (int, error, bool) { return 0, errors.ErrUnsupported, true }
