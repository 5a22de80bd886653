//go:build linux

package relay_test

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Without descriptors for pipes a flow is slower, and nothing else.
func TestWithoutPipes(t *testing.T) {
	const child = "NETSTACKD_RELAY_CHILD"
	if os.Getenv(child) == "" { // the limit would be felt by other tests
		cmd := exec.Command(os.Args[0], "-test.run=^TestWithoutPipes$")
		cmd.Env = append(os.Environ(), child+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	r := newRig(t)
	client, in, out, server := r.ends(sockets)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd) // the lowest free one
	now := was
	now.Cur = uint64(fd)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != unix.EMFILE {
		t.Fatalf("a pipe can be had: %v", err)
	}
	r.relay.Join(r.open(), in, out)
	for round := range 2 {
		var wg sync.WaitGroup
		const size = 8 << 20
		sent, got := sha256.New(), sha256.New()
		wg.Go(func() {
			src := rand.NewChaCha8([32]byte{byte(round)})
			if _, err := io.CopyN(io.MultiWriter(client, sent), src, size); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := io.CopyN(struct{ io.Writer }{server}, server, size); err != nil {
				t.Error(err)
			}
		})
		if _, err := io.CopyN(got, client, size); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if string(sent.Sum(nil)) != string(got.Sum(nil)) {
			t.Error("what came back is not what was sent")
		}
		// With descriptors again, the same flow goes on.
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
	}
	closeWrite(t, client)
	expectEOF(t, server)
	closeWrite(t, server)
	expectEOF(t, client)
	r.wait()
}

// Urgent data is part of the stream: it neither ends a flow nor stalls it.
func TestUrgentData(t *testing.T) {
	for _, kind := range []string{sockets, stackOut, stackIn} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t)
			client, in, out, server := r.ends(kind)
			from, to := client, server
			if kind == stackIn {
				from, to = server, client
			}
			write(t, from, "abc")
			urgent(t, from, '!')
			write(t, from, "def")
			r.relay.Join(r.open(), in, out)
			expect(t, to, "abc!def")
			for range 10 {
				urgent(t, from, '?')
				expect(t, to, "?")
				write(t, from, "ghi")
				urgent(t, from, '.')
				write(t, from, "jkl")
				expect(t, to, "ghi.jkl")
			}
			urgent(t, from, '$')
			closeWrite(t, from)
			expect(t, to, "$")
			expectEOF(t, to)
			closeWrite(t, to)
			expectEOF(t, from)
			r.wait()
			from.Close()
			to.Close()
		})
	}
}

func urgent(t *testing.T, c net.Conn, b byte) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var serr error
	if err := raw.Write(func(fd uintptr) bool {
		serr = unix.Sendto(int(fd), []byte{b}, unix.MSG_OOB, nil)
		return serr != unix.EAGAIN
	}); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
}
