package epoll

// Readiness, in the bits of epoll_ctl(2) (linux/eventpoll.h).
const (
	In    = 0x1    // EPOLLIN: there is something to read, or the end
	Out   = 0x4    // EPOLLOUT: there is room to write
	Err   = 0x8    // EPOLLERR: an error is pending
	HUp   = 0x10   // EPOLLHUP: closed in both directions
	RdHUp = 0x2000 // EPOLLRDHUP: the peer will send nothing more
)
