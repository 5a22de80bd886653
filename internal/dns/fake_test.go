package dns_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"netstackd/internal/dns"
	"netstackd/internal/flow"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nameserver is one that does what a test says.
type nameserver struct {
	addr     netip.AddrPort
	udp, tcp atomic.Int64 // questions
	conns    atomic.Int64 // TCP connections
	hangUp   atomic.Bool  // close a connection after one answer
}

// newNameserver starts one. What answer returns is sent back, in order; none is
// silence. It is called by many goroutines.
func newNameserver(t testing.TB, answer func(network string, question []byte) [][]byte) *nameserver {
	t.Helper()
	p, l := listen(t)
	n := &nameserver{addr: p.LocalAddr().(*net.UDPAddr).AddrPort()}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65535)
		for {
			size, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			n.udp.Add(1)
			question := append([]byte(nil), buf[:size]...)
			wg.Go(func() {
				for _, b := range answer("udp", question) {
					p.WriteTo(b, from)
				}
			})
		}
	})
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.conns.Add(1)
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				for {
					b, err := readTCP(c)
					if err != nil {
						return
					}
					n.tcp.Add(1)
					for _, b := range answer("tcp", b) {
						writeTCP(c, b)
					}
					if n.hangUp.Load() {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		p.Close()
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return n
}

// listen returns sockets for UDP and TCP on one port.
func listen(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 100 {
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", p.LocalAddr().String())
		if err == nil {
			return p, l
		}
		p.Close()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

func readTCP(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeTCP(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

// records answers every question with n addresses.
func records(n int) func(string, []byte) [][]byte {
	return func(_ string, question []byte) [][]byte { return [][]byte{reply(question, 0, n)} }
}

// reply answers a question with a code and n addresses, whose owner is a pointer
// to the question's name.
func reply(question []byte, code dnsmessage.RCode, n int) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		return nil
	}
	m.Header.Response = true
	m.Header.RecursionAvailable = true
	m.Header.RCode = code
	m.Additionals = nil
	for i := range n {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, byte(i >> 8), byte(i)}},
		})
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// dialer dials from this host and counts; fail may refuse.
type dialer struct {
	net.Dialer
	udp, tcp atomic.Int64
	fail     func(network, address string) error
}

func (d *dialer) DialContext(ctx context.Context, m *flow.Meta, network, address string) (net.Conn, error) {
	if m == nil || m.Inbound != flow.Internal || m.Network != network || m.Dest.String() != address {
		return nil, errors.New("metadata that doesn't fit")
	}
	if network == "udp" {
		d.udp.Add(1)
	} else {
		d.tcp.Add(1)
	}
	if d.fail != nil {
		if err := d.fail(network, address); err != nil {
			return nil, err
		}
	}
	return d.Dialer.DialContext(ctx, network, address)
}

// server is a dns.Server and where it listens.
type server struct {
	*dns.Server
	addr string
}

func serve(t testing.TB, d dns.Dialer, cfg dns.Config, nameservers ...*nameserver) *server {
	t.Helper()
	if cfg.Servers == nil {
		var addrs []netip.AddrPort
		for _, n := range nameservers {
			addrs = append(addrs, n.addr)
		}
		cfg.Servers = func() []netip.AddrPort { return addrs }
	}
	s := dns.New(d, cfg)
	p, l := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, []net.PacketConn{p}, []net.Listener{l}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &server{s, p.LocalAddr().String()}
}

// ask sends a question and returns the raw answer.
func (s *server) ask(t testing.TB, network string, question []byte) []byte {
	t.Helper()
	c, err := net.Dial(network, s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if network == "tcp" {
		if err := writeTCP(c, question); err != nil {
			t.Fatal(err)
		}
		b, err := readTCP(c)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := c.Write(question); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 65535)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// question is a query for a name; size is that of EDNS, 0 for none.
func question(t testing.TB, id uint16, name string, typ dnsmessage.Type, size int) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	err := errors.Join(b.StartQuestions(), b.Question(dnsmessage.Question{
		Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}))
	if size > 0 {
		var h dnsmessage.ResourceHeader
		err = errors.Join(err, b.StartAdditionals(), h.SetEDNS0(size, 0, false), b.OPTResource(h, dnsmessage.OPTResource{}))
	}
	msg, err2 := b.Finish()
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return msg
}

// unpack reads an answer and checks that it fits the question.
func unpack(t testing.TB, asked, answer []byte) dnsmessage.Message {
	t.Helper()
	var q, a dnsmessage.Message
	if err := errors.Join(q.Unpack(asked), a.Unpack(answer)); err != nil {
		t.Fatalf("%v: %q", err, answer)
	}
	if a.ID != q.ID || !a.Response || len(a.Questions) != 1 || a.Questions[0] != q.Questions[0] {
		t.Fatalf("answer %+v for %+v", a, q)
	}
	return a
}

// name is different for each i.
func name(i int) string { return "host" + strconv.Itoa(i) + ".Example.COM." }
