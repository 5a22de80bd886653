//go:build !linux

package daemon

import "errors"

func totalMemory() (int64, error) { return 0, errors.ErrUnsupported }

func tcpMemory() int64 { return 0 }
