package tun_test

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/tun"
)

// openTUN opens a TUN in a namespace of its own, with addresses and up.
func openTUN(t testing.TB, cfg tun.Config) (*tun.Device, *netns) {
	t.Helper()
	ns := newNetns(t)
	var d *tun.Device
	ns.Must(t, func() (err error) {
		if d, err = tun.Open(cfg); err != nil {
			return err
		}
		return up(d.Name())
	})
	t.Cleanup(func() { d.Close() })
	return d, ns
}

// kernelSide is the kernel behind a real TUN: a UDP socket on kernelEnd.
type kernelSide struct {
	ns   *netns
	name string
	conn *net.UDPConn
}

func newKernelSide(t testing.TB, ns *netns, name string) kernelSide {
	t.Helper()
	return kernelSide{ns, name, ns.ListenUDP(t, kernelEnd.String())}
}

func (s kernelSide) Send(t *testing.T, payload []byte) {
	t.Helper()
	if _, err := s.conn.WriteToUDPAddrPort(payload, deviceEnd); err != nil {
		t.Fatal(err)
	}
}

func (s kernelSide) Receive(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 1<<16)
	n, err := s.conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func (s kernelSide) Delete(t *testing.T) bool {
	s.ns.Must(t, func() error { return deleteLink(s.name) })
	return true
}

func TestIntegrationConformance(t *testing.T) {
	for name, cfg := range map[string]tun.Config{
		"vnet":   {Name: "t0", Queues: 1},
		"plain":  {Plain: true, Queues: 1},
		"queues": {Name: "t%d", Queues: 3},
	} {
		t.Run(name, func(t *testing.T) {
			testDevice(t, func(t *testing.T) (device, side) {
				d, ns := openTUN(t, cfg)
				if d.VNetHdr() == cfg.Plain {
					t.Errorf("VNetHdr = %v, want %v", d.VNetHdr(), !cfg.Plain)
				}
				if d.Queues() != cfg.Queues {
					t.Errorf("Queues = %d, want %d", d.Queues(), cfg.Queues)
				}
				// A flow is read from the queue that it was last written on, and
				// the suite reads from the first.
				packet := udpPacket(deviceEnd, kernelEnd, nil)
				s := newKernelSide(t, ns, d.Name())
				var hdr [tun.HdrLen]byte
				if cfg.Queues > 1 {
					if err := d.WritePacket(0, &hdr, [][]byte{packet}); err != nil {
						t.Fatal(err)
					}
					s.Receive(t)
				}
				return d, s
			})
		})
	}
}

func TestIntegrationMTU(t *testing.T) {
	d, _ := openTUN(t, tun.Config{Name: "mtu0", MTU: 9000})
	if mtu, err := d.MTU(); mtu != 9000 || err != nil {
		t.Errorf("MTU = %d, %v; want 9000, nil", mtu, err)
	}
	if err := d.SetMTU(65535); err != nil {
		t.Errorf("SetMTU(65535) = %v", err)
	}
	if mtu, err := d.MTU(); mtu != 65535 || err != nil {
		t.Errorf("MTU = %d, %v; want 65535, nil", mtu, err)
	}
	if err := d.SetMTU(65536); !errors.Is(err, unix.EINVAL) {
		t.Errorf("SetMTU(65536) = %v, want EINVAL", err)
	}
	if d.Name() != "mtu0" {
		t.Errorf("Name = %q, want mtu0", d.Name())
	}
	if i, err := d.Index(); i <= 0 || err != nil {
		t.Errorf("Index = %d, %v; want above 0, nil", i, err)
	}
}

// TestIntegrationDown checks that a write while the interface is down fails
// without being the end.
func TestIntegrationDown(t *testing.T) {
	d, ns := openTUN(t, tun.Config{Queues: 1})
	s := newKernelSide(t, ns, d.Name())
	var hdr [tun.HdrLen]byte
	packet := [][]byte{udpPacket(deviceEnd, kernelEnd, []byte("hello"))}
	ns.Must(t, func() error { return setUp(d.Name(), false) })
	if err := d.WritePacket(0, &hdr, packet); !errors.Is(err, unix.EIO) || errors.Is(err, tun.ErrGone) {
		t.Errorf("WritePacket while down = %v, want EIO and not ErrGone", err)
	}
	ns.Must(t, func() error { return setUp(d.Name(), true) })
	if err := d.WritePacket(0, &hdr, packet); err != nil {
		t.Errorf("WritePacket after up = %v", err)
	}
	if got := s.Receive(t); string(got) != "hello" {
		t.Errorf("received %q, want hello", got)
	}
	if err := d.WritePacket(0, &hdr, [][]byte{{0x10}}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("WritePacket of no IP packet = %v, want EINVAL", err)
	}
	if st := d.Stats(); st.WriteErrors != 2 || st.WritePackets != 1 {
		t.Errorf("Stats = %+v, want 2 write errors and 1 packet", st)
	}
}

// TestIntegrationQueues checks that the kernel answers on the queue that a flow was written on.
func TestIntegrationQueues(t *testing.T) {
	d, ns := openTUN(t, tun.Config{Queues: 3})
	s := newKernelSide(t, ns, d.Name())
	var hdr [tun.HdrLen]byte
	for _, queue := range []int{2, 0, 1, 2} {
		if err := d.WritePacket(queue, &hdr, [][]byte{udpPacket(deviceEnd, kernelEnd, []byte{byte(queue)})}); err != nil {
			t.Fatal(err)
		}
		payload := s.Receive(t)
		s.Send(t, payload)
		for {
			buf := make([]byte, 2000)
			n, err := d.ReadPacket(queue, &hdr, [][]byte{buf})
			if err != nil {
				t.Fatal(err)
			}
			if got := udpPayload(buf[:n], deviceEnd); got != nil {
				if len(got) != 1 || int(got[0]) != queue {
					t.Errorf("read %v from queue %d", got, queue)
				}
				break
			}
		}
	}
}
