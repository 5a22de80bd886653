//go:build linux

package main

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if isPump() {
		main()
	}
	os.Exit(m.Run())
}

// What the pump is measured by, it does: bytes arrive as they were sent, little
// and much, and a FIN ends its own direction only.
func TestPump(t *testing.T) {
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() { // all of it back, once it has ended
				defer c.Close()
				all, _ := io.ReadAll(c)
				c.Write(all)
			}()
		}
	}()
	self := startPump(t)
	to := server.Addr().(*net.TCPAddr)
	for _, size := range []int{1, 128, 16 << 10, 16<<10 + 1, 9 << 20} {
		c := dialPump(t, self)
		if _, err := c.Write([]byte{5, 1, 0}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		request := append([]byte{5, 1, 0, 1}, to.IP.To4()...)
		if _, err := c.Write(append(request, byte(to.Port>>8), byte(to.Port))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		sent := make([]byte, size)
		rand.Read(sent)
		if _, err := c.Write(sent); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes came back of %d, %v", len(got), size, err)
		}
		c.Close()
	}
}

// startPump runs one as a process of its own, and returns its address.
func startPump(t *testing.T) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.Command(os.Args[0], pumpCommand, address)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		patience := time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
		defer patience.Stop()
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
			t.Errorf("SIGTERM did not end it: %v", cmd.ProcessState)
		}
	})
	return address
}

// dialPump connects once the pump listens.
func dialPump(t *testing.T, address string) net.Conn {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); ; <-tick.C {
		c, err := net.Dial("tcp4", address)
		if err == nil {
			c.SetDeadline(time.Now().Add(5 * time.Second))
			t.Cleanup(func() { c.Close() })
			return c
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
