package socks_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"

	"netstackd/socks"
	"netstackd/socks/wire"
)

var local = hostDialer{hosts: map[string]string{"echo.test": "127.0.0.1"}}

func socks4Request(t testing.TB, hostport, user string) string {
	t.Helper()
	a, err := wire.ParseHostPort(hostport)
	if err != nil {
		t.Fatal(err)
	}
	b, err := wire.Request4{Command: wire.Connect, Addr: a, User: user}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestServerProtocols sends each protocol's whole opening, with early data, at
// once and then byte by byte.
func TestServerProtocols(t *testing.T) {
	target := echo(t)
	named := "echo.test:" + port(target)
	p := start(t, local, socks.Config{})
	ip := netip.MustParseAddrPort(target)
	v4 := string(binary.BigEndian.AppendUint16(nil, ip.Port()))
	cases := []struct{ name, open, answer string }{
		{"SOCKS5", "\x05\x01\x00" + request5(t, wire.Connect, target), "\x05\x00\x05\x00\x00\x01"},
		{"SOCKS5 name", "\x05\x02\x00\x02" + request5(t, wire.Connect, named), "\x05\x00\x05\x00\x00\x01"},
		{"SOCKS5 literal as name", "\x05\x01\x00\x05\x01\x00\x03\x09127.0.0.1" + v4, "\x05\x00\x05\x00\x00\x01"},
		{"SOCKS5 mapped", "\x05\x01\x00\x05\x01\x00\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x7f\x00\x00\x01" + v4, "\x05\x00\x05\x00\x00\x01"},
		{"SOCKS5 only with password", "\x05\x01\x02\x01\x01u\x00" + request5(t, wire.Connect, target), "\x05\x02\x01\x00\x05\x00\x00\x01"},
		{"SOCKS4", socks4Request(t, target, "somebody"), "\x00\x5a"},
		{"SOCKS4a", socks4Request(t, named, ""), "\x00\x5a"},
		{"HTTP", "CONNECT " + named + " HTTP/1.1\r\nHost: " + named + "\r\n\r\n", "HTTP/1.1 200 Connection established\r\n\r\n"},
	}
	for _, tc := range cases {
		for _, how := range []string{"at once", "byte by byte"} {
			t.Run(tc.name+"/"+how, func(t *testing.T) {
				c := dial(t, p.addr)
				open := tc.open + "early data"
				if how == "at once" {
					send(t, c, open)
				} else {
					for i := range len(open) {
						send(t, c, open[i:i+1])
					}
				}
				c.CloseWrite()
				want(t, c, tc.answer)
				switch {
				case strings.HasPrefix(tc.name, "SOCKS5"):
					io.ReadFull(c, make([]byte, 6))
				case strings.HasPrefix(tc.name, "SOCKS4"):
					io.ReadFull(c, make([]byte, 6))
				}
				want(t, c, "early data")
				wantEOF(t, c)
			})
		}
	}
	eventually(t, "all flows closed", func() bool { return p.flows.Len() == 0 })
	if got := p.Stats().Connects; got != int64(2*len(cases)) {
		t.Errorf("%d connects, want %d", got, 2*len(cases))
	}
}

// TestServerHalfClose echoes 40 times 4 MB, each way ended by FIN.
func TestServerHalfClose(t *testing.T) {
	// The server only answers when it has everything.
	target := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
		b, err := io.ReadAll(c)
		if err == nil {
			c.Write(b)
		}
	})
	p := start(t, local, socks.Config{})
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			data := make([]byte, 4<<20)
			rng := rand.NewChaCha8([32]byte{byte(worker)})
			for range 10 {
				rng.Read(data)
				c := dial(t, p.addr)
				socks5(t, c, wire.Connect, target, wire.ReplySucceeded)
				wg.Go(func() {
					c.Write(data)
					c.CloseWrite()
				})
				h := sha256.New()
				n, err := io.Copy(h, c)
				if err != nil || n != int64(len(data)) || [32]byte(h.Sum(nil)) != sha256.Sum256(data) {
					t.Errorf("%d bytes came back, %v", n, err)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	// The other way: the server ends first, and goes on reading.
	heard := make(chan string, 1)
	first := serveTCP(t, "127.0.0.1:0", func(c net.Conn) {
		io.WriteString(c, "that's all")
		c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		heard <- string(b)
	})
	c := dial(t, p.addr)
	socks5(t, c, wire.Connect, first, wire.ReplySucceeded)
	want(t, c, "that's all")
	wantEOF(t, c)
	send(t, c, "is it")
	c.CloseWrite()
	if got := <-heard; got != "is it" {
		t.Errorf("server heard %q", got)
	}
}

func TestServerHTTPForward(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		for _, h := range []string{"Proxy-Authorization", "Proxy-Connection", "Connection", "X-Hop", "Keep-Alive"} {
			if v := r.Header.Get(h); v != "" {
				w.Header().Set("X-Leaked", h)
			}
		}
		w.Header().Set("X-Via", r.Header.Get("Via"))
		w.Header().Set("X-Host", r.Host)
		io.Copy(w, r.Body)
	})
	hs := http.Server{Handler: mux}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { hs.Serve(ln) })
	t.Cleanup(func() { hs.Close(); wg.Wait() })
	named := "echo.test:" + port(ln.Addr().String())
	p := start(t, local, socks.Config{})
	c := dial(t, p.addr)
	br := bufio.NewReader(c)
	for i := range 3 { // on one connection
		body := strings.Repeat("x", i*100)
		send(t, c, "POST http://"+named+"/echo?a;b HTTP/1.1\r\nHost: wrong.test\r\nConnection: keep-alive, X-Hop\r\n"+
			"X-Hop: 1\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nContent-Length: "+
			strconv.Itoa(len(body))+"\r\n\r\n"+body)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err != nil || string(got) != body || resp.StatusCode != 200 {
			t.Fatalf("%s %q %v", resp.Status, got, err)
		}
		if h := resp.Header.Get("X-Leaked"); h != "" {
			t.Errorf("%s was forwarded", h)
		}
		if h := resp.Header.Get("X-Host"); h != named {
			t.Errorf("Host was %q, want the URI's", h)
		}
		if resp.Header.Get("X-Via") == "" {
			t.Error("no Via")
		}
	}
	if n := p.flows.Len(); n != 1 {
		t.Errorf("%d flows, want the one that is kept alive", n)
	}
	for _, tc := range []struct {
		request string
		status  int
	}{
		{"GET http://" + closedPort(t) + "/ HTTP/1.1\r\nHost: x\r\n\r\n", 502},
		{"GET http://nowhere.test/ HTTP/1.1\r\nHost: x\r\n\r\n", 502},
		{"CONNECT nowhere.test:80 HTTP/1.1\r\nHost: x\r\n\r\n", 502},
		{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"GET https://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"CONNECT x HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{"GET http://x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: nonsense\r\n\r\nabc", 501},
		{"GET http://x/ HTTP/1.1\r\n\r\n", 400},
		{"GET http://" + named + "/echo HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 100<<10) + "\r\n\r\n", 431},
	} {
		c := dial(t, p.addr)
		send(t, c, tc.request)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%.40q: %v", tc.request, err)
		} else if resp.Body.Close(); resp.StatusCode != tc.status {
			t.Errorf("%.40q: %s, want %d", tc.request, resp.Status, tc.status)
		}
	}
}
