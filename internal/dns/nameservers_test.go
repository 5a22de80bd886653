package dns_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"netstackd/internal/dns"
)

func addrs(s ...string) (a []netip.AddrPort) {
	for _, s := range s {
		a = append(a, netip.MustParseAddrPort(s))
	}
	return a
}

func TestNameserversFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		n := dns.NewNameservers(path)
		check := func(want ...string) {
			t.Helper()
			if got := n.Servers(); !slices.Equal(got, addrs(want...)) {
				t.Errorf("%v, want %v", got, want)
			}
		}
		write := func(conf string) {
			t.Helper()
			err := os.WriteFile(path+".new", []byte(conf), 0o644)
			if err == nil {
				err = os.Rename(path+".new", path)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		check("127.0.0.1:53") // there is no file
		write("# nameserver 9.9.9.9\nsearch a b\n nameserver\t192.0.2.53 # first\nnameserver 2001:db8::53\nnameserver fe80::1%eth0\nnameserver x\n")
		check("127.0.0.1:53") // not looked at again yet
		time.Sleep(time.Second)
		check("192.0.2.53:53", "[2001:db8::53]:53", "[fe80::1%eth0]:53")
		write("nameserver 127.0.0.53\n")
		time.Sleep(time.Second)
		check("127.0.0.53:53")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		check("127.0.0.1:53")
	})
}

func TestNameserversRemote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	conf := "nameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 9.9.9.9\n"
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	got := dns.NewNameservers(path).Remote()
	if want := addrs("192.0.2.53:53", "9.9.9.9:53", "1.1.1.1:53"); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
