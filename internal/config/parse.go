package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"netstackd/internal/netcfg"
	"netstackd/internal/publish"
	"netstackd/socks"
)

// The parsers below turn one flag's text into its value. Their errors say
// what is wrong and what to write instead; the caller adds the flag's name.

type timeout time.Duration

func parseDuration(s string) (timeout, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration; write 30s, 5m or 1h30m", s)
	}
	return timeout(d), nil
}

// parseKeepAlive takes IDLE[/INTERVAL/COUNT], within what Linux allows. IDLE by
// itself is INTERVAL as well.
func parseKeepAlive(s string) (net.KeepAliveConfig, error) {
	bad := fmt.Errorf("%q is no keep-alive; write 15s, 60s/15s/5 (idle, interval, count) or off", s)
	if s == "off" {
		return net.KeepAliveConfig{}, nil
	}
	k := defaultKeepAlive()
	parts := strings.Split(s, "/")
	if len(parts) == 1 {
		parts = append(parts, parts[0], strconv.Itoa(k.Count))
	}
	if len(parts) != 3 {
		return net.KeepAliveConfig{}, bad
	}
	var errs [3]error
	k.Idle, errs[0] = time.ParseDuration(parts[0])
	k.Interval, errs[1] = time.ParseDuration(parts[1])
	k.Count, errs[2] = strconv.Atoi(parts[2])
	if errors.Join(errs[:]...) != nil {
		return net.KeepAliveConfig{}, bad
	}
	const most = 32767 * time.Second // MAX_TCP_KEEPIDLE in linux/tcp.h
	for _, d := range []time.Duration{k.Idle, k.Interval} {
		if d < time.Second || d > most || d%time.Second != 0 {
			return net.KeepAliveConfig{}, fmt.Errorf("%s is no whole number of seconds from 1 to 32767; write 15s", d)
		}
	}
	if k.Count < 1 || k.Count > 127 { // MAX_TCP_KEEPCNT
		return net.KeepAliveConfig{}, fmt.Errorf("%d probes are out of range; use 1 to 127", k.Count)
	}
	return k, nil
}

func parseBool(s string) (bool, error) {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", s)
	}
	return v, nil
}

func parseCount(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a whole number of 0 or more", s)
	}
	return int(n), nil
}

func parseQueues(s string) (int, error) {
	n, err := parseCount(s)
	if err == nil && n > 256 { // MAX_TAP_QUEUES in linux/if_tap.h
		return 0, fmt.Errorf("%d is more than the kernel's 256; use 0 for one per core", n)
	}
	return n, err
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%q is not a port; use 1 to 65535, or 0 for none", s)
	}
	return uint16(n), nil
}

func parseMark(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a 32-bit mark; write 1080 or 0x438", s)
	}
	return uint32(n), nil
}

func parseBytes(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGTiBkmgb")
	n, err := strconv.ParseInt(digits, 10, 64)
	shift, known := map[string]uint{
		"": 0, "b": 0, "k": 10, "kib": 10, "m": 20, "mib": 20, "g": 30, "gib": 30, "t": 40, "tib": 40,
	}[strings.ToLower(s[len(digits):])]
	if err != nil || !known || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is not a number of bytes; write 268435456, 256M or 1G", s)
	}
	return n << shift, nil
}

func parseInterface(s string) (string, error) {
	if s == "" || len(s) > maxInterfaceName || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\n%") {
		return "", fmt.Errorf("%q is no interface name; use 1 to %d characters without spaces, '/', ':' or '%%'", s, maxInterfaceName)
	}
	return s, nil
}

// parsePrefix takes a CIDR, or a bare address for itself alone.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR; write 10.0.0.0/8 or 2001:db8::/32", s)
	}
	if m := p.Masked(); m != p {
		return netip.Prefix{}, fmt.Errorf("%s has bits set beyond its length; write %s", s, m)
	}
	return p, nil
}

func parseAddress(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not an address with its length; write 198.18.0.1/30 or fd19:8::1/126", s)
	}
	if a := p.Addr(); a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return netip.Prefix{}, fmt.Errorf("%s can't be an interface's address; write 198.18.0.1/30 or fd19:8::1/126", s)
	}
	return p, nil
}

// parseUIDs takes a user's id or name, or a range of ids.
func parseUIDs(s string) (netcfg.UIDRange, error) {
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	lo, err1 := strconv.ParseUint(first, 10, 32)
	hi, err2 := strconv.ParseUint(last, 10, 32)
	if err1 != nil || err2 != nil {
		uid, err := userID(s)
		return netcfg.UIDRange{First: uid, Last: uid}, err
	}
	if lo > hi {
		return netcfg.UIDRange{}, fmt.Errorf("%q ends before it begins; write 1000-1999", s)
	}
	return netcfg.UIDRange{First: uint32(lo), Last: uint32(hi)}, nil
}

