package sandbox_test

import (
	"os/exec"
	"testing"
)

// anyHost is a host's /etc and /run for one test: what root's script does to
// them shows in the mount namespace of cmd alone.
func anyHost(cmd *exec.Cmd, script string) *exec.Cmd {
	const private = `
		mount -t tmpfs -o mode=1777 tmpfs /run
		mkdir /run/.upper /run/.work /run/systemd /run/systemd/resolve /run/nscd /run/dbus /run/avahi-daemon
		mount -t overlay -o lowerdir=/etc,upperdir=/run/.upper,workdir=/run/.work overlay /etc
		for socket in nscd/socket dbus/system_bus_socket avahi-daemon/socket systemd/resolve/io.systemd.Resolve; do
			touch /run/$socket
		done
		rm -f /etc/resolv.conf
	`
	cmd.Env = append(cmd.Env, "SANDBOX_TEST_HOST="+private+script)
	return cmd
}

const ours = "# netstackd exec: the nameserver is netstackd's, for this command only\nnameserver 198.18.0.2\n"

// The command's resolv.conf is ours, whatever the host's is; what the host's has
// besides nameservers is kept. Resolvers behind Unix sockets are out of sight.
// Who insists on a nameserver on loopback finds one there.
func TestIntegrationResolvConf(t *testing.T) {
	const look = `cat /etc/resolv.conf; ls /run/nscd /run/dbus /run/avahi-daemon /run/systemd/resolve | grep -v ^$
		ss -Hlntu | awk '{print $1, $5}' | sort`
	const hidden = "/run/avahi-daemon:\n/run/dbus:\n/run/nscd:\n/run/systemd/resolve:\nresolv.conf\nstub-resolv.conf\n"
	for _, tc := range []struct {
		name, host, want string
	}{
		{"file", `printf 'nameserver 192.0.2.53\noptions edns0   trust-ad\n# no\nnameserver 127.0.0.53\nsearch a.example b.example\n' > /etc/resolv.conf`,
			ours + "options edns0 trust-ad\nsearch a.example b.example\n" + hidden + "tcp 127.0.0.53:53\nudp 127.0.0.53:53\n"},
		{"link to systemd-resolved", `echo nameserver 127.0.0.53 > /run/systemd/resolve/stub-resolv.conf
			ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf`,
			ours + hidden + "tcp 127.0.0.53:53\nudp 127.0.0.53:53\n"},
		{"link elsewhere", `echo nameserver 192.0.2.1 > /run/elsewhere; ln -s /run/elsewhere /etc/resolv.conf`, ours + hidden},
		{"none", ``, hidden + "tcp 127.0.0.1:53\ntcp [::1]:53\nudp 127.0.0.1:53\nudp [::1]:53\n"},
		{"dangling link", `ln -s /run/nothing /etc/resolv.conf`,
			hidden + "tcp 127.0.0.1:53\ntcp [::1]:53\nudp 127.0.0.1:53\nudp [::1]:53\n"},
	} {
		t.Run(name(tc.name), func(t *testing.T) {
			t.Parallel()
			want(t, anyHost(asUser(t, open, "sh", "-c", look+" 2>/dev/null"), tc.host), tc.want)
		})
	}
}

// The host changes its files while the command runs, as network managers do: the
// command keeps its own, and what is new is hidden too.
func TestIntegrationHostChanges(t *testing.T) {
	for _, tc := range []struct {
		name         string
		host, change string // the second when the command runs
		until        string // what the command then waits for
	}{
		{"resolv.conf replaced", `echo nameserver 192.0.2.1 > /etc/resolv.conf`,
			`echo nameserver 192.0.2.2 > /etc/new; mv /etc/new /etc/resolv.conf`,
			`grep -q 198.18.0.2 /etc/resolv.conf`},
		{"link replaced", `echo nameserver 192.0.2.1 > /run/one; ln -s /run/one /etc/resolv.conf`,
			`echo nameserver 192.0.2.2 > /run/two; ln -sf /run/two /etc/new; mv /etc/new /etc/resolv.conf`,
			`grep -q 198.18.0.2 /etc/resolv.conf`},
		{"replaced three times", `echo nameserver 192.0.2.1 > /etc/resolv.conf`,
			`for i in 2 3 4; do echo nameserver 192.0.2.$i > /etc/new; mv /etc/new /etc/resolv.conf; sleep .05; done`,
			`grep -q 198.18.0.2 /etc/resolv.conf`},
		{"resolv.conf made", ``, `echo nameserver 192.0.2.2 > /etc/resolv.conf`, `grep -q 198.18.0.2 /etc/resolv.conf`},
		{"nscd restarted", ``, `rm -r /run/nscd; mkdir /run/nscd; touch /run/nscd/socket`,
			`test -d /run/nscd -a ! -e /run/nscd/socket`},
		{"nscd installed", `rm -r /run/nscd`, `mkdir /run/nscd; touch /run/nscd/socket`,
			`test -d /run/nscd -a ! -e /run/nscd/socket`},
	} {
		t.Run(name(tc.name), func(t *testing.T) {
			t.Parallel()
			host := tc.host + `
				mkfifo -m 666 /run/go /run/gone
				{ read line < /run/go; ` + tc.change + `; echo > /run/gone; } > /dev/null 2>&1 < /dev/null &`
			cmd := anyHost(asUser(t, open, "sh", "-c", `
				echo > /run/go; read line < /run/gone
				i=0; until `+tc.until+`; do i=$((i+1)); test $i -lt 500 || exit 1; sleep .01; done; echo hidden`), host)
			want(t, cmd, "hidden\n")
		})
	}
}

// Nothing of it shows on the host, also where the mounts are shared with it.
func TestIntegrationHostUnchanged(t *testing.T) {
	const look = "cat /etc/resolv.conf; grep -E ' (/etc|/run|/var/run)/(resolv|dbus|nscd|systemd)' /proc/self/mountinfo || true"
	for _, who := range who {
		t.Run(name(who.name), func(t *testing.T) {
			before, err := exec.Command("sh", "-c", look).Output()
			if err != nil {
				t.Fatal(err)
			}
			cmd := who.exec(t, "grep", "-c", "netstackd exec", "/etc/resolv.conf")
			want(t, cmd, "1\n")
			after, err := exec.Command("sh", "-c", look).Output()
			if err != nil {
				t.Fatal(err)
			}
			if string(before) != string(after) {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}
