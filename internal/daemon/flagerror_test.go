package daemon

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"netstackd/internal/hostnet"
	"netstackd/internal/netcfg"
	"netstackd/tun"
)

// An error about a field of a library's Config names the flag, once.
func TestErrorsNameTheFlag(t *testing.T) {
	plain := errors.New("tun: read: the interface is down")
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{plain, plain.Error()},
		{&tun.ConfigError{Field: "Name", Err: syscall.EBUSY}, "--tun: device or resource busy"},
		{&tun.ConfigError{Field: "Queues", Err: syscall.E2BIG}, "--queues: argument list too long"},
		{&tun.ConfigError{Field: "MTU", Err: syscall.EPERM}, "--mtu: operation not permitted"},
		{fmt.Errorf("netcfg: %w", &netcfg.ConfigError{Field: "Addresses", Err: errors.New("taken")}), "--address: netcfg: taken"},
		{&netcfg.ConfigError{Field: "ExcludeCgroups", Err: errors.New("none")}, "--exclude-cgroup: none"},
		{&hostnet.SocketError{Field: "Interface", Setting: "interface x", Err: syscall.ENODEV, Mend: "m"},
			"--interface: hostnet: interface x: no such device: m"},
		{&hostnet.SocketError{Field: "Mark", Setting: "mark 0x7", Err: syscall.EPERM, Mend: "m"},
			"--fwmark: hostnet: mark 0x7: operation not permitted: m"},
		{&hostnet.SocketError{Setting: "ping", Err: syscall.EPERM, Mend: "m"}, "hostnet: ping: operation not permitted: m"},
	} {
		got := withFlag(withFlag(tt.err))
		if tt.want == "" {
			if got != nil {
				t.Errorf("got %v for no error", got)
			}
			continue
		}
		if got.Error() != tt.want || !errors.Is(got, tt.err) {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
