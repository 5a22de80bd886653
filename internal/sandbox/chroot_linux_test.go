package sandbox_test

import (
	"syscall"
	"testing"

	"netstackd/internal/testnet"

	"golang.org/x/sys/unix"
)

// In a chroot whose root is a plain directory, the mount around it can't be named.
// Root's command runs there all the same, sees what it sees elsewhere, and nothing
// that is mounted for it shows outside.
func TestIntegrationChroot(t *testing.T) {
	testnet.RequireRoot(t)
	const script = `
		mount --make-rshared /
		cd "$1"
		mkdir etc tmp proc dev sys usr
		echo nameserver 192.0.2.1 > etc/resolv.conf
		for dir in /bin /lib /lib64; do
			if [ -L $dir ]; then cp -P $dir .; elif [ -d $dir ]; then mkdir .$dir; mount --rbind $dir .$dir; fi
		done
		for dir in proc dev sys usr; do mount --rbind /$dir $dir; done
		cp "$2" test
		chroot . /bin/bash -c 'cd /tmp; exec -a "$0" /test sh -c "pwd; cat /etc/resolv.conf; ls -d /usr/bin; ls /root"' "$3"
		echo "status $?"
		grep -c "$1/[etr]" /proc/self/mountinfo
	`
	dir := t.TempDir()
	cmd := command(t, "bash", "-c", script, "bash", dir, program(t), execName)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	r := run(t, cmd)
	if want := "/tmp\n" + ours + "/usr/bin\nstatus 2\n0\n"; r.out != want {
		t.Errorf("printed %q, want %q; stderr %q", r.out, want, r.err)
	}
}
