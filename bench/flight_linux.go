package bench

import (
	"encoding/binary"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// flight is the datagrams that one socket has under way. They go in trains,
// each a message of a send call; a plain datagram is a train of one.
type flight struct {
	out, in *messages // a message of out for each train that may be under way
	header  int       // bytes before the train's number, in each datagram
	size    int       // of one datagram with its header
	length  int       // of a train, in datagrams
	next    uint64    // the number of the train that is sent next
	under   []train   // in the order they were sent
}

// train is one under way.
type train struct {
	number uint64
	sent   time.Time
	left   int // datagrams that have not come back
}

// newFlight makes one of so many trains of a length, with a header before each
// payload.
func newFlight(header []byte, trains, length int) *flight {
	f := &flight{header: len(header), size: len(header) + datagramSize, length: length}
	f.out = newMessages(trains, f.size*length)
	room := f.size
	if length > 1 {
		room = trainBuffer
	}
	f.in = newMessages(max(trains, 2), room)
	for i, b := range f.out.bufs {
		for at := 0; at < len(b); at += f.size {
			copy(b[at:], header)
		}
		if length > 1 {
			f.out.segment(i, uint16(f.size), 0)
		}
	}
	return f
}

// fill sends as many trains as there is room for.
func (f *flight) fill(fd int, now time.Time) error {
	for free := len(f.out.bufs) - len(f.under); free > 0; {
		for i := range free {
			f.stamp(f.out.bufs[i], f.next+uint64(i))
		}
		n, err := f.out.send(fd, free)
		switch err {
		case nil:
		case unix.ECONNREFUSED: // the answer to an earlier one
			continue
		case unix.EAGAIN, unix.ENOBUFS:
			return nil
		default:
			return err
		}
		for range n {
			f.under = append(f.under, train{f.next, now, f.length})
			f.next++
		}
		free -= n
	}
	return nil
}

// stamp numbers a train's datagrams.
func (f *flight) stamp(b []byte, number uint64) {
	for at := f.header; at < len(b); at += f.size {
		binary.NativeEndian.PutUint64(b[at:], number)
	}
}

// land receives what has come and returns how many datagrams of it were under
// way.
func (f *flight) land(fd int) (int, error) {
	n, err := f.in.receive(fd, false)
	if err != nil {
		return 0, err
	}
	got := 0
	for i := range n {
		b := f.in.received(i)
		for at := f.header; at+8 <= len(b); at += f.size {
			if f.back(binary.NativeEndian.Uint64(b[at:])) {
				got++
			}
		}
	}
	return got, nil
}

// back takes a datagram of a train from those under way, and reports if it was.
func (f *flight) back(number uint64) bool {
	i := slices.IndexFunc(f.under, func(t train) bool { return t.number == number })
	if i < 0 {
		return false
	}
	if f.under[i].left--; f.under[i].left == 0 {
		f.under = slices.Delete(f.under, i, i+1)
	}
	return true
}

// late gives up the trains that were sent before a time, and returns how many
// datagrams are lost with them.
func (f *flight) late(before time.Time) (lost int) {
	n := 0
	for n < len(f.under) && f.under[n].sent.Before(before) {
		lost += f.under[n].left
		n++
	}
	f.under = slices.Delete(f.under, 0, n)
	return lost
}
