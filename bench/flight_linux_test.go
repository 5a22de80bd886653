package bench

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A datagram that is lost is counted once, when it is late, while those beside
// it go on; one that comes twice or too late counts for nothing.
func TestFlight(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		defer unix.Close(fd)
	}
	here, there := fds[0], fds[1]
	f := newFlight([]byte("header"), 4, 1)
	buf := make([]byte, 2*f.size)
	receive := func() []byte {
		t.Helper()
		n, err := unix.Read(there, buf)
		if err != nil || n != f.size {
			t.Fatalf("read %d bytes, %v; want %d", n, err, f.size)
		}
		return buf[:n]
	}
	answer := func(b []byte) {
		t.Helper()
		if _, err := unix.Write(there, b); err != nil {
			t.Fatal(err)
		}
	}
	landed := func(want int) {
		t.Helper()
		for {
			got, err := f.land(here)
			if err == unix.EAGAIN {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			want -= got
		}
		if want != 0 {
			t.Fatalf("%d more were to land", want)
		}
	}

	start := time.Now()
	if err := f.fill(here, start); err != nil {
		t.Fatal(err)
	}
	missing := append([]byte(nil), receive()...)
	for range 3 {
		answer(receive())
	}
	landed(3)
	if err := f.fill(here, start.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b := receive()
		answer(b)
		answer(b)
	}
	landed(3)
	if got := f.late(start); got != 0 {
		t.Errorf("%d were late at once", got)
	}
	if got := f.late(start.Add(time.Second)); got != 1 {
		t.Errorf("%d were late, want the one without an answer", got)
	}
	answer(missing)
	landed(0)
	if len(f.under) != 0 {
		t.Errorf("%d under way, want none", len(f.under))
	}
}

// A train comes back in part, and the rest of it is lost when it is late.
func TestFlightTrain(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		defer unix.Close(fd)
	}
	here, there := fds[0], fds[1]
	f := newFlight([]byte("header"), 2, 3)
	start := time.Now()
	if err := f.fill(here, start); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4*f.size)
	for _, part := range []int{2, 3} { // datagrams that come back, of the first train and of the second
		n, err := unix.Read(there, buf)
		if err != nil || n != 3*f.size {
			t.Fatalf("read %d bytes, %v; want a train of %d", n, err, 3*f.size)
		}
		if _, err := unix.Write(there, buf[:part*f.size]); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := f.land(here); err != nil || got != 5 {
		t.Errorf("landed %d, %v; want 5", got, err)
	}
	if len(f.under) != 1 {
		t.Errorf("%d trains under way, want the one that came back in part", len(f.under))
	}
	if got := f.late(start.Add(time.Second)); got != 1 {
		t.Errorf("%d datagrams were late, want 1", got)
	}
}
