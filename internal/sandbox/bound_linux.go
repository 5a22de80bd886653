package sandbox

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// boundUDP returns the address at which a UDP server with this port is reached
// from inside: loopback where the server's socket is bound to a wildcard
// address. Of several it prefers loopback, then IPv4. proc is a proc(5) file
// system; the error is ECONNREFUSED when no socket is bound.
func boundUDP(proc fs.FS, port uint16) (netip.AddrPort, error) {
	var found []netip.Addr
	for _, name := range []string{"thread-self/net/udp", "thread-self/net/udp6"} {
		f, err := proc.Open(name)
		if err != nil {
			continue // a kernel without IPv6
		}
		found = append(found, boundSockets(f, port)...)
		f.Close()
	}
	if len(found) == 0 {
		return netip.AddrPort{}, syscall.ECONNREFUSED
	}
	rank := func(a netip.Addr) int {
		if a.IsLoopback() {
			return 0
		}
		return 1
	}
	best := slices.MinFunc(found, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Compare(b)) // IPv4 sorts first
	})
	return netip.AddrPortFrom(best, port), nil
}

// unconnected is the state of a UDP socket without a peer: TCP_CLOSE.
const unconnected = "07"

// boundSockets returns where the unconnected sockets with this port are reached,
// from lines such as "0: 0100007F:0035 00000000:0000 07 …".
func boundSockets(table io.Reader, port uint16) (found []netip.Addr) {
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[3] != unconnected {
			continue
		}
		host, number, _ := strings.Cut(fields[1], ":")
		if n, err := strconv.ParseUint(number, 16, 16); err != nil || uint16(n) != port {
			continue
		}
		a, ok := parseKernelAddr(host)
		switch {
		case !ok || a.IsMulticast() || a.IsLinkLocalUnicast():
			continue
		case a == netip.IPv4Unspecified():
			a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case a == netip.IPv6Unspecified():
			a = netip.IPv6Loopback()
		}
		found = append(found, a)
	}
	return found
}

// parseKernelAddr reads an address as proc(5) prints it: each 32 bits of it in
// hexadecimal, read from memory in the machine's byte order.
func parseKernelAddr(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}
