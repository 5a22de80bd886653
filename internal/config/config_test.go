package config_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netstackd/internal/config"
	"netstackd/internal/netstack"
)

// settings turns "--name=value" words into settings for the run command.
func settings(t *testing.T, cmd config.Command, words ...string) []config.Setting {
	t.Helper()
	var out []config.Setting
	for _, w := range words {
		name, value, _ := strings.Cut(strings.TrimPrefix(w, "--"), "=")
		found := false
		for _, o := range config.Options(cmd) {
			if o.Name == name {
				out = append(out, config.Setting{Option: o, Value: value})
				found = true
			}
		}
		if !found {
			t.Fatalf("no option %q", name)
		}
	}
	return out
}

func TestDefaultIsValid(t *testing.T) {
	for name, c := range map[string]config.Config{"run": config.Default(), "exec": config.DefaultExec()} {
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := config.StackAddr(config.Default().Address[0]).String(); got != "198.18.0.2" {
		t.Errorf("stack address %s, want 198.18.0.2", got)
	}
}

func TestApply(t *testing.T) {
	c := config.Default()
	err := c.Apply(settings(t, config.ForRun,
		"--route=10.0.0.0/8", "--route=default", "--route=2001:db8::/32", "--route=192.0.2.7",
		"--socks=off", "--socks-stack=0", "--address=10.1.0.1/24",
		"--via=socks5://u:p@192.0.2.1:1080", "--via=http://[2001:db8::1]:3128", "--via=socks5h://h:1", "--via=socks4a://u@h:1",
		"--fwmark=0x438", "--max-memory=1G", "--udp-timeout=90s", "--include-uid=1000-1999",
		"--log-level=debug", "--no-ipv6=true"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(c.Route, c.RouteDefault, len(c.SOCKS), c.SOCKSStack, c.Address, len(c.Via),
		c.FWMark, c.MaxMemory, c.UDPTimeout, c.IncludeUID, c.LogLevel, c.NoIPv6)
	want := "[10.0.0.0/8 2001:db8::/32 192.0.2.7/32] true 0 0 [10.1.0.1/24] 4 1080 1073741824 1m30s [{1000 1999}] DEBUG true"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestUsageErrors(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--tun=a-name-of-sixteen", "--tun"},
		{"--mtu=1000", "--no-ipv6"},
		{"--mtu=70000", "1280 to 65535"},
		{"--mtu=x", "--mtu"},
		{"--queues=-1", "--queues"},
		{"--queues=300", "256"},
		{"--tun-fd=3 --queues=2", "--tun-fd"},
		{"--address=198.18.0.1", "198.18.0.1/30"},
		{"--address=198.18.0.1/32", "198.18.0.2/30"},
		{"--address=198.18.0.2/30", "next address"},
		{"--address=fd19:8::1/128", "/126"},
		{"--address=127.0.0.1/8", "--address"},
		{"--address=10.0.0.1/30 --address=10.1.0.1/30", "twice for IPv4"},
		{"--route=10.0.0.0/33", "or default"},
		{"--route=10.0.0.1/8", "write 10.0.0.0/8"},
		{"--route=198.18.0.0/30", "--address"},
		{"--exclude=everything", "--exclude"},
		{"--exclude=10.0.0.0/8", "add --route"},
		{"--route=10.0.0.0/8 --exclude=10.0.0.0/8", "--exclude: leaves nothing of --route"},
		{"--route=10.0.0.0/8 --exclude=10.0.0.0/9 --exclude=10.128.0.0/9", "leaves nothing"},
		{"--route=default --exclude=0.0.0.0/0 --exclude=::/0", "leaves nothing"},
		{"--include-uid=rooot", "did you mean root?"},
		{"--include-uid=no-such-user", "1000-1999"},
		{"--exclude-uid=2000-1000", "1000-1999"},
		{"--exclude-uid=", "1000-1999"},
		{"--exclude-cgroup=/", "--exclude-cgroup"},
		{"--strict=true", "add --route"},
		{"--route=default --strict=maybe", "keep"},
		{"--via=ftp://h:1", "socks5://"},
		{"--via=socks5://h", "1080"},
		{"--via=nonsense", "--via"},
		{"--via=socks5://x:99999", "99999 is not a port"},
		{"--via=socks5://x:1080#y", "what follows"},
		{"--via=socks4://x:1080", "socks4a://"},
		{"--via=socks5://h:1 --via=direct", "leave it out"},
		{"--socks=1080", "127.0.0.1:1080"},
		{"--socks=127.0.0.1:99999", "--socks"},
		{"--socks=0.0.0.0:1080", "--allow-open"},
		{"--socks=:1080", "--allow-open"},
		{"--socks=127.0.0.1:1080 --socks=127.0.0.1:1080", "twice"},
		{"--socks-stack=70000", "--socks-stack"},
		{"--socks-egress=moon", "host nor stack"},
		{"--auth=secret", "USER:PASS"},
		{"--udp-timeout=5", "30s"},
		{"--udp-timeout=0s", "--udp-timeout"},
		{"--keepalive=soon", "60s/15s/5"},
		{"--keepalive=15s/15s", "60s/15s/5"},
		{"--keepalive=100ms", "whole number of seconds"},
		{"--keepalive=1s/1s/0", "1 to 127"},
		{"--dial-timeout=-1s", "--dial-timeout"},
		{"--drain=-1s", "--drain"},
		{"--max-flows=many", "--max-flows"},
		{"--max-memory=12X", "256M"},
		{"--max-memory=9999999999G", "--max-memory"},
		{"--max-memory=1K", "--max-memory"},
		{"--gateway=perhaps", "--gateway"},
		{"--log-level=loud", "--log-level"},
		{"--log-format=xml", "--log-format"},
		{"--tune=cc", "KEY=VALUE"},
		{"--tune=speed=full", "cc, sack, rack"},
		{"--tune=cc=bbr", "cubic or reno"},
		{"--tune=sack=perhaps", "--tune"},
		{"--tune=rcvbuf=0", "--tune"},
		{"--tune=batch=many", "--tune"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			c := config.Default()
			err := c.Apply(settings(t, config.ForRun, strings.Fields(tt.args)...))
			if err == nil {
				err = c.Validate()
			}
			wantUsage(t, err, tt.args, tt.want)
		})
	}
}

// A listener that other hosts reach needs a password, or the user's word.
func TestOpenProxy(t *testing.T) {
	for address, open := range map[string]bool{
		"127.0.0.1:1080": false, "127.9.9.9:1": false, "[::1]:1": false, "[::ffff:127.0.0.1]:1": false, "localhost:1": false,
		"0.0.0.0:1080": true, "[::]:1080": true, ":1080": true, "192.168.0.1:1": true, "[2001:db8::1]:1": true,
	} {
		for _, more := range []string{"", "--allow-open=true", "--auth=user:pass"} {
			c := config.Default()
			if err := c.Apply(settings(t, config.ForRun, strings.Fields("--socks="+address+" "+more)...)); err != nil {
				t.Fatal(err)
			}
			if err := c.Validate(); (err != nil) != (open && more == "") {
				t.Errorf("--socks %s %s: %v", address, more, err)
			}
		}
	}
}

func TestTune(t *testing.T) {
	c := config.Default()
	if err := c.Apply(settings(t, config.ForRun, "--tune=cc=reno", "--tune=sack=false", "--tune=rack=true",
		"--tune=rcvbuf=1M", "--tune=sndbuf=16777216", "--tune=queue-len=64", "--tune=batch=16")); err != nil {
		t.Fatal(err)
	}
	want := config.Tune{
		TCP: netstack.TCPConfig{
			CongestionControl: "reno", NoSACK: true, RACK: true, ReceiveBuffer: 1 << 20, SendBuffer: 16 << 20,
		},
		QueueLen: 64, Batch: 16,
	}
	if c.Tune != want {
		t.Errorf("got  %+v\nwant %+v", c.Tune, want)
	}
	if err := c.Apply(settings(t, config.ForRun, "--tune=batch=1")); err != nil || c.Tune != (config.Tune{Batch: 1}) {
		t.Errorf("a later source did not replace it: %+v, %v", c.Tune, err)
	}
}

func TestExecUsageErrors(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"--allow=x", "--allow"},
		{"--publish=80a", "8080:80"},
		{"--publish=:80", "--publish"},
		{"--publish=0", "--publish"},
		{"--publish=::1:80", "--publish"},
		{"--publish=80/sctp", "5353/udp"},
		{"--publish=80/", "--publish"},
		{"--publish=8080/udp:80", "--publish"},
		{"--publish=8080:0", "--publish"},
		{"--publish=host:8080:80", "--publish"},
		{"--pcap=", "--pcap"},
	} {
		c := config.DefaultExec()
		wantUsage(t, c.Apply(settings(t, config.ForExec, tt.args)), tt.args, tt.want)
	}
}

