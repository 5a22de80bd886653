package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Owner is who holds a socket of this host.
type Owner struct {
	UID   uint32 // that made it
	inode uint32
}

// SocketOwner finds the socket that takes what comes from remote to local: a
// listening one if no other does. The network is tcp or udp.
func SocketOwner(network string, local, remote netip.AddrPort) (Owner, error) {
	local, remote = unmapped(local), unmapped(remote)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return Owner{}, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, diagRequest(network, local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Owner{}, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return Owner{}, os.NewSyscallError("recvfrom", err)
	}
	return parseDiag(buf[:n])
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

const (
	diagByFamily = 20 // SOCK_DIAG_BY_FAMILY of linux/sock_diag.h

	// Of struct inet_diag_req_v2 and struct inet_diag_msg (linux/inet_diag.h).
	diagRequestLen = 56
	diagID         = 8 // of the request: ports, addresses, interface, cookie
	diagUID        = 64
	diagInode      = 68
)

// diagRequest asks for one socket.
func diagRequest(network string, local, remote netip.AddrPort) []byte {
	b := make([]byte, unix.SizeofNlMsghdr+diagRequestLen)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], diagByFamily)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[unix.SizeofNlMsghdr:]
	r[0], r[1] = unix.AF_INET, protoTCP
	if local.Addr().Is6() {
		r[0] = unix.AF_INET6
	}
	source, dest := local, remote
	if network == "udp" {
		r[1] = protoUDP
		source, dest = remote, local // the kernel has them swapped for UDP (net/ipv4/udp_diag.c)
	}
	binary.NativeEndian.PutUint32(r[4:], ^uint32(0)) // in any state
	id := r[diagID:]
	binary.BigEndian.PutUint16(id, source.Port())
	binary.BigEndian.PutUint16(id[2:], dest.Port())
	copy(id[4:20], source.Addr().AsSlice())
	copy(id[20:36], dest.Addr().AsSlice())
	for i := range 8 {
		id[40+i] = 0xff // INET_DIAG_NOCOOKIE
	}
	return b
}

func parseDiag(b []byte) (Owner, error) {
	if len(b) < unix.SizeofNlMsghdr+4 {
		return Owner{}, errors.New("sock_diag: short answer")
	}
	m := b[unix.SizeofNlMsghdr:]
	switch kind := binary.NativeEndian.Uint16(b[4:]); {
	case kind == unix.NLMSG_ERROR:
		return Owner{}, fmt.Errorf("sock_diag: %w", unix.Errno(-int32(binary.NativeEndian.Uint32(m))))
	case kind != diagByFamily || len(m) < diagInode+4:
		return Owner{}, errors.New("sock_diag: malformed answer")
	}
	return Owner{UID: binary.NativeEndian.Uint32(m[diagUID:]), inode: binary.NativeEndian.Uint32(m[diagInode:])}, nil
}

// Processes returns those that have the socket open and that this process may
// look into. It reads all of /proc.
func (o Owner) Processes() []Process {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var list []Process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if p := (Process{PID: pid}); err == nil && p.Has(o) {
			list = append(list, p.read())
		}
	}
	return list
}

// Process is one of this host.
type Process struct {
	PID     int
	UID     uint32 // that it acts as
	Name    string
	cgroups []string // paths, the unified hierarchy's first
}

// Has reports whether the process has the socket open.
func (p Process) Has(o Owner) bool {
	dir := fmt.Sprintf("/proc/%d/fd", p.PID)
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	want := fmt.Sprintf("socket:[%d]", o.inode)
	return slices.ContainsFunc(names, func(name string) bool {
		target, err := os.Readlink(dir + "/" + name)
		return err == nil && target == want
	})
}

// read fills in what there is to know.
func (p Process) read() Process {
	dir := fmt.Sprintf("/proc/%d", p.PID)
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		p.UID = st.Uid
	}
	b, _ := os.ReadFile(dir + "/comm")
	p.Name = strings.TrimSpace(string(b))
	b, _ = os.ReadFile(dir + "/cgroup")
	for line := range strings.Lines(string(b)) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), "::"); ok {
			p.cgroups = append(p.cgroups, path)
		}
	}
	return p
}

// in reports whether the process is in the cgroup that --exclude-cgroup names
// so, or below it.
func (p Process) in(path string) bool {
	dir, err := cgroupDir(path)
	if err != nil {
		return false
	}
	mount, err := cgroup2Mount()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(p.cgroups, func(own string) bool {
		rel, err := filepath.Rel(dir, filepath.Join(mount, own))
		return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
	})
}

// Captures reports whether new flows of the process are captured, where they go to
// a captured destination.
func (h *Host) Captures(p Process) bool {
	c := &h.cfg
	return len(c.Routes) > 0 && capturesUID(c.IncludeUIDs, c.ExcludeUIDs, p.UID) && !slices.ContainsFunc(c.ExcludeCgroups, p.in)
}
