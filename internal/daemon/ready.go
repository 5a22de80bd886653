package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
)

// announce prints one line when traffic can flow, and notifies systemd.
func announce(w io.Writer, log *slog.Logger, f *listeners) {
	var at []string
	for _, ln := range append(f.host[:len(f.host):len(f.host)], f.stack...) {
		at = append(at, ln.Addr().String())
	}
	line := "netstackd: ready"
	if len(at) > 0 {
		line += "; SOCKS at " + strings.Join(at, ", ")
	}
	fmt.Fprintln(w, line)
	if err := notify("READY=1"); err != nil {
		log.Warn("systemd was not told", "err", err)
	}
}

// notify speaks systemd's protocol (sd_notify(3)): a datagram to the socket
// that NOTIFY_SOCKET names, where a leading @ means the abstract namespace.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
