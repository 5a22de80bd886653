package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The network namespace confines IP and netlink sockets. It does not confine
// AF_VSOCK, which reaches the hypervisor, and other families that few programs
// use (Bluetooth, CAN, TIPC, RDS). So a seccomp filter lets the command make
// sockets of the families in allowedFamilies only.
//
// The helper has CAP_SYS_ADMIN in its user namespace, so the filter needs no
// no_new_privs, and programs with setuid bits work as far as they did before.

// allowedFamilies are those that the namespaces confine, and AF_ALG, the
// kernel's cryptography, which reaches no network. AF_PACKET is not among them:
// with it a command would write to the TUN past the kernel's IP layer.
func allowedFamilies() []uint32 {
	return []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_ALG}
}

// protocolSMC is IPPROTO_SMC (linux/in.h): TCP that may go by RDMA devices,
// which all network namespaces share.
const protocolSMC = 256

// abi is one system call interface of a machine, of which it may have several.
type abi struct {
	arch               uint32 // AUDIT_ARCH_…
	socket, socketpair uint32
	socketcall         uint32 // 0 for none: its arguments are in memory, where a filter can't look
	x32                bool   // shares the arch with x32, whose numbers have bit 30
}

// abis returns those of a GOARCH, nil where they are not known here.
func abis(goarch string) []abi {
	i386 := abi{arch: unix.AUDIT_ARCH_I386, socket: 359, socketpair: 360, socketcall: 102}
	arm := abi{arch: unix.AUDIT_ARCH_ARM, socket: 281, socketpair: 288}
	switch goarch {
	case "amd64":
		return []abi{{arch: unix.AUDIT_ARCH_X86_64, socket: 41, socketpair: 53, x32: true}, i386}
	case "386":
		return []abi{i386, {arch: unix.AUDIT_ARCH_X86_64, socket: 41, socketpair: 53, x32: true}}
	case "arm64":
		return []abi{{arch: unix.AUDIT_ARCH_AARCH64, socket: 198, socketpair: 199}, arm}
	case "arm":
		return []abi{arm, {arch: unix.AUDIT_ARCH_AARCH64, socket: 198, socketpair: 199}}
	case "riscv64":
		return []abi{{arch: unix.AUDIT_ARCH_RISCV64, socket: 198, socketpair: 199}}
	}
	return nil
}

// Offsets in struct seccomp_data. Of an argument, the low half counts, as the
// kernel's int does; all machines of abis are little endian.
const (
	offNumber = 0
	offArch   = 4
	offArg0   = 16
	offArg2   = 32
)

const x32Bit = 0x40000000

// filterFor is the program for a machine with these interfaces. Calls of any
// other interface don't exist (ENOSYS).
func filterFor(all []abi) []unix.SockFilter {
	program := []unix.SockFilter{load(offArch)}
	for _, a := range all {
		block := a.filter()
		program = append(program, jump(unix.BPF_JEQ, a.arch, 0, len(block)))
		program = append(program, block...)
	}
	return append(program, fail(unix.ENOSYS))
}

// filter judges a call of this interface. It ends every path with a return.
func (a abi) filter() []unix.SockFilter {
	b := []unix.SockFilter{load(offNumber)}
	if a.x32 {
		b = append(b, jump(unix.BPF_JGE, x32Bit, 0, 1), fail(unix.ENOSYS))
	}
	// io_uring makes sockets by itself (IORING_OP_SOCKET). Its system calls have
	// the same numbers everywhere. Programs do without, as in most containers.
	for _, nr := range []uint32{unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER} {
		b = append(b, jump(unix.BPF_JEQ, nr, 0, 1), fail(unix.ENOSYS))
	}
	if a.socketcall != 0 {
		b = append(b, jump(unix.BPF_JEQ, a.socketcall, 0, 6), load(offArg0))
		for _, call := range []uint32{1, 8} { // SYS_SOCKET, SYS_SOCKETPAIR (linux/net.h)
			b = append(b, jump(unix.BPF_JEQ, call, 0, 1), fail(unix.ENOSYS))
		}
		b = append(b, allow())
	}
	families := familyFilter()
	b = append(b, jump(unix.BPF_JEQ, a.socket, 1, 0), jump(unix.BPF_JEQ, a.socketpair, 0, len(families)))
	return append(append(b, families...), allow())
}

// familyFilter judges the arguments of socket(2) and socketpair(2).
func familyFilter() []unix.SockFilter {
	b := []unix.SockFilter{load(offArg0)}
	families := allowedFamilies()
	for i, f := range families {
		b = append(b, jump(unix.BPF_JEQ, f, len(families)-i, 0)) // past the failure
	}
	return append(b, fail(unix.EAFNOSUPPORT),
		load(offArg2), jump(unix.BPF_JEQ, protocolSMC, 0, 1), fail(unix.EPROTONOSUPPORT), allow())
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func jump(test uint16, k uint32, yes, no int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: k, Jt: uint8(yes), Jf: uint8(no)}
}

func fail(errno unix.Errno) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

func allow() unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
}

// filterSockets puts the filter on all threads of this process and what it forks:
// root's command may trace the helper, and would make sockets in its place.
func filterSockets() error {
	all := abis(runtime.GOARCH)
	if all == nil {
		return fmt.Errorf("the command's sockets: no seccomp filter for %s: %w", runtime.GOARCH, unix.ENOSYS)
	}
	filter := filterFor(all)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// SPEC_ALLOW: the filter is against sockets, not against side channels; older
	// kernels would slow the command down for those.
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(&program)))
	switch {
	case errno != 0:
		return os.NewSyscallError("seccomp", errno)
	case thread != 0:
		return fmt.Errorf("seccomp: thread %d has a filter of its own", thread)
	}
	return nil
}
