package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"netstackd/internal/sysctl"
)

// Run makes every check: first what netstackd needs at all, then what a capture
// needs, then what could leak past one.
func Run(ctx context.Context) []Check {
	checks := []Check{
		checkTUN(), checkOffloads(), checkCapabilities(), checkUserNamespaces(ctx), checkPing(), checkDescriptors(),
	}
	return append(checks, checkNetwork(ctx)...)
}

const tunPath = "/dev/net/tun"

func checkTUN() Check {
	const name = "tun device"
	f, err := os.OpenFile(tunPath, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return pass(name, tunPath+" opens")
	case errors.Is(err, fs.ErrNotExist):
		return fail(name, err.Error(), "modprobe tun; mkdir -p /dev/net; mknod -m 666 /dev/net/tun c 10 200")
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fail(name, tunPath+" is there and its driver is not", "modprobe tun")
	case errors.Is(err, fs.ErrPermission):
		return fail(name, err.Error(), "chmod 666 /dev/net/tun # in a container: --device /dev/net/tun")
	}
	return fail(name, err.Error(), "ls -l /dev/net/tun")
}

// checkOffloads makes a TUN with what the tun package asks for, in a network
// namespace of its own.
func checkOffloads() Check {
	const name = "kernel offloads"
	type result struct {
		vnet, uso bool
		err       error
	}
	done := make(chan result)
	go func() {
		var r result
		defer func() { done <- r }()
		runtime.LockOSThread() // never unlocked: the thread, and its namespace, end here
		if r.err = unix.Unshare(unix.CLONE_NEWNET); r.err != nil {
			return
		}
		fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if r.err = err; err != nil {
			return
		}
		defer unix.Close(fd)
		ifr, err := unix.NewIfreq("doctor0")
		if r.err = err; err != nil {
			return
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE)
		if r.err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); r.err != nil {
			return
		}
		const tso = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
		r.vnet = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso) == nil
		r.uso = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tso|unix.TUN_F_USO4|unix.TUN_F_USO6) == nil
	}()
	r := <-done
	switch {
	case errors.Is(r.err, unix.EPERM):
		return warn(name, "only root can look", "sudo netstackd doctor")
	case r.err != nil:
		return warn(name, "can't look: "+r.err.Error(), "modprobe tun")
	case !r.vnet:
		return warn(name, "no segmentation offload on a TUN: TCP is several times slower", "# use a newer kernel")
	case !r.uso:
		return warn(name, "TCP segmentation, several queues; no UDP segmentation", "# Linux 6.2 or newer has it")
	}
	return pass(name, "TCP and UDP segmentation, several queues")
}

func checkCapabilities() Check {
	const name = "capabilities"
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return warn(name, err.Error(), "sudo netstackd doctor")
	}
	var missing []string
	for bit, cap := range map[uint]string{unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_NET_RAW: "CAP_NET_RAW"} {
		if data[bit/32].Effective&(1<<(bit%32)) == 0 {
			missing = append(missing, cap)
		}
	}
	if len(missing) == 0 {
		return pass(name, "CAP_NET_ADMIN, CAP_NET_RAW")
	}
	return warn(name, "no "+strings.Join(missing, ", ")+": the daemon can't run, `netstackd exec` can",
		"sudo netstackd # or: setcap cap_net_admin,cap_net_raw+ep "+self())
}

func self() string {
	if p, err := os.Executable(); err == nil {
		return p
	}
	return "netstackd"
}

// checkUserNamespaces tries one where that tells something: root may always.
func checkUserNamespaces(ctx context.Context) Check {
	const name = "user namespaces"
	for _, s := range []struct {
		setting string
		bad     string
		detail  string
		fix     string
	}{
		{"user/max_user_namespaces", "0", "switched off", "sysctl -w user.max_user_namespaces=15000"},
		{"kernel/unprivileged_userns_clone", "0", "for root only", "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "restricted by AppArmor: `netstackd exec` needs root",
			"sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		if value, err := sysctl.Read(s.setting); err == nil && value == s.bad {
			return warn(name, s.detail, s.fix)
		}
	}
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		return warn(name, "this kernel has none: `netstackd exec` needs root", "# use a kernel with CONFIG_USER_NS")
	}
	if os.Geteuid() == 0 {
		return pass(name, "allowed by every setting")
	}
	cmd := exec.CommandContext(ctx, "/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		return warn(name, "refused: "+err.Error(), "# a container needs: --security-opt seccomp=unconfined")
	}
	return pass(name, "one was made")
}

func checkPing() Check {
	const name = "ping"
	var low, high int
	groups, err := sysctl.Read("net/ipv4/ping_group_range")
	if err == nil {
		_, err = fmt.Sscan(groups, &low, &high)
	}
	if gid := os.Getegid(); err == nil && low <= gid && gid <= high {
		return pass(name, "unprivileged ping sockets")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return warn(name, "neither ping sockets nor raw ones: echo requests are not carried on",
			"sysctl -w net.ipv4.ping_group_range='0 2147483647'")
	}
	unix.Close(fd)
	return pass(name, "raw sockets")
}

// fewDescriptors is where a busy host comes near the limit: each flow has one
// socket and, carried between two sockets, a pipe.
const fewDescriptors = 65536

func checkDescriptors() Check {
	const name = "open files"
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return warn(name, err.Error(), "ulimit -Hn")
	}
	if l.Max < fewDescriptors {
		return warn(name, fmt.Sprintf("at most %d: so many flows less a few", l.Max), "ulimit -Hn 1048576 # systemd: LimitNOFILE=1048576")
	}
	return pass(name, fmt.Sprintf("up to %d", l.Max))
}
