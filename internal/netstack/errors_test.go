package netstack_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"

	"netstackd/internal/netstack"
)

// all has one of each error that gVisor's tcpip has. TestErrnoIsComplete
// checks that none is missing.
var all = map[tcpip.Error]syscall.Errno{
	&tcpip.ErrAborted{}:                      syscall.ECONNABORTED,
	&tcpip.ErrAddressFamilyNotSupported{}:    syscall.EAFNOSUPPORT,
	&tcpip.ErrAlreadyBound{}:                 syscall.EINVAL,
	&tcpip.ErrAlreadyConnected{}:             syscall.EISCONN,
	&tcpip.ErrAlreadyConnecting{}:            syscall.EALREADY,
	&tcpip.ErrBadAddress{}:                   syscall.EFAULT,
	&tcpip.ErrBadBuffer{}:                    syscall.EINVAL,
	&tcpip.ErrBadLocalAddress{}:              syscall.EADDRNOTAVAIL,
	&tcpip.ErrBroadcastDisabled{}:            syscall.EACCES,
	&tcpip.ErrClosedForReceive{}:             syscall.ENOTCONN,
	&tcpip.ErrClosedForSend{}:                syscall.EPIPE,
	&tcpip.ErrConnectStarted{}:               syscall.EINPROGRESS,
	&tcpip.ErrConnectionAborted{}:            syscall.ECONNABORTED,
	&tcpip.ErrConnectionRefused{}:            syscall.ECONNREFUSED,
	&tcpip.ErrConnectionReset{}:              syscall.ECONNRESET,
	&tcpip.ErrDestinationRequired{}:          syscall.EDESTADDRREQ,
	&tcpip.ErrDuplicateAddress{}:             syscall.EEXIST,
	&tcpip.ErrDuplicateNICID{}:               syscall.EEXIST,
	&tcpip.ErrEndpointBusy{}:                 syscall.EBUSY,
	&tcpip.ErrHostDown{}:                     syscall.EHOSTDOWN,
	&tcpip.ErrHostUnreachable{}:              syscall.EHOSTUNREACH,
	&tcpip.ErrInvalidEndpointState{}:         syscall.EINVAL,
	&tcpip.ErrInvalidNICID{}:                 syscall.ENODEV,
	&tcpip.ErrInvalidOptionValue{}:           syscall.EINVAL,
	&tcpip.ErrInvalidPortRange{}:             syscall.EINVAL,
	&tcpip.ErrMalformedHeader{}:              syscall.EINVAL,
	&tcpip.ErrMessageTooLong{}:               syscall.EMSGSIZE,
	&tcpip.ErrMissingRequiredFields{}:        syscall.EINVAL,
	&tcpip.ErrMulticastInputCannotBeOutput{}: syscall.EINVAL,
	&tcpip.ErrNetworkUnreachable{}:           syscall.ENETUNREACH,
	&tcpip.ErrNoBufferSpace{}:                syscall.ENOBUFS,
	&tcpip.ErrNoNet{}:                        netstack.ErrNoNet,
	&tcpip.ErrNoPortAvailable{}:              syscall.EADDRNOTAVAIL,
	&tcpip.ErrNoSuchFile{}:                   syscall.ENOENT,
	&tcpip.ErrNotConnected{}:                 syscall.ENOTCONN,
	&tcpip.ErrNotPermitted{}:                 syscall.EACCES,
	&tcpip.ErrNotSupported{}:                 syscall.EOPNOTSUPP,
	&tcpip.ErrPortInUse{}:                    syscall.EADDRINUSE,
	&tcpip.ErrQueueSizeNotSupported{}:        syscall.EINVAL,
	&tcpip.ErrTimeout{}:                      syscall.ETIMEDOUT,
	&tcpip.ErrUnknownDevice{}:                syscall.ENODEV,
	&tcpip.ErrUnknownNICID{}:                 syscall.ENODEV,
	&tcpip.ErrUnknownProtocol{}:              syscall.EAFNOSUPPORT,
	&tcpip.ErrUnknownProtocolOption{}:        syscall.EOPNOTSUPP,
}

func typeName(v any) string { return fmt.Sprintf("%T", v) }

func TestErrno(t *testing.T) {
	if err := netstack.Errno(nil); err != nil {
		t.Errorf("nil: %v", err)
	}
	for terr, want := range all {
		if got := netstack.Errno(terr); !errors.Is(got, want) {
			t.Errorf("%T: %v, want %v", terr, got, want)
		}
	}
	// Waiting is no error for a caller, so it has no errno.
	var errno syscall.Errno
	if err := netstack.Errno(&tcpip.ErrWouldBlock{}); err == nil || errors.As(err, &errno) {
		t.Errorf("would block: %v", err)
	}
}

// A version of gVisor with a new error fails this test.
func TestErrnoIsComplete(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "gvisor.dev/gvisor/pkg/tcpip").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"ErrWouldBlock": true}
	name := regexp.MustCompile(`Err\w+`)
	for terr := range all {
		known[name.FindString(typeName(terr))] = true
	}
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(strings.TrimSpace(string(dir)), "errors.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, s := range g.Specs {
			if id := s.(*ast.TypeSpec).Name.Name; strings.HasPrefix(id, "Err") && id != "Error" {
				n++
				if !known[id] {
					t.Errorf("tcpip.%s has no errno", id)
				}
			}
		}
	}
	if n < 40 {
		t.Errorf("found %d errors only", n)
	}
}
