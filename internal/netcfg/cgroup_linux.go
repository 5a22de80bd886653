package netcfg

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sockets of an excluded cgroup get our mark when they are made, from a BPF
// program of four instructions. An nftables rule could mark their packets, but
// only after the kernel has chosen the TUN's address as their source; a marked
// socket is routed and addressed right from its first lookup. The attachment is
// a bpf_link: it goes with its file descriptor, and so with a killed process.

// From linux/bpf.h.
const (
	offsetBPFSockMark = 16 // offsetof(struct bpf_sock, mark)

	bpfMov64Imm = 0xb7
	bpfStoreX32 = 0x63
	bpfExit     = 0x95
)

// bpfInsn is struct bpf_insn.
type bpfInsn struct {
	code byte
	regs byte // destination in the low half, source in the high one
	off  int16
	imm  int32
}

// excludeCgroup marks the sockets made from now on in the cgroup at path, and
// in those below it, until the returned file is closed.
func excludeCgroup(path string, mark uint32) (*os.File, error) {
	dir, err := cgroupDir(path)
	if err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fieldError("ExcludeCgroups", "cgroup %s: %w (`systemd-cgls` lists them)", path, err)
	}
	defer d.Close()
	prog, err := loadMarkProgram(mark)
	if err != nil {
		return nil, fieldError("ExcludeCgroups", "cgroup %s: load BPF program: %w", path, err)
	}
	defer unix.Close(prog) // the link keeps it
	attr := struct{ prog, target, attach, flags uint32 }{
		prog: uint32(prog), target: uint32(d.Fd()), attach: unix.BPF_CGROUP_INET_SOCK_CREATE,
	}
	fd, err := bpf(unix.BPF_LINK_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, fieldError("ExcludeCgroups", "cgroup %s: attach BPF program (Linux 5.7 or newer): %w", path, err)
	}
	return os.NewFile(uintptr(fd), "bpf_link"), nil
}

func loadMarkProgram(mark uint32) (int, error) {
	const r0, r1, r2 = 0, 1, 2
	insns := []bpfInsn{
		{code: bpfMov64Imm, regs: r2, imm: int32(mark)},
		{code: bpfStoreX32, regs: r1 | r2<<4, off: offsetBPFSockMark}, // r1 is the context
		{code: bpfMov64Imm, regs: r0, imm: 1},                         // 1 lets the socket be made
		{code: bpfExit},
	}
	license := []byte("GPL\x00")
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&insns[0])
	pin.Pin(&license[0])
	attr := struct {
		progType, insnCount         uint32
		insns, license              uint64
		logLevel, logSize           uint32
		logBuf                      uint64
		kernVersion, flags          uint32
		name                        [unix.BPF_OBJ_NAME_LEN]byte
		ifindex, expectedAttachType uint32
	}{
		progType:           unix.BPF_PROG_TYPE_CGROUP_SOCK,
		insnCount:          uint32(len(insns)),
		insns:              uint64(uintptr(unsafe.Pointer(&insns[0]))),
		license:            uint64(uintptr(unsafe.Pointer(&license[0]))),
		expectedAttachType: unix.BPF_CGROUP_INET_SOCK_CREATE,
	}
	copy(attr.name[:], "netstackd_mark")
	return bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// cgroupDir finds the directory of a cgroup: below the cgroup2 mount, wherever
// that is, or given with it.
func cgroupDir(path string) (string, error) {
	mount, err := cgroup2Mount()
	if err != nil {
		return "", fieldError("ExcludeCgroups", "cgroup %s: %w", path, err)
	}
	if rel, err := filepath.Rel(mount, path); err == nil && !strings.HasPrefix(rel, "..") {
		return path, nil
	}
	return filepath.Join(mount, filepath.Join("/", path)), nil
}

// cgroup2Mount is where the unified hierarchy is mounted (proc(5), mountinfo).
func cgroup2Mount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, ok := strings.Cut(s.Text(), " - ")
		if fields := strings.Fields(before); ok && len(fields) > 4 && strings.HasPrefix(after, "cgroup2 ") {
			return fields[4], nil
		}
	}
	return "", errors.New("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}
