package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"netstackd/internal/timerslack"
)

// helperName is argv[0] of the processes that are this program again; what they
// are is argv[2]. argv[1] is for programs with commands, so that it is their
// command bench that runs and calls Main.
const helperName = "netstackd-bench"

const (
	roleLab   = "lab"
	roleAgent = "agent"
	roleWire  = "wire"
)

// helperFD is where a helper finds its end of the socketpair.
const helperFD = 3

// IsHelper reports whether this process was started by Run. A program that
// calls Run asks first, and exits with what Main returns.
func IsHelper() bool { return len(os.Args) == 3 && os.Args[0] == helperName }

// Main is a helper's. It returns what the process exits with.
func Main() int {
	if os.Args[2] == roleAgent {
		timerslack.Raise() // the load is to be no part of what it measures
	}
	unix.CloseOnExec(helperFD)
	file := os.NewFile(helperFD, "socketpair")
	conn, err := net.FileConn(file)
	file.Close()
	if err == nil {
		switch os.Args[2] {
		case roleLab:
			err = runLab(conn)
		case roleAgent:
			err = runAgent(conn)
		case roleWire:
			err = runWire(conn)
		default:
			err = errors.New("unknown role")
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", helperName, err)
		return 1
	}
	return 0
}

// startHelper runs this program again. An agent dies with ctx, and with this
// process: no thread of ours ends before the process does, so that the kernel's
// notion of a parent, which is the thread, makes no difference. The lab has
// things to put in order when its connection ends.
func startHelper(ctx context.Context, role string, attr *syscall.SysProcAttr) (*exec.Cmd, net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	if role != roleLab {
		attr.Pdeathsig = syscall.SIGKILL
	}
	attr.Setpgid = true // a Ctrl-C is for us alone: we end the others in order
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{helperName, "bench", role}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, nil, err
	}
	return cmd, conn, nil
}
