package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// resourceRows take away what netstackd needs from the host.
func resourceRows() []row {
	return []row{
		{
			name: "fault/out of files (ulimit -n 256)", short: true, files: 256,
			about: "1,000 connections at 500/s, more than there are descriptors for",
			load:  hold(localPath, portEcho, 500, 1000, nil), expect: expect{conns: -1},
		},
		{
			name:  "fault/queues of two packets (ENOBUFS)",
			about: "the queue of A's interface takes two packets, the TUN's two, socket buffers are the least",
			load:  shortQueues, expect: expect{rate: -1, conns: 0.90},
		},
		{
			name: "fault/log reader gone", short: true, flags: []string{"--log-level", "debug"},
			about: "the pipe that netstackd logs to is closed at its other end",
			load: func(ctx context.Context, r *run) error {
				r.daemon.CloseLog()
				return hold(localPath, portEcho, 500, 1000, nil)(ctx, r)
			},
		},
		{
			name: "fault/log blocked", short: true, flags: []string{"--log-level", "debug"},
			about: "nothing reads the pipe that netstackd logs to, at --log-level debug, with 1,000 new flows",
			load: func(ctx context.Context, r *run) error {
				defer r.daemon.BlockLog()()
				return hold(localPath, portEcho, 500, 1000, nil)(ctx, r)
			},
		},
		{
			name:  "fault/disk full for exec --pcap",
			about: "a download of 4 MB is captured to a file system of 1 MB",
			load:  fullDisk,
		},
	}
}

// localPath is a transparent one from A.
func localPath(n *network) path { return path{from: n.a} }

// shortQueues leaves the kernel no room for packets while datagrams are sent.
func shortQueues(ctx context.Context, r *run) error {
	if out, err := r.net.a.output(ctx, "tc", "qdisc", "replace", "dev", device, "root", "pfifo", "limit", "2"); err != nil {
		return fmt.Errorf("tc: %w: %s", err, out)
	}
	if err := r.net.a.ip("link set " + tunDevice + " txqueuelen 2"); err != nil {
		return err
	}
	err := udpScan(ctx, r)
	if out, err := r.net.a.output(context.WithoutCancel(ctx), "tc", "qdisc", "del", "dev", device, "root"); err != nil {
		return fmt.Errorf("tc: %w: %s", err, out)
	}
	if err := r.net.a.ip("link set " + tunDevice + " txqueuelen 500"); err != nil {
		return err
	}
	return err
}

// fullDisk captures more than the disk takes. The command's status is its own;
// what must be said is that the file is not whole.
func fullDisk(ctx context.Context, r *run) error {
	const dir = "/run/small"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		return os.NewSyscallError("mount", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	const command = "exec 3<>/dev/tcp/10.78.0.1/7001; head -c 4000000 <&3 | wc -c"
	out, err := r.net.a.output(ctx, r.options.program, "exec", "--pcap", dir+"/x.pcap", "--", "bash", "-c", command)
	said := strings.Contains(out, "pcap")
	r.check(said && strings.Contains(out, "4000000"), "command unharmed, the loss said",
		"whole download: %v, said: %v", strings.Contains(out, "4000000"), said)
	r.note("exec: %v: %s", err, out)
	return nil
}
