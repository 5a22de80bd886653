package dns_test

import (
	"bytes"
	"testing"

	"netstackd/internal/dns"

	"golang.org/x/net/dns/dnsmessage"
)

// Whatever a program or a nameserver sends: no panic, and what goes on has the
// form of a message that asks or answers the same question.
func FuzzQuery(f *testing.F) {
	asked := question(f, 1, "www.Example.com.", dnsmessage.TypeA, 1232)
	f.Add(asked, reply(asked, 0, 2), []byte{0xaa, 0x55})
	f.Add(question(f, 1, ".", dnsmessage.TypeNS, 0), []byte{}, []byte{})
	f.Add(asked[:20], asked[:12], []byte{0xff})
	f.Add(append(bytes.Clone(asked[:12]), 0xc0, 0x0c, 0, 1, 0, 1), []byte{}, []byte{})
	f.Add(append(bytes.Clone(asked[:4]), make([]byte, 8)...), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, raw, answer, noise []byte) {
		q, err := dns.ParseQuery(bytes.Clone(raw))
		if !q.Valid() {
			if err == nil {
				t.Fatal("neither a query nor an error")
			}
			return
		}
		if err != nil {
			return
		}
		sent := q.Ask(0x4242, noise)
		if len(sent) != len(raw) || !bytes.EqualFold(sent[2:], raw[2:]) {
			t.Fatalf("%q became %q", raw, sent)
		}
		if q.Fits(0x4242, noise, sent) {
			t.Fatal("a question is taken for its answer")
		}
		sent[2] |= 0x80
		if !q.Fits(0x4242, noise, sent) {
			t.Fatal("the question, sent back as an answer, doesn't fit")
		}
		whole := q.Answer(sent)
		for _, b := range [][]byte{q.Fail(), q.Cut(whole), whole} {
			if !bytes.Equal(b[:2], raw[:2]) {
				t.Fatalf("ID %x, want %x", b[:2], raw[:2])
			}
			var p dnsmessage.Parser
			if h, err := p.Start(b); err != nil || !h.Response {
				t.Fatalf("%v, %+v", err, h)
			}
			got, err := p.Question()
			if err != nil {
				t.Fatal(err)
			}
			var o dnsmessage.Parser
			o.Start(raw)
			if want, _ := o.Question(); got != want {
				t.Fatalf("question %v, want %v", got, want)
			}
		}
		if q.Fits(0x4242, noise, answer) {
			q.Answer(answer)
		}
	})
}

// What isn't a question to forward gets an error, or is ignored.
func TestServerRefuses(t *testing.T) {
	ns := newNameserver(t, records(1))
	s := serve(t, &dialer{}, dns.Config{}, ns)
	asked := question(t, 5, "example.com.", dnsmessage.TypeA, 0)
	edit := func(f func([]byte) []byte) []byte { return f(bytes.Clone(asked)) }
	for _, tc := range []struct {
		name string
		raw  []byte
		want dnsmessage.RCode
	}{
		{"an update", edit(func(b []byte) []byte { b[2] |= 5 << 3; return b }), dnsmessage.RCodeNotImplemented},
		{"a zone transfer", question(t, 5, "example.com.", dnsmessage.TypeAXFR, 0), dnsmessage.RCodeNotImplemented},
		{"no question", edit(func(b []byte) []byte { b[5] = 0; return b[:12] }), dnsmessage.RCodeFormatError},
		{"two questions", edit(func(b []byte) []byte { b[5] = 2; return append(b, b[12:]...) }), dnsmessage.RCodeFormatError},
		{"cut short", asked[:len(asked)-3], dnsmessage.RCodeFormatError},
		{"a missing record", edit(func(b []byte) []byte { b[11] = 1; return b }), dnsmessage.RCodeFormatError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, network := range []string{"udp", "tcp"} {
				got := s.ask(t, network, tc.raw)
				var p dnsmessage.Parser
				if h, err := p.Start(got); err != nil || h.ID != 5 || !h.Response || h.RCode != tc.want {
					t.Errorf("over %s: %v, %+v, want %v", network, err, h, tc.want)
				}
			}
		})
	}
	if n := ns.udp.Load() + ns.tcp.Load(); n != 0 {
		t.Errorf("the nameserver got %d of them", n)
	}
}
