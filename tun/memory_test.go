package tun_test

import (
	"testing"

	"netstackd/tun/tuntest"
)

// memorySide plays the kernel of an in-memory device.
type memorySide struct{ *tuntest.Device }

func (s memorySide) Send(t *testing.T, payload []byte) {
	p := tuntest.Packet{Data: udpPacket(kernelEnd, deviceEnd, payload)}
	if err := s.Inject(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func (s memorySide) Receive(t *testing.T) []byte {
	for {
		p, err := s.Packet(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if payload := udpPayload(p.Data, kernelEnd); payload != nil {
			return payload
		}
	}
}

func (s memorySide) Delete(*testing.T) bool {
	s.Device.Delete()
	return true
}

func TestMemoryConformance(t *testing.T) {
	for name, cfg := range map[string]tuntest.Config{
		"vnet":   {},
		"plain":  {Plain: true},
		"queues": {Queues: 3},
	} {
		t.Run(name, func(t *testing.T) {
			testDevice(t, func(*testing.T) (device, side) {
				d := tuntest.New(cfg)
				return d, memorySide{d}
			})
		})
	}
}
