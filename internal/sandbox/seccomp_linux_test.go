package sandbox_test

import (
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"
)

// contained has an ordinary user's command under a filter like that of a container,
// which refuses clone(2) with CLONE_NEWUSER.
func contained(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(cmd.Env, "SANDBOX_TEST_SECCOMP=1")
	return cmd
}

// contain puts the filter on this process.
func contain() error {
	const offNumber, offFlags = 0, 16 // in struct seccomp_data; the low half comes first
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offNumber},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offFlags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.CLONE_NEWUSER, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}
