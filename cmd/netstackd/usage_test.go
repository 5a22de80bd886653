//go:build linux

package main_test

import (
	"os/exec"
	"strings"
	"testing"
)

func TestUsageErrors(t *testing.T) {
	for _, tt := range []struct {
		args  string
		words []string
	}{
		{"--rote default", []string{"--rote", "--route"}},
		{"-route default", []string{"--route"}},
		{"--zzzzzz", []string{"--zzzzzz", "--help"}},
		{"--route", []string{"--route", "value"}},
		{"--route 10.0.0.0/33", []string{"--route", "10.0.0.0/8"}},
		{"--route 300.0.0.0/8", []string{"--route", "CIDR"}},
		{"--address 198.18.0.1", []string{"--address", "198.18.0.1/30"}},
		{"--mtu 12", []string{"--mtu", "1280"}},
		{"--mtu many", []string{"--mtu"}},
		{"--queues 1000", []string{"--queues", "256"}},
		{"--socks 1080", []string{"--socks", "127.0.0.1:1080"}},
		{"--socks 0.0.0.0:1080", []string{"--socks", "--allow-open"}},
		{"--socks-stack 70000", []string{"--socks-stack"}},
		{"--via gopher://h:70", []string{"--via", "socks5://"}},
		{"--via socks5://x:99999", []string{"--via", "99999 is not a port"}},
		{"--via socks5://h:1080#x", []string{"--via", "what follows"}},
		{"--via socks5://h:1080?x", []string{"--via", "what follows"}},
		{"--via socks5://h:1080/x", []string{"--via", "what follows"}},
		{"--via socks5://h:x", []string{"--via", "not a URL"}},
		{"--via http://a:b%3Ac@:1", []string{"--via", "no host"}},
		{"--via socks4a://u:p@h:1", []string{"--via", "no password"}},
		{"--udp-timeout 5", []string{"--udp-timeout", "30s"}},
		{"--config /nonexistent.yaml", []string{"--config", "/nonexistent.yaml"}},
		{"--log-level loud", []string{"--log-level", "debug"}},
		{"--tun a/b", []string{"--tun"}},
		{"--gateway=perhaps", []string{"--gateway"}},
		{"--tune cc=bbr", []string{"--tune", "cubic"}},
		{"--tun3 x", []string{"did you mean --tun?"}},
		{"run extra", []string{"extra"}},
		{"rnu", []string{"rnu", "run"}},
		{"nonsense", []string{"nonsense", "--help"}},
		{"version extra", []string{"extra"}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			run(t, exec.Command(program.Path(t), strings.Fields(tt.args)...)).oneLine(t, 2, tt.words...)
		})
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	for _, args := range [][]string{
		{"--auth", "hunter2"},
		{"--via", "socks5://user:hunter2@host"},
		{"--via", "hunter2"},
		{"--via", "u:hunter2@host:1080"},
		{"--via", "socks5://u:hunter2@host:1080#x"},
		{"--via", "socks5://hunter2:12/34@host:1080"},
		{"--via", "socks5://hunter2:12?34@host:1080"},
		{"--via", "socks5://hunter2:12#34@host:1080"},
		{"--via", "socks5://u@hunter2@host:x"},
	} {
		r := run(t, exec.Command(program.Path(t), args...))
		r.oneLine(t, 2, args[0])
		if strings.Contains(r.stderr, "hunter2") {
			t.Errorf("%s gives the password away: %s", args[0], r.stderr)
		}
	}
}

func TestHelpFitsOneScreen(t *testing.T) {
	r := run(t, exec.Command(program.Path(t), "--help"))
	if r.status != 0 || r.stderr != "" {
		t.Fatalf("status %d, stderr %q", r.status, r.stderr)
	}
	lines := strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
	if len(lines) > 50 {
		t.Errorf("%d lines, want 50 or fewer", len(lines))
	}
	for _, line := range lines {
		if len([]rune(line)) > 80 {
			t.Errorf("wider than 80 columns: %s", line)
		}
	}
	for _, flag := range []string{
		"tun", "tun-fd", "mtu", "queues", "address", "route", "exclude", "interface", "fwmark", "via", "socks",
		"socks-stack", "socks-egress", "auth", "auth-file", "udp-timeout", "dial-timeout", "max-flows", "max-memory",
		"drain", "allow-open", "gateway", "include-uid", "exclude-uid", "exclude-cgroup", "no-ipv6", "config",
		"log-level", "log-format",
	} {
		if !strings.Contains(r.stdout, "--"+flag+" ") {
			t.Errorf("--%s is missing", flag)
		}
	}
	if strings.Contains(r.stdout, "--tune") {
		t.Error("--tune is in the manual")
	}
}

func TestVersionFlag(t *testing.T) {
	want := run(t, exec.Command(program.Path(t), "version"))
	for _, args := range []string{"--version", "run --version", "exec --version", "--tun a --version", "doctor --version"} {
		if got := run(t, exec.Command(program.Path(t), strings.Fields(args)...)); got != want {
			t.Errorf("%s: %+v, want %+v", args, got, want)
		}
	}
}

func TestVersion(t *testing.T) {
	r := run(t, exec.Command(program.Path(t), "version"))
	if r.status != 0 || !strings.HasPrefix(r.stdout, "netstackd ") || strings.Count(r.stdout, "\n") != 1 {
		t.Errorf("status %d, printed %q", r.status, r.stdout)
	}
}
