//go:build linux

package relay_test

import (
	"io"
	"testing"
)

// BenchmarkFlow is a connection, a request, a response and their end.
func BenchmarkFlow(b *testing.B) {
	for _, kind := range []string{sockets, stackIn} {
		b.Run(kind, func(b *testing.B) {
			r := newRig(b)
			buf := make([]byte, 100)
			for b.Loop() {
				client, in, out, server := r.ends(kind)
				r.relay.Join(r.open(), in, out)
				client.Write(buf)
				io.ReadFull(server, buf)
				server.Write(buf)
				server.CloseWrite()
				io.ReadFull(client, buf)
				client.Close()
				server.Close()
			}
			r.wait()
		})
	}
}

// BenchmarkBulk is one connection's throughput in one direction.
func BenchmarkBulk(b *testing.B) {
	for _, kind := range kinds {
		b.Run(kind, func(b *testing.B) {
			r := newRig(b)
			client, server, _ := r.join(kind)
			done := make(chan struct{})
			go func() {
				defer close(done)
				io.Copy(io.Discard, struct{ io.Reader }{server})
			}()
			buf := make([]byte, 256<<10)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if _, err := client.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
			client.CloseWrite()
			<-done
		})
	}
}
