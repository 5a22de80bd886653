package datagram

import (
	"sync"

	"netstackd/internal/sys"
)

// scratch holds the buffers of system calls, which are needed only during one.
type scratch struct {
	senders  sync.Pool // *sender
	receives sync.Pool // *receiveBatch
	errors   sync.Pool // *sys.ErrorReader
}

func (s *scratch) init() {
	s.senders.New = func() any { return new(sender) }
	s.receives.New = func() any { return newReceiveBatch() }
	s.errors.New = func() any { return new(sys.ErrorReader) }
}
