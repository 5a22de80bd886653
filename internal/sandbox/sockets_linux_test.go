package sandbox_test

import (
	"runtime"
	"testing"

	"netstackd/internal/testnet"
)

// families prints each kind of socket that socket(2) and its relatives make, and
// each that fails with another error than the right one.
const families = `
import ctypes, errno, mmap, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
def expect(what, got, want):
    if got != want: print(what, "gave", errno.errorcode.get(got, got), "not", errno.errorcode.get(want, want))
def attempt(family, kind=socket.SOCK_DGRAM, proto=0):
    try: socket.socket(family, kind, proto).close()
    except OSError as e: return e.errno
    return 0
for f in range(3, 60):
    if f not in (socket.AF_INET6, socket.AF_NETLINK, socket.AF_ALG):
        for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET:
            expect("family %d kind %d" % (f, kind), attempt(f, kind), errno.EAFNOSUPPORT)
expect("high bits", -libc.syscall(socketnr := {"x86_64": 41}.get(platform.machine(), 198), ctypes.c_ulong(40 | 1 << 32), 1, 0) and ctypes.get_errno(), errno.EAFNOSUPPORT)
expect("SMC", attempt(socket.AF_INET, socket.SOCK_STREAM, 256), errno.EPROTONOSUPPORT)
for f, kind in (socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_DGRAM), (socket.AF_NETLINK, socket.SOCK_RAW):
    expect("allowed family %d" % f, attempt(f, kind), 0)
a, b = socket.socketpair()
for nr in 425, 426, 427:
    libc.syscall(nr, 1, 0, 0, 0, 0, 0)
    expect("io_uring %d" % nr, ctypes.get_errno(), errno.ENOSYS)
if platform.machine() == "x86_64":
    libc.syscall(0x40000000 | 41, 40, 1, 0)
    expect("x32", ctypes.get_errno(), errno.ENOSYS)
    # push rbx; mov eax, edi; mov ebx, esi; mov ecx, edx; xor edx, edx; int 0x80; pop rbx; ret
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("53 89f8 89f3 89d1 31d2 cd80 5b c3"))
    int80 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    expect("32-bit socket of AF_VSOCK", -int80(359, 40, 1), errno.EAFNOSUPPORT)
    expect("32-bit socketpair of AF_VSOCK", -int80(360, 40, 1), errno.EAFNOSUPPORT)
    expect("32-bit socketcall", -int80(102, 1, 0), errno.ENOSYS)
    expect("32-bit socketcall for a pair", -int80(102, 8, 0), errno.ENOSYS)
    if int80(359, 2, 1) < 0: print("32-bit AF_INET fails")
print("done")
`

// The command makes no socket that the network namespace doesn't confine: not of
// AF_VSOCK, which reaches the hypervisor, and by no other system call interface.
func TestIntegrationSockets(t *testing.T) {
	testnet.RequireTool(t, "python3")
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("the test knows no system calls of " + runtime.GOARCH)
	}
	for _, who := range who {
		t.Run(name(who.name), func(t *testing.T) {
			t.Parallel()
			want(t, who.exec(t, "python3", "-c", families), "done\n")
		})
	}
}

// Root's command may trace the helper, which so has the same filter, in each of its
// threads.
func TestIntegrationHelperIsFiltered(t *testing.T) {
	const script = `grep -h ^Seccomp: /proc/$PPID/task/*/status | sort -u`
	for _, who := range who {
		t.Run(name(who.name), func(t *testing.T) {
			want(t, who.exec(t, "sh", "-c", script), "Seccomp:\t2\n")
		})
	}
}

// The filter needs no no_new_privs, which would disable setuid programs.
func TestIntegrationKeepsSetuid(t *testing.T) {
	want(t, asUser(t, open, "grep", "NoNewPrivs", "/proc/self/status"), "NoNewPrivs:\t0\n")
}

// Settings of the host can't be changed inside by root, by accident; those of the
// command's own network can.
func TestIntegrationSettingsAreReadOnly(t *testing.T) {
	const script = `
		for f in /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness /proc/sysrq-trigger /sys/kernel/mm/ksm/run; do
			test -e $f || continue
			if (: >>$f) 2>/dev/null; then echo $f can be written; fi
		done
		echo 3 >/proc/sys/net/ipv6/conf/tun0/hop_limit || echo own network
		echo done`
	for _, args := range [][]string{nil, {"-never"}} {
		want(t, asRoot(t, append(args, "sh", "-c", script)...), "done\n")
	}
}
