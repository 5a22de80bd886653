//go:build !linux

package main

import "errors"

func runPump(string) error { return errors.ErrUnsupported }
