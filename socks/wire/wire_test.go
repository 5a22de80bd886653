package wire_test

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"netstackd/socks/wire"
)

// message is one message of the protocol in wire format, with how it is parsed
// and written again. Parsers return what they made of it.
type message struct {
	name  string
	wire  string
	want  any
	parse func(b []byte) (any, int, error)
	print func(v any) ([]byte, error)
}

func addr(hostport string) wire.Addr {
	a, err := wire.ParseHostPort(hostport)
	if err != nil {
		panic(err)
	}
	return a
}

func parsed[M any](parse func([]byte) (M, int, error)) func(b []byte) (any, int, error) {
	return func(b []byte) (any, int, error) {
		m, n, err := parse(b)
		return m, n, err
	}
}

// The parsers, each with the way back.
var (
	greetings = message{parse: parsed(wire.ParseGreeting),
		print: func(v any) ([]byte, error) { return v.(wire.Greeting).Append(nil), nil }}
	methods = message{parse: parsed(wire.ParseMethod),
		print: func(v any) ([]byte, error) { return wire.AppendMethod(nil, v.(byte)), nil }}
	userPasses = message{parse: parsed(wire.ParseUserPass),
		print: func(v any) ([]byte, error) { return v.(wire.UserPass).Append(nil) }}
	statuses = message{parse: parsed(wire.ParseAuthStatus),
		print: func(v any) ([]byte, error) { return wire.AppendAuthStatus(nil, v.(bool)), nil }}
	requests = message{parse: parsed(wire.ParseRequest),
		print: func(v any) ([]byte, error) { return v.(wire.Request).Append(nil) }}
	responses = message{parse: parsed(wire.ParseResponse),
		print: func(v any) ([]byte, error) { return v.(wire.Response).Append(nil), nil }}
	requests4 = message{parse: parsed(wire.ParseRequest4),
		print: func(v any) ([]byte, error) { return v.(wire.Request4).Append(nil) }}
	responses4 = message{parse: parsed(wire.ParseResponse4),
		print: func(v any) ([]byte, error) { return v.(wire.Response4).Append(nil), nil }}
	addrs = message{parse: parsed(wire.ParseAddr),
		print: func(v any) ([]byte, error) { return v.(wire.Addr).Append(nil) }}
)

func (m message) of(name, wire string, want any) message {
	m.name, m.wire, m.want = name, wire, want
	return m
}

func messages() []message {
	v6 := "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01"
	long := strings.Repeat("n", 255)
	return []message{
		greetings.of("one method", "\x05\x01\x00", wire.Greeting{Methods: []byte{0}}),
		greetings.of("two methods", "\x05\x02\x00\x02", wire.Greeting{Methods: []byte{0, 2}}),
		greetings.of("no method", "\x05\x00", wire.Greeting{Methods: []byte{}}),
		greetings.of("255 methods", "\x05\xff"+strings.Repeat("\x09", 255), wire.Greeting{Methods: bytes.Repeat([]byte{9}, 255)}),
		methods.of("method", "\x05\x02", byte(2)),
		methods.of("no method", "\x05\xff", byte(0xff)),
		userPasses.of("user", "\x01\x01u\x02pp", wire.UserPass{User: "u", Pass: "pp"}),
		userPasses.of("empty", "\x01\x00\x00", wire.UserPass{}),
		userPasses.of("empty password", "\x01\x01u\x00", wire.UserPass{User: "u"}),
		userPasses.of("longest", "\x01\xff"+long+"\xff"+long, wire.UserPass{User: long, Pass: long}),
		statuses.of("yes", "\x01\x00", true),
		statuses.of("no", "\x01\x01", false),
		requests.of("IPv4", "\x05\x01\x00\x01\x0a\x00\x00\x07\x00\x50", wire.Request{Command: wire.Connect, Addr: addr("10.0.0.7:80")}),
		requests.of("IPv6", "\x05\x02\x00\x04"+v6+"\xff\xff", wire.Request{Command: wire.Bind, Addr: addr("[2001:db8::1]:65535")}),
		requests.of("name", "\x05\x03\x00\x03\x01a\x00\x00", wire.Request{Command: wire.Associate, Addr: addr("a:0")}),
		requests.of("longest name", "\x05\x01\x00\x03\xff"+long+"\x00\x01", wire.Request{Command: wire.Connect, Addr: addr(long + ":1")}),
		responses.of("IPv4", "\x05\x00\x00\x01\x0a\x00\x00\x07\x00\x50", wire.Response{Addr: addr("10.0.0.7:80")}),
		responses.of("IPv6", "\x05\x05\x00\x04"+v6+"\x00\x50", wire.Response{Reply: 5, Addr: addr("[2001:db8::1]:80")}),
		requests4.of("SOCKS4", "\x04\x01\x00\x50\x0a\x00\x00\x07me\x00", wire.Request4{Command: wire.Connect, Addr: addr("10.0.0.7:80"), User: "me"}),
		requests4.of("SOCKS4 nobody", "\x04\x02\x00\x50\x00\x00\x00\x00\x00", wire.Request4{Command: wire.Bind, Addr: addr("0.0.0.0:80")}),
		requests4.of("SOCKS4a", "\x04\x01\x00\x50\x00\x00\x00\x01\x00a.b\x00", wire.Request4{Command: wire.Connect, Addr: addr("a.b:80")}),
		responses4.of("granted", "\x00\x5a\x00\x50\x0a\x00\x00\x07", wire.Response4{Code: 90, Addr: addr("10.0.0.7:80")}),
		responses4.of("rejected", "\x00\x5b\x00\x00\x00\x00\x00\x00", wire.Response4{Code: 91, Addr: addr("0.0.0.0:0")}),
	}
}

