package tun_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/tun"
)

// TestIntegrationForeignMTU adopts an interface of another namespace with too
// little privilege to look there.
func TestIntegrationForeignMTU(t *testing.T) {
	for _, told := range []int{0, 1400} {
		theirs, ours := newNetns(t), newNetns(t)
		var fd int
		theirs.Must(t, func() (err error) {
			fd, err = rawTUN("far0", unix.IFF_TUN|unix.IFF_NO_PI)
			return err
		})
		var d *tun.Device
		ours.Must(t, dropCapabilities)
		ours.Must(t, func() (err error) {
			d, err = tun.FromFD(tun.Config{MTU: told}, fd)
			return err
		})
		mtu, err := d.MTU()
		if told > 0 && (mtu != told || err != nil) {
			t.Errorf("MTU = %d, %v; want the %d that was told", mtu, err, told)
		}
		if told == 0 && (err == nil || !isField(err, "MTU")) {
			t.Errorf("MTU = %d, %v; want an error about the MTU", mtu, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestIntegrationOpenUnprivileged opens an interface that root has made beforehand.
func TestIntegrationOpenUnprivileged(t *testing.T) {
	ns := newNetns(t)
	ns.Must(t, func() error {
		fd, err := rawTUN("kept0", unix.IFF_TUN|unix.IFF_NO_PI)
		return errors.Join(err, unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1), unix.Close(fd))
	})
	ns.Must(t, dropCapabilities)
	for _, mtu := range []int{0, 1500, 9000} {
		var d *tun.Device
		var err error
		ns.Do(func() { d, err = tun.Open(tun.Config{Name: "kept0", MTU: mtu}) })
		if mtu == 9000 {
			if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "give 1500") || !strings.Contains(err.Error(), "ip link set dev kept0 mtu 9000") {
				t.Errorf("Open with another MTU = %v, want EPERM and both mends", err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("Open with MTU %d = %v", mtu, err)
		}
		if have, err := d.MTU(); have != 1500 || err != nil {
			t.Errorf("MTU = %d, %v; want 1500, nil", have, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestIntegrationMessages checks what the errors of a packet say.
func TestIntegrationMessages(t *testing.T) {
	d, ns := openTUN(t, tun.Config{Name: "say0", Queues: 1})
	var hdr [tun.HdrLen]byte
	write := func() error {
		return d.WritePacket(0, &hdr, [][]byte{udpPacket(deviceEnd, kernelEnd, nil)})
	}
	ns.Must(t, func() error { return setUp("say0", false) })
	if err := write(); err == nil || !strings.Contains(err.Error(), "down") {
		t.Errorf("WritePacket while down = %v, want an error that says so", err)
	}
	ns.Must(t, func() error { return deleteLink("say0") })
	if err := write(); err == nil || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("WritePacket after deletion = %v, want an error that says so", err)
	}
	if _, err := d.MTU(); !errors.Is(err, unix.ENODEV) {
		t.Errorf("MTU after deletion = %v, want ENODEV", err)
	}
	if _, err := d.Index(); !errors.Is(err, unix.ENODEV) {
		t.Errorf("Index after deletion = %v, want ENODEV", err)
	}
}