// wantUsage checks for one line that names the first flag of args, or the one
// it conflicts with, and holds want.
func wantUsage(t *testing.T, err error, args, want string) {
	t.Helper()
	var usage *config.UsageError
	if !errors.As(err, &usage) {
		t.Fatalf("%s: got %v, want a usage error", args, err)
	}
	msg := err.Error()
	if strings.Contains(msg, "\n") || !strings.HasPrefix(msg, "--") || !strings.Contains(msg, want) {
		t.Errorf("%s: got %q, want one line that names a flag and holds %q", args, msg, want)
	}
}

func TestPublish(t *testing.T) {
	c := config.DefaultExec()
	if err := c.Apply(settings(t, config.ForExec, "--publish=8080:80", "--publish=0.0.0.0:53:5353", "--publish=[::]:9:9",
		"--publish=8000", "--publish=0.0.0.0:8001", "--publish=[::1]:8002/tcp",
		"--publish=5353/udp", "--publish=8000:80/udp", "--publish=[::1]:8000:80/udp")); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(c.Exec.Publish), "[127.0.0.1:8080:80 0.0.0.0:53:5353 [::]:9:9 127.0.0.1:8000:8000 0.0.0.0:8001:8001 [::1]:8002:8002 "+
		"127.0.0.1:5353:5353/udp 127.0.0.1:8000:80/udp [::1]:8000:80/udp]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// The manual of exec names its own default.
func TestExecQueuesHelp(t *testing.T) {
	for cmd, want := range map[config.Command]string{config.ForRun: "one per core", config.ForExec: "0 = one ("} {
		for _, o := range config.Options(cmd) {
			if o.Name == "queues" && !strings.Contains(o.Help, want) {
				t.Errorf("%q lacks %q", o.Help, want)
			}
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	c := config.Default()
	if err := c.Apply(settings(t, config.ForRun, "--auth=ann:hunter2")); err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%v %+v", c.Auth, c.Auth); strings.Contains(s, "hunter2") {
		t.Errorf("the password shows in %q", s)
	}
	for _, arg := range []string{"--auth=hunter2", "--via=socks5://u:hunter2@host", "--via=hunter2",
		"--via=hunter2:x@host:1", "--via=socks5://hunter2:1/2@host:1", "--via=socks5://hunter2:1?2@host:1", "--via=socks5://hunter2:1#2@host:1",
		"--via=socks5://u:hunter2@host:1#x", "--via=socks5://u:hunter2@host:99999"} {
		if err := c.Apply(settings(t, config.ForRun, arg)); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %v", arg, err)
		}
	}
}

func TestReadFile(t *testing.T) {
	text := `
# comments are fine
tun: nst1
route: [10.0.0.0/8, default]
socks: off
fwmark: 0x438
udp-timeout: 90s
gateway: true
block-lan: true   # exec's; run passes it over
auth:
  - ann:secret
`
	c := config.Default()
	s, err := config.ReadFile(file(t, text), config.ForRun)
	if err == nil {
		err = c.Apply(s)
	}
	if err != nil {
		t.Fatal(err)
	}
	if c.TUN != "nst1" || len(c.Route) != 1 || !c.RouteDefault || len(c.SOCKS) != 0 || c.FWMark != 0x438 ||
		c.UDPTimeout != 90*time.Second || !c.Gateway || c.Exec.BlockLAN || len(c.Auth) != 1 {
		t.Errorf("got %+v", c)
	}
	// Flags come after the file and replace its lists.
	if err := c.Apply(settings(t, config.ForRun, "--route=192.0.2.0/24")); err != nil {
		t.Fatal(err)
	}
	if c.RouteDefault || len(c.Route) != 1 || c.Route[0].String() != "192.0.2.0/24" {
		t.Errorf("the flag did not replace the file's routes: %v, default %v", c.Route, c.RouteDefault)
	}
}

// An empty list is no value at all: it does not leave the default.
func TestReadFileEmptyList(t *testing.T) {
	c := config.Default()
	s, err := config.ReadFile(file(t, "socks: []\naddress: []\n"), config.ForRun)
	if err == nil {
		err = c.Apply(s)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(c.SOCKS) != 0 || len(c.Address) != 0 {
		t.Errorf("SOCKS listens on %v, addresses %v", c.SOCKS, c.Address)
	}
	wantUsage(t, c.Validate(), "address: []", "none given")
	if err := c.Apply(settings(t, config.ForRun, "--socks=127.0.0.1:1081")); err != nil || len(c.SOCKS) != 1 {
		t.Errorf("a flag over an empty list: %v, %v", c.SOCKS, err)
	}
}

func TestUserNames(t *testing.T) {
	c := config.Default()
	if err := c.Apply(settings(t, config.ForRun, "--exclude-uid=root", "--exclude-uid=7", "--include-uid=1000-1999")); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(c.ExcludeUID, c.IncludeUID), "[{0 0} {7 7}] [{1000 1999}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestReadFileErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"\n  rout: default", `config.yaml:2:3: unknown key "rout"; did you mean route?`},
		{"tun: a\ntun: b", "tun"},
		{"mtu: [1, 2]", "one value"},
		{"mtu:", "has no value"},
		{"route: {a: b}", "has no value"},
		{"route: [[a]]", "plain values"},
		{"- a", "mapping"},
		{"a: b: c", "config.yaml:1:5: mapping values"},
		{"mtu: [1, 2", "config.yaml:2:1: "},
		{"tun: \xff", "config.yaml: invalid leading UTF-8"},
		{"mtu: big", "config.yaml:1:6: mtu"},
		{"route:\n  - default\n  - 10.0.0.1/8", "config.yaml:3:5: route: 10.0.0.1/8 has bits"},
		{"tun: a\ntun: b", "config.yaml:2:1: tun: given twice"},
		{"tun: a\n  b", "config.yaml:"},
		{"tun: a\n---\nsocks: off", "config.yaml:2:1: a second document"},
		{"tun: a\n---\n: :", "config.yaml:"},
	} {
		_, err := config.ReadFile(file(t, tt.text), config.ForRun)
		wantUsage(t, err, tt.text, tt.want)
	}
	_, err := config.ReadFile(filepath.Join(t.TempDir(), "none.yaml"), config.ForRun)
	wantUsage(t, err, "none.yaml", "none.yaml")
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNearest(t *testing.T) {
	names := []string{"route", "exclude", "socks", "socks-stack"}
	for word, want := range map[string]string{"rote": "route", "sock": "socks", "socks-stak": "socks-stack", "zzzz": ""} {
		if got := config.Nearest(word, names); got != want {
			t.Errorf("%s: got %q, want %q", word, got, want)
		}
	}
}

func TestKeepAlive(t *testing.T) {
	for value, want := range map[string]net.KeepAliveConfig{
		"30s":       {Enable: true, Idle: 30 * time.Second, Interval: 30 * time.Second, Count: 9},
		"1m/15s/5":  {Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 5},
		"off":       {},
		"15s/15s/9": config.Default().KeepAlive,
	} {
		c := config.Default()
		if err := c.Apply(settings(t, config.ForRun, "--keepalive="+value)); err != nil || c.KeepAlive != want {
			t.Errorf("%s: %+v, %v; want %+v", value, c.KeepAlive, err, want)
		}
	}
}
