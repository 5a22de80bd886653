//go:build linux

package relay_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Much is sent, and then the end of it, to a client that stalls: what the
// kernel still holds is more than nothing and less than what makes it stop.
const bulkRead = 20 << 20

func bulkRests() []int { return []int{3 << 20, 5 << 20, 7 << 20, 9 << 20} }

// bulk sends to a client that reads bulkRead of it and stalls.
func bulk(t *testing.T, client peer, server peer, rest int, last func()) {
	t.Helper()
	go func() {
		b := make([]byte, 1<<20)
		for n := 0; n < bulkRead+rest; n += len(b) {
			if _, err := server.Write(b); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
		last()
		if err := server.CloseWrite(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	if _, err := io.CopyN(io.Discard, client, bulkRead); err != nil {
		t.Errorf("read: %v", err)
	}
}

func processCPU(t *testing.T) time.Duration {
	t.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// A server's FIN that waits behind data, when the client has closed its half
// already, is a hang-up that lasts: it must not keep the flow's task busy.
func TestStalledAfterBothFINs(t *testing.T) {
	r := newRig(t)
	var clients []peer
	var wg sync.WaitGroup
	for _, kind := range []string{sockets, stackIn} {
		for _, rest := range bulkRests() {
			client, server, _ := r.join(kind)
			clients = append(clients, client)
			wg.Go(func() {
				if err := client.CloseWrite(); err != nil {
					t.Errorf("close: %v", err)
				}
				if _, err := io.Copy(io.Discard, server); err != nil {
					t.Errorf("request: %v", err)
				}
				bulk(t, client, server, rest, func() {})
			})
		}
	}
	wg.Wait()
	const look, most = 200 * time.Millisecond, 20 * time.Millisecond
	tick := time.NewTicker(look)
	defer tick.Stop()
	used := time.Duration(0)
	for deadline := time.Now().Add(10 * time.Second); ; {
		before := processCPU(t)
		<-tick.C
		if used = processCPU(t) - before; used < most {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("flows that stall take %v of CPU in %v", used, look)
			break
		}
	}
	for i, c := range clients {
		if n, err := io.Copy(io.Discard, c); err != nil || n != int64(bulkRests()[i%len(bulkRests())]) {
			t.Errorf("client %d: %d bytes more, %v", i, n, err)
		}
	}
}

// Urgent data before a FIN that has arrived already is where splice stops, too.
func TestUrgentBeforeFIN(t *testing.T) {
	for _, kind := range []string{sockets, stackIn} {
		for _, rest := range bulkRests() {
			t.Run(fmt.Sprintf("%s/%d", kind, rest), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				client, server, _ := r.join(kind)
				bulk(t, client, server, rest, func() {
					raw, err := server.(*net.TCPConn).SyscallConn()
					var oob error
					if err == nil {
						err = raw.Control(func(fd uintptr) { oob = unix.Sendto(int(fd), []byte{'!'}, unix.MSG_OOB, nil) })
					}
					_, werr := server.Write(make([]byte, 1000))
					if err := errors.Join(err, oob, werr); err != nil {
						t.Errorf("urgent: %v", err)
					}
				})
				if err := client.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
					t.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, client); err != nil || n != int64(rest)+1001 {
					t.Errorf("%d bytes more, %v; want %d", n, err, rest+1001)
				}
				server.Close()
			})
		}
	}
}
