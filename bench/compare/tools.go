package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"netstackd/bench"
)

// Names of paths, as patterns where a program has one for each MTU.
const (
	ours         = bench.TransparentPath
	ours1500     = "transparent 1500"
	tun2socks    = "tun2socks [0-9]*"
	singBox      = "sing-box [0-9]*"
	singBoxSOCKS = "sing-box SOCKS"
	barePump     = "bare pump"
)

// throughput are the tests that depend on the MTU most: they are run at more of
// them, to find each program's best.
func throughput() []string { return []string{"up1", "up8", "down1", "down8"} }

// turns are the tests that are about a path and not about a program at rest.
func turns() []string {
	return append(throughput(), "request", "connect", "echo", "single", "train")
}

// overTCP are the tests of a proxy that carries no UDP.
func overTCP() []string { return append(throughput(), "request", "connect") }

// programs are all that take part, or those whose names begin with one of only.
func (t *tools) programs(only []string) []bench.Program {
	all := []bench.Program{
		bench.Netstackd(t.netstackd),
		t.netstackd1500(),
		t.tun2socksAt(65000, nil), t.tun2socksAt(9000, throughput()), t.tun2socksAt(1500, turns()),
		t.singBoxAt(65000, nil), t.singBoxAt(9000, throughput()), t.singBoxAt(1500, turns()),
		t.singBoxProxy(),
	}
	for i, file := range t.against {
		all = append(all, anotherNetstackd(file, i))
	}
	if t.microsocks != "" {
		all = append(all, bench.Program{
			Name:    "microsocks",
			Command: []string{t.microsocks, "-i", "127.0.0.1", "-p", "1091"},
			Listen:  "127.0.0.1:1091",
			Paths:   []bench.Path{{Name: "microsocks", SOCKS: "127.0.0.1:1091", Tests: overTCP()}},
		})
	}
	if t.danted != "" {
		all = append(all, t.dante())
	}
	all = append(all, bench.Program{
		Name:    barePump,
		Command: []string{t.self, pumpCommand, "127.0.0.1:1093"},
		Listen:  "127.0.0.1:1093",
		Paths:   []bench.Path{{Name: barePump, SOCKS: "127.0.0.1:1093", Tests: overTCP()}},
	})
	if t.pasta != "" {
		all = append(all, bench.Program{
			Name: "pasta", Attach: true,
			Command: []string{t.pasta, "--foreground", "--quiet", "--ipv4-only", "--config-net", "--interface", "{veth}",
				"--runas", "0", "--netns-only", "--netns", "{netns}"}, // a namespace that root made needs root
			Paths: []bench.Path{{Name: "pasta", Tests: turns()}},
		})
	}
	if t.slirp != "" {
		all = append(all, bench.Program{
			Name: "slirp4netns", Attach: true,
			Command: []string{t.slirp, "--configure", "--mtu=65520", "{pid}", "tap0"},
			Paths:   []bench.Path{{Name: "slirp4netns", Tests: turns()}},
		})
	}
	return slices.DeleteFunc(all, func(p bench.Program) bool {
		return len(only) > 0 && !slices.ContainsFunc(only, func(s string) bool { return strings.HasPrefix(p.Name, s) })
	})
}

func (t *tools) netstackd1500() bench.Program {
	p := bench.Netstackd(t.netstackd, "--tun", "netstackd1500", "--mtu", "1500", "--address", "198.18.0.5/30",
		"--socks", "off", "--socks-stack", "0")
	p.Name, p.TUN = "netstackd 1500", "netstackd1500"
	p.Paths = []bench.Path{{Name: ours1500, Tests: turns()}}
	return p
}

// anotherNetstackd is the i-th build to compare with, beside the first.
func anotherNetstackd(file string, i int) bench.Program {
	base, socks := filepath.Base(file), fmt.Sprint("127.0.0.1:", 1100+i)
	p := bench.Netstackd(file, "--tun", fmt.Sprint("against", i), "--address", fmt.Sprintf("198.18.%d.1/30", i+1), "--socks", socks)
	p.Name, p.TUN = "against "+base, fmt.Sprint("against", i)
	p.Paths = []bench.Path{
		{Name: base},
		{Name: base + " SOCKS", SOCKS: socks, PastTUN: true},
		{Name: base + " in stack", SOCKS: fmt.Sprintf("198.18.%d.2:1080", i+1)},
	}
	return p
}

func (t *tools) tun2socksAt(mtu int, tests []string) bench.Program {
	name := fmt.Sprintf("t2s%d", mtu)
	return bench.Program{
		Name: fmt.Sprintf("tun2socks %d", mtu),
		Command: []string{t.tun2socks, "-device", "tun://" + name, "-mtu", fmt.Sprint(mtu),
			"-proxy", "direct://", "-interface", "{veth}", "-loglevel", "error"},
		TUN: name,
		Up: []string{
			fmt.Sprintf("addr add 198.19.%d.1/30 dev %s", mtu%250, name),
			"link set " + name + " up",
			"route add {dest} dev " + name,
		},
		Paths: []bench.Path{{Name: fmt.Sprintf("tun2socks %d", mtu), Tests: tests}},
	}
}

func (t *tools) singBoxAt(mtu int, tests []string) bench.Program {
	name := fmt.Sprintf("sb%d", mtu)
	return bench.Program{
		Name:    fmt.Sprintf("sing-box %d", mtu),
		Command: []string{t.singBox, "run", "-c", "{dir}/sing-box.json"},
		Files: map[string]string{"sing-box.json": fmt.Sprintf(`{
  "log": {"level": "error"},
  "inbounds": [{"type": "tun", "tag": "in", "interface_name": %q, "address": ["172.19.%d.1/30"],
                "mtu": %d, "auto_route": false, "stack": "gvisor"}],
  "outbounds": [{"type": "direct", "tag": "out", "bind_interface": "{veth}"}],
  "route": {"final": "out"}
}`, name, mtu%250, mtu)},
		TUN:   name,
		Up:    []string{"link set " + name + " up", "route add {dest} dev " + name}, // it does the first as well, later
		Paths: []bench.Path{{Name: fmt.Sprintf("sing-box %d", mtu), Tests: tests}},
	}
}

func (t *tools) singBoxProxy() bench.Program {
	return bench.Program{
		Name:    singBoxSOCKS,
		Command: []string{t.singBox, "run", "-c", "{dir}/sing-box.json"},
		Files: map[string]string{"sing-box.json": `{
  "log": {"level": "error"},
  "inbounds": [{"type": "socks", "tag": "in", "listen": "127.0.0.1", "listen_port": 1090}],
  "outbounds": [{"type": "direct", "tag": "out"}]
}`},
		Listen: "127.0.0.1:1090",
		Paths:  []bench.Path{{Name: singBoxSOCKS, SOCKS: "127.0.0.1:1090", Tests: turns()}},
	}
}

func (t *tools) dante() bench.Program {
	return bench.Program{
		Name:    "dante",
		Command: []string{t.danted, "-f", "{dir}/danted.conf"},
		Files: map[string]string{"danted.conf": `logoutput: stderr
errorlog: stderr
internal: 127.0.0.1 port = 1092
external: {veth}
clientmethod: none
socksmethod: none
user.privileged: root
user.unprivileged: nobody
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
`},
		Listen: "127.0.0.1:1092",
		Paths:  []bench.Path{{Name: "dante", SOCKS: "127.0.0.1:1092", Tests: overTCP()}},
	}
}