// userID is the id of a user of this host.
func userID(name string) (uint32, error) {
	u, err := user.Lookup(name)
	var unknown user.UnknownUserError
	switch {
	case errors.As(err, &unknown):
		hint := "write a name, 1000 or 1000-1999"
		if near := Nearest(name, userNames()); near != "" {
			hint = "did you mean " + near + "?"
		}
		return 0, fmt.Errorf("%q is neither a user of this host nor a user id; %s", name, hint)
	case err != nil:
		return 0, fmt.Errorf("%q: %w; write the user's id", name, err)
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q has no numeric id on this system", name)
	}
	return uint32(n), nil
}

// userNames lists the users of /etc/passwd, to find a mistyped one.
func userNames() []string {
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return nil
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		if name, _, ok := strings.Cut(line, ":"); ok && name != "" {
			names = append(names, name)
		}
	}
	return names
}

func parseCgroup(s string) (string, error) {
	path := strings.Trim(strings.TrimPrefix(s, "/sys/fs/cgroup"), "/")
	if path == "" {
		return "", fmt.Errorf("%q is not a cgroup; write its path, such as user.slice/backup.service", s)
	}
	return path, nil
}

func parseFile(s string) (string, error) {
	if s == "" {
		return "", errors.New("is empty; give a file name")
	}
	return s, nil
}

func parseEgress(s string) (Egress, error) {
	switch e := Egress(s); e {
	case EgressHost, EgressStack:
		return e, nil
	}
	return "", fmt.Errorf("%q is neither host nor stack", s)
}

func parseStrict(s string) (netcfg.Strict, error) {
	if s == "keep" {
		return netcfg.StrictKeep, nil
	}
	on, err := parseBool(s)
	switch {
	case err != nil:
		return netcfg.StrictOff, fmt.Errorf("%q is none of true, false and keep", s)
	case on:
		return netcfg.StrictOn, nil
	}
	return netcfg.StrictOff, nil
}

func parseLevel(s string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("%q is no level; use debug, info, warn or error", s)
	}
	return l, nil
}

func parseFormat(s string) (string, error) {
	if s != "text" && s != "json" {
		return "", fmt.Errorf("%q is neither text nor json", s)
	}
	return s, nil
}

// parseCredential never repeats its input: an error message may be logged.
func parseCredential(s string) (Credential, error) {
	user, pass, ok := strings.Cut(s, ":")
	switch {
	case !ok || user == "":
		return Credential{}, errors.New("is not USER:PASS; the password may be empty, the colon not")
	case len(user) > 255 || len(pass) > 255: // RFC 1929 §2
		return Credential{}, errors.New("user and password have at most 255 bytes each")
	}
	return Credential{user, pass}, nil
}

// parseUpstream never repeats credentials. Unlike the library it wants a port:
// ports of proxies vary.
func parseUpstream(s string) (*url.URL, error) {
	u, err := socks.ParseUpstream(s)
	if err == nil && u.Port() == "" {
		return nil, fmt.Errorf("%s has no port; write %s://%s:1080", u.Host, u.Scheme, strings.TrimSuffix(u.Host, ":"))
	}
	return u, err
}

// parseListen takes host:port where host is an address, localhost or empty
// for every address. Names are not taken: where they lead may change.
func parseListen(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && host != "" && host != "localhost" {
		_, err = netip.ParseAddr(host)
	}
	if err != nil {
		return "", fmt.Errorf("%q is not a listening address; write 127.0.0.1:1080, [::1]:1080 or off", s)
	}
	return s, nil
}

// parsePublish takes one port for both sides, or two.
func parsePublish(s string) (publish.Port, error) {
	bad := fmt.Errorf("%q is not [ADDR:][PORT:]PORT[/udp]; write 8000, 8080:80, 5353/udp, 0.0.0.0:8080:80 or [::]:8080:80", s)
	ports, network, ok := strings.Cut(s, "/")
	if !ok {
		network = "tcp"
	}
	if network != "tcp" && network != "udp" {
		return publish.Port{}, bad
	}
	listen, inner := ports, ports // one port alone
	if cut := strings.LastIndexByte(ports, ':'); cut >= 0 {
		listen, inner = ports[:cut], ports[cut+1:]
	}
	switch _, err := netip.ParseAddr(strings.Trim(listen, "[]")); {
	case err == nil && strings.HasPrefix(listen, "[") == strings.Contains(listen, ":"): // ADDR:PORT
		listen += ":" + inner
	case !strings.Contains(listen, ":"):
		listen = "127.0.0.1:" + listen
	}
	ap, err := netip.ParseAddrPort(listen)
	if err != nil {
		return publish.Port{}, bad
	}
	port, err := strconv.ParseUint(inner, 10, 16)
	if err != nil || port == 0 || ap.Port() == 0 {
		return publish.Port{}, bad
	}
	return publish.Port{Network: network, Listen: ap, Port: uint16(port)}, nil
}
