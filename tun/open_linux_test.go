package tun_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"netstackd/tun"
)

// isField reports whether err is about a field of Config.
func isField(err error, name string) bool {
	about, ok := errors.AsType[*tun.ConfigError](err)
	return ok && about.Field == name
}

func TestOpenBadName(t *testing.T) {
	for _, name := range []string{"sixteen-bytes-ab", "a/b", "a b", "a:1", ".", ".."} {
		if d, err := tun.Open(tun.Config{Name: name}); err == nil || !isField(err, "Name") {
			if err == nil {
				d.Close()
			}
			t.Errorf("Open(%q) = %v, want an error about the name", name, err)
		}
	}
}

func TestIntegrationOpenDefaults(t *testing.T) {
	d, _ := openTUN(t, tun.Config{})
	if d.Queues() != runtime.GOMAXPROCS(0) || !d.VNetHdr() || !d.TSO() {
		t.Errorf("Queues, VNetHdr, TSO = %d, %v, %v; want %d, true, true", d.Queues(), d.VNetHdr(), d.TSO(), runtime.GOMAXPROCS(0))
	}
	if d.Name() != "tun0" {
		t.Errorf("Name = %q, want tun0", d.Name())
	}
}

// TestIntegrationOpenPersistent opens interfaces that were made beforehand, for
// one queue and for many, with as many as they can have.
func TestIntegrationOpenPersistent(t *testing.T) {
	for name, test := range map[string]struct {
		flags      uint16
		want, have int
	}{
		"single as many": {unix.IFF_TUN | unix.IFF_NO_PI, 2, 1},
		"single as one":  {unix.IFF_TUN | unix.IFF_NO_PI, 1, 1},
		"many as many":   {unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE, 2, 2},
		"many as one":    {unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			ns := newNetns(t)
			ns.Must(t, func() error {
				fd, err := rawTUN("kept0", test.flags)
				return errors.Join(err, unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1), unix.Close(fd))
			})
			var d *tun.Device
			ns.Must(t, func() (err error) {
				d, err = tun.Open(tun.Config{Name: "kept0", Queues: test.want})
				return err
			})
			if d.Queues() != test.have || !d.VNetHdr() {
				t.Errorf("Queues, VNetHdr = %d, %v; want %d, true", d.Queues(), d.VNetHdr(), test.have)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestIntegrationOpenRefused checks each way in which opening fails: the errno
// is wrapped and the mend is said.
func TestIntegrationOpenRefused(t *testing.T) {
	others := []int{}
	taken := func(name string, flags uint16) func() error {
		return func() error {
			fd, err := rawTUN(name, flags)
			others = append(others, fd)
			return err
		}
	}
	defer func() {
		for _, fd := range others {
			unix.Close(fd)
		}
	}()
	for name, test := range map[string]struct {
		cfg     tun.Config
		prepare func() error
		errno   unix.Errno
		says    string
	}{
		"no TUN":        {tun.Config{Name: "lo"}, nil, unix.EINVAL, "choose another name"},
		"busy":          {tun.Config{Name: "busy0"}, taken("busy0", unix.IFF_TUN), unix.EBUSY, "choose another name"},
		"busy queues":   {tun.Config{Name: "busy1"}, taken("busy1", unix.IFF_TUN|unix.IFF_MULTI_QUEUE), unix.EBUSY, "choose another name"},
		"unprivileged":  {tun.Config{Name: "no0"}, dropCapabilities, unix.EPERM, "ip tuntap add dev no0"},
		"no file":       {tun.Config{}, func() error { return mountOver("/dev/net") }, unix.ENOENT, "modprobe tun"},
		"no driver":     {tun.Config{}, nodeOfNothing, unix.ENODEV, "modprobe tun"},
		"unreadable":    {tun.Config{}, unreadableNode, unix.EACCES, "chmod"},
		"too many":      {tun.Config{Queues: 1000}, nil, unix.E2BIG, "give fewer"},
		"MTU too large": {tun.Config{MTU: 70000}, nil, unix.EINVAL, "68 to 65535"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := newNetns(t)
			if test.prepare != nil {
				ns.Must(t, test.prepare)
			}
			var d *tun.Device
			var err error
			ns.Do(func() { d, err = tun.Open(test.cfg) })
			if err == nil {
				d.Close()
			}
			if !errors.Is(err, test.errno) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Open = %v, want %v in one line that says %q", err, test.errno, test.says)
			}
		})
	}
}

// The following change the calling thread only, which ends with the test.

func dropCapabilities() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&hdr, &none[0])
}

// mountOver puts an empty directory over dir.
func mountOver(dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("tmpfs", dir, "tmpfs", 0, "")
}

func nodeOfNothing() error {
	const unused = 255 // minor number of the misc devices that says "give me any"
	return errors.Join(mountOver("/dev/net"), unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, unused))))
}

func unreadableNode() error {
	return errors.Join(mountOver("/dev/net"), unix.Mknod("/dev/net/tun", unix.S_IFCHR, int(unix.Mkdev(10, 200))), dropCapabilities())
}
