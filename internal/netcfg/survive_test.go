//go:build linux

package netcfg_test

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"netstackd/internal/netcfg"
	"netstackd/internal/testnet"
)

// listenTCPPeer serves echoes on any address of the peer.
func listenTCPPeer(t *testing.T) (port string) {
	t.Helper()
	var l net.Listener
	inPeer(t, func() (err error) {
		l, err = net.Listen("tcp", ":0")
		return err
	})
	t.Cleanup(func() { l.Close() })
	go echo(l)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// roundTrip sends text over c and waits for its echo.
func roundTrip(t *testing.T, c net.Conn, text string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != text {
		t.Fatalf("%s: echo %q, %v", text, buf, err)
	}
}

func setSysctl(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// Connections from before the capture and services of the host keep working
// while far destinations are captured; strict reverse-path filtering or not.
func TestIntegrationSurvive(t *testing.T) {
	if !testnet.Isolate(t) {
		return
	}
	buildNetwork(t)
	for _, rpFilter := range []string{"0", "1"} {
		t.Run("rp_filter="+rpFilter, func(t *testing.T) {
			for _, i := range []string{"all", "default", "eth0"} {
				setSysctl(t, "ipv4/conf/"+i+"/rp_filter", rpFilter)
			}
			testSurvive(t)
		})
	}
}

func testSurvive(t *testing.T) {
	tun := openTUN(t, tunName)
	port := listenTCPPeer(t)
	service, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	go echo(service)

	var before []net.Conn
	for _, dst := range far {
		c, err := net.Dial("tcp", net.JoinHostPort(dst, port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		roundTrip(t, c, "before")
		before = append(before, c)
	}

	cfg := testConfig()
	cfg.Routes = netcfg.DefaultRoutes()
	h := open(t, cfg)
	for i, dst := range far {
		send(t, dst, 5001, "captured", nil)
		tun.expect(t, dst, 5001)
		roundTrip(t, before[i], "while captured")
	}
	_, servicePort, _ := net.SplitHostPort(service.Addr().String())
	for i, host := range []string{hostAddr4, hostAddr6} {
		var c net.Conn
		inPeer(t, func() (err error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(far[i])}, Timeout: timeout}
			c, err = d.Dial("tcp", net.JoinHostPort(host, servicePort))
			return err
		})
		defer c.Close()
		roundTrip(t, c, "inbound from "+far[i])
	}

	// Release: new flows go out, those of the TUN still have their way.
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
	peer := listenPeer(t, 5002)
	for i, dst := range far {
		send(t, dst, 5002, "released "+dst, nil)
		peer.expect(t, "released "+dst)
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP([]string{"198.18.0.1", "fd19:8::1"}[i])})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.WriteTo([]byte("draining"), &net.UDPAddr{IP: net.ParseIP(dst), Port: 5003})
		tun.expect(t, dst, 5003)
		roundTrip(t, before[i], "while draining")
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range far {
		roundTrip(t, before[i], "after")
	}
}
