package main

import (
	"net"
	"net/netip"
)

// stallRows are connections on which one side stops.
func stallRows() []row {
	return []row{
		{
			name: "stall/2,000 readers that stop", gateway: true, bulk: true,
			about: "2,000 downloads at 1,000/s whose client reads nothing",
			load:  hold(fromC, portSource, 1000, 2000, nil), window: stallWindow,
		},
		{
			name: "stall/2,000 writers whose destination stops", gateway: true, bulk: true,
			about: "2,000 uploads at 1,000/s, 1 MB each, whose server reads nothing",
			load:  hold(fromC, portStuck, 1000, 2000, upload), window: stallWindow,
		},
		{
			name: "stall/500 readers, --max-memory 64M", gateway: true,
			flags: []string{"--max-memory", "64M"}, window: stallWindow,
			about: "500 downloads whose client reads nothing: memory of the process and of its sockets",
			load:  withinBudget(64<<20, hold(fromC, portSource, 500, 500, nil)),
		},
		{
			name: "stall/500 writers, --max-memory 64M", gateway: true,
			flags: []string{"--max-memory", "64M"}, window: stallWindow,
			about: "500 uploads whose server reads nothing: memory of the process and of its sockets",
			load:  withinBudget(64<<20, hold(fromC, portStuck, 500, 500, upload)),
		},
		{
			name:  "stall/500 readers through SOCKS, --max-memory 64M",
			flags: []string{"--max-memory", "64M", "--socks", lanProxy.String(), "--allow-open"}, window: stallWindow,
			paths: proxyPaths,
			about: "500 downloads through the proxy whose client reads nothing",
			load: withinBudget(64<<20, hold(func(n *network) path {
				return path{from: n.c, socks: lanProxy}
			}, portSource, 500, 500, nil)),
		},
	}
}

// stallWindow leaves the queues time to fill.
const stallWindow = 2 * windowDefault

// fromC is the way of four LAN clients to B. One address may have half of all
// flows, and the healthy clients have others.
func fromC(n *network) path {
	return path{from: n.c, locals: []netip.Addr{addr4(10, 88, 4), addr4(10, 88, 5), addr4(10, 88, 6), addr4(10, 88, 7)}}
}

// upload writes until the deadline: the queues on the way are full then.
func upload(c net.Conn, _ int) error {
	_, _ = c.Write(pattern())
	return nil
}
