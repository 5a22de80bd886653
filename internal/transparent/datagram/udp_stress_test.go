package datagram_test

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"netstackd/internal/flow"
	"netstackd/internal/transparent/datagram"
	"netstackd/link"
)

// dropLink counts packets.
type dropLink struct{ n *atomic.Int64 }

func (dropLink) USO() bool                        { return true }
func (dropLink) MTU() uint32                      { return 1500 }
func (dropLink) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }
func (l dropLink) WriteRaw(uint32, link.Offload, [][]byte) error {
	l.n.Add(1)
	return nil
}

// TestUDPConcurrent delivers on several queues at once, answers, and ends
// sessions in all ways meanwhile.
func TestUDPConcurrent(t *testing.T) {
	var answers atomic.Int64
	flows := flow.NewRegistry(flow.Config{MaxFlows: 20})
	r := newRigOn(t, dropLink{&answers}, rigConfig{flows: flows, dialer: &hostDialer{}, udp: datagram.UDPConfig{Inline: true}})
	srv := listen(t, "127.0.0.1")
	var server sync.WaitGroup
	server.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, src, err := srv.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			srv.WriteToUDPAddrPort(buf[:n], src)
		}
	})
	gone := closedPort(t, "127.0.0.1")
	var delivery, killer sync.WaitGroup
	stop := make(chan struct{})
	killer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, f := range flows.Flows() {
				if rand.IntN(4) == 0 {
					flows.Kill(f.ID)
				}
			}
		}
	})
	for q := range 4 {
		delivery.Go(func() {
			for i := range 3000 {
				a := appPacket{
					src: netip.AddrPortFrom(families[0].app.Addr(), uint16(1000+rand.IntN(40))),
					dst: srv.addr, payload: make([]byte, 1+rand.IntN(3000)), noDF: i%3 == 0, views: 1 + i%3,
				}
				switch {
				case i%5 == 0:
					a.seg = 500
					a.payload = make([]byte, 501+rand.IntN(5000))
				case i%7 == 0:
					a.dst = gone
				}
				p := a.packet()
				r.udp.HandlePacket(p)
				p.Buf.DecRef()
				if i%(q+2) == 0 {
					r.udp.Flush()
				}
			}
			r.udp.Flush()
		})
	}
	delivery.Wait()
	close(stop)
	killer.Wait()
	srv.Close()
	server.Wait()
	if answers.Load() == 0 {
		t.Error("no answers")
	}
	t.Logf("%+v", r.udp.Stats())
}

// TestUDPOutOfDescriptors: the session that was used least recently makes room.
func TestUDPOutOfDescriptors(t *testing.T) {
	const room = 3
	d := &hostDialer{}
	d.fail = func(n int) error {
		if n == room+1 || n == room+2 {
			return &net.OpError{Op: "listen", Net: "udp4", Err: os.NewSyscallError("socket", syscall.EMFILE)}
		}
		return nil
	}
	r := newRig(t, rigConfig{dialer: d, udp: datagram.UDPConfig{Inline: true}})
	srv := listen(t, "127.0.0.1")
	for i := range room + 1 {
		r.send(appPacket{src: netip.AddrPortFrom(families[0].app.Addr(), uint16(1000+i)), dst: srv.addr, payload: []byte{byte(i)}})
		if got, _ := srv.next(t); got[0] != byte(i) {
			t.Fatalf("got %d, want %d", got[0], i)
		}
	}
	if st := r.udp.Stats(); st.Evicted != 2 || st.Sessions != room-1 || st.Refused != 0 {
		t.Errorf("stats %+v", st)
	}
}

// A session table that has no one to evict refuses, and recovers.
func TestUDPNoDescriptors(t *testing.T) {
	var full atomic.Bool
	full.Store(true)
	d := &hostDialer{}
	d.fail = func(n int) error {
		if full.Load() {
			return syscall.EMFILE
		}
		return nil
	}
	r := newRig(t, rigConfig{dialer: d, udp: datagram.UDPConfig{Inline: true}})
	srv := listen(t, "127.0.0.1")
	r.send(appPacket{src: families[0].app, dst: srv.addr, payload: []byte("lost")})
	if st := r.udp.Stats(); st.Refused != 1 || st.Sessions != 0 {
		t.Errorf("stats %+v", st)
	}
	full.Store(false)
	r.send(appPacket{src: families[0].app, dst: srv.addr, payload: []byte("found")})
	if got, _ := srv.next(t); string(got) != "found" {
		t.Errorf("got %q", got)
	}
}