// TestMessages parses each message cut off at every byte, with something
// behind it, and writes it again.
func TestMessages(t *testing.T) {
	for _, m := range messages() {
		for cut := range len(m.wire) {
			if _, n, err := m.parse([]byte(m.wire[:cut])); err != io.ErrUnexpectedEOF || n != 0 {
				t.Errorf("%s cut at %d: took %d, %v", m.name, cut, n, err)
			}
		}
		for _, behind := range []string{"", "x", "\x05\x05\x05\x05\x05"} {
			got, n, err := m.parse([]byte(m.wire + behind))
			if err != nil || n != len(m.wire) || !reflect.DeepEqual(got, m.want) {
				t.Errorf("%s: %+v, took %d of %d, %v", m.name, got, n, len(m.wire), err)
			}
		}
		if got, err := m.print(m.want); err != nil || string(got) != m.wire {
			t.Errorf("%s: printed %q, %v; want %q", m.name, got, err, m.wire)
		}
	}
}

func TestMessagesMalformed(t *testing.T) {
	for _, tc := range []struct {
		name string
		m    message
		wire string
		is   error
	}{
		{"greeting version", greetings, "\x06", wire.ErrVersion},
		{"method version", methods, "\x04\x00", wire.ErrVersion},
		{"auth version", userPasses, "\x05\x01", wire.ErrVersion},
		{"status version", statuses, "\x00\x00", wire.ErrVersion},
		{"request version", requests, "\x04", wire.ErrVersion},
		{"request address type", requests, "\x05\x01\x00\x02", wire.ErrAddrType},
		{"response version", responses, "\x00", wire.ErrVersion},
		{"response address type", responses, "\x05\x00\x00\x00", wire.ErrAddrType},
		{"SOCKS4 version", requests4, "\x05", wire.ErrVersion},
		{"SOCKS4 user", requests4, "\x04\x01\x00\x50\x0a\x00\x00\x07" + strings.Repeat("u", 256), wire.ErrUser},
		{"SOCKS4a name", requests4, "\x04\x01\x00\x50\x00\x00\x00\x07\x00" + strings.Repeat("n", 256), wire.ErrName},
		{"SOCKS4 response version", responses4, "\x05", wire.ErrVersion},
	} {
		if _, _, err := tc.m.parse([]byte(tc.wire)); !errors.Is(err, tc.is) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.is)
		}
	}
	for _, name := range []string{"", strings.Repeat("n", 256), "a b", "a\x00b", "a\nb", "a\x7f"} {
		if _, err := (wire.Addr{Name: name}).Append(nil); !errors.Is(err, wire.ErrName) {
			t.Errorf("name %.5q: %v, want ErrName", name, err)
		}
	}
}

