package main

import (
	"fmt"

	"netstackd/bench"
)

// A variant is netstackd with something other than the default.
type variant struct {
	name  string
	flags []string
	env   []string
}

// A group is what is compared in one table.
type group struct {
	name, title string
	variants    []variant
	slow        bool // also over the slow link
}

// groups are all there are. The defaults that they are beside: cubic, SACK, no
// RACK, 8 MiB to receive and 2 MiB to send (16 MiB each where the stack's own
// connections go far), a queue and a P for each core, MTU 65000, 256 packets, 64
// at a time.
func groups() []group {
	const k, m = 1 << 10, 1 << 20
	return []group{
		{name: "tcp", title: "TCP", slow: true, variants: []variant{
			tuned("Reno", "cc=reno"),
			tuned("no SACK", "sack=false"),
			tuned("RACK and TLP", "rack=true"),
			{name: "GOMAXPROCS=1", env: []string{"GOMAXPROCS=1"}},
		}},
		{name: "buffers", title: "TCP buffers, the most that they grow to", slow: true, variants: []variant{
			tuned("receive 256 KiB", "rcvbuf=", 256*k),
			tuned("receive 1 MiB", "rcvbuf=", m),
			tuned("receive 4 MiB", "rcvbuf=", 4*m),
			tuned("receive 16 MiB", "rcvbuf=", 16*m),
			tuned("send 256 KiB", "sndbuf=", 256*k),
			tuned("send 1 MiB", "sndbuf=", m),
			tuned("send 4 MiB", "sndbuf=", 4*m),
			tuned("send 16 MiB", "sndbuf=", 16*m),
		}},
		{name: "mtu", title: "MTU of the TUN", variants: []variant{
			given("1500", "--mtu", "1500"),
			given("9000", "--mtu", "9000"),
			given("16000", "--mtu", "16000"),
			given("32000", "--mtu", "32000"),
		}},
		{name: "link", title: "Queues of the TUN, and of the link", variants: []variant{
			given("1 queue", "--queues", "1"),
			tuned("64 packets", "queue-len=", 64),
			tuned("1024 packets", "queue-len=", 1024),
			tuned("1 at a time", "batch=", 1),
			tuned("16 at a time", "batch=", 16),
		}},
	}
}

func given(name string, flags ...string) variant { return variant{name: name, flags: flags} }

func tuned(name, key string, value ...any) variant {
	return given(name, "--tune", key+fmt.Sprint(value...))
}

// program is the i-th, with a TUN and addresses of its own.
func (v variant) program(file string, i int, l link) bench.Program {
	tun, socks := fmt.Sprint("tune", i), fmt.Sprint("127.0.0.1:", 1100+i)
	common := []string{"--tun", tun, "--address", fmt.Sprintf("198.18.%d.1/30", i), "--socks-stack", "0"}
	p := bench.Program{Name: v.name, Ready: "ready", TUN: tun}
	p.Command = append(append([]string{"env"}, v.env...), file)
	p.Command = append(append(p.Command, common...), v.flags...)
	if l == egress {
		// Without a route, or what leaves the stack would come back to it.
		p.Command = append(p.Command, "--socks", socks, "--socks-egress", "stack")
		p.Paths = []bench.Path{{Name: v.name, SOCKS: socks, FromTUN: true}}
	} else {
		p.Command = append(p.Command, "--socks", "off", "--route", "{dest}")
		p.Paths = []bench.Path{{Name: v.name}}
	}
	return p
}