func TestAddr(t *testing.T) {
	for _, tc := range []struct{ in, out string }{
		{"10.0.0.7:80", "10.0.0.7:80"}, {"[::1]:80", "[::1]:80"}, {"[::ffff:10.0.0.7]:80", "10.0.0.7:80"},
		{"name:80", "name:80"}, {"name9:80", "name9:80"}, {"1.2.3:80", "1.2.3:80"}, {"[fe80::1%eth0]:80", "[fe80::1%eth0]:80"},
	} {
		a, err := wire.ParseHostPort(tc.in)
		if err != nil || a.String() != tc.out || a.Network() != "socks" {
			t.Errorf("%s: %v, %v; want %s", tc.in, a, err, tc.out)
		}
	}
	// As clients send them in the place of a name.
	for _, tc := range []struct{ in, out string }{
		{"10.0.0.7", "10.0.0.7:80"}, {"::1", "[::1]:80"}, {"[::1]", "[::1]:80"}, {"[2001:db8::7]", "[2001:db8::7]:80"}, {"[]", "[]:80"},
	} {
		text := "\x03" + string(byte(len(tc.in))) + tc.in + "\x00\x50"
		if a, _, err := wire.ParseAddr([]byte(text)); err != nil || a.String() != tc.out {
			t.Errorf("%s: %v, %v; want %s", tc.in, a, err, tc.out)
		}
	}
	ap := netip.MustParseAddrPort("[::ffff:10.0.0.7]:80")
	if got := wire.AddrFrom(ap); got != addr("10.0.0.7:80") {
		t.Errorf("AddrFrom(%v) = %v", ap, got)
	}
}

func TestAllocs(t *testing.T) {
	request := []byte("\x05\x01\x00\x01\x0a\x00\x00\x07\x00\x50")
	buf := make([]byte, 0, 64)
	n := testing.AllocsPerRun(100, func() {
		r, _, err := wire.ParseRequest(request)
		if err == nil {
			buf, err = r.Append(buf[:0])
		}
		if err == nil {
			_, _, err = wire.ParseDatagram(append(buf[:0], 0, 0, 0, 1, 1, 2, 3, 4, 0, 5, 'x'))
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// fuzz checks of a parser, on any input: it takes no more than there is; cut
// anywhere, the message is incomplete; and what it returns is written in a form
// that parses to the same.
func fuzz(f *testing.F, kinds ...message) {
	for _, m := range messages() {
		f.Add([]byte(m.wire))
		f.Add([]byte(m.wire + "early data"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range kinds {
			v, n, err := m.parse(b)
			if err != nil {
				if n != 0 {
					t.Fatalf("took %d with %v", n, err)
				}
				continue
			}
			if n <= 0 || n > len(b) {
				t.Fatalf("took %d of %d", n, len(b))
			}
			for cut := range n {
				if _, _, err := m.parse(b[:cut:cut]); err != io.ErrUnexpectedEOF {
					t.Fatalf("%q cut at %d: %v", b[:n], cut, err)
				}
			}
			written, err := m.print(v)
			if errors.Is(err, wire.ErrName) {
				continue // a name that is taken but never passed on
			}
			if err != nil {
				t.Fatalf("%+v can't be written: %v", v, err)
			}
			again, _, err := m.parse(written)
			if _, isResponse := v.(wire.Response); isResponse && err == nil && v.(wire.Response).Addr.IsName() {
				continue // we never write names there
			}
			if err != nil || !reflect.DeepEqual(again, v) {
				t.Fatalf("%+v is written as %q, which is %+v, %v", v, written, again, err)
			}
		}
	})
}

func FuzzReadRequest(f *testing.F)  { fuzz(f, greetings, userPasses, requests, requests4, addrs) }
func FuzzReadResponse(f *testing.F) { fuzz(f, methods, statuses, responses, responses4) }

func FuzzParseDatagram(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x01\x02\x03\x04\x00\x05payload"))
	f.Add([]byte("\x00\x00\x01\x01\x01\x02\x03\x04\x00\x05payload"))
	f.Add([]byte("\x00\x00\x00\x03\x04name\x00\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, payload, err := wire.ParseDatagram(b)
		if err != nil {
			return
		}
		head, err := wire.AppendDatagramHeader(nil, a)
		if errors.Is(err, wire.ErrName) {
			return
		}
		again, same, err2 := wire.ParseDatagram(append(head, payload...))
		if err != nil || err2 != nil || again != a || !bytes.Equal(same, payload) {
			t.Fatalf("%+v %q, %v, %v; again %+v %q", a, payload, err, err2, again, same)
		}
	})
}
