package netstack_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"netstackd/internal/ippkt"
	"netstackd/internal/netstack"
	"netstackd/tun/tuntest"
)

// What an application's connect returns for each way to end a request.
func TestRequestErrnos(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*netstack.Request)
		want error
	}{
		{"refuse", (*netstack.Request).Refuse, syscall.ECONNREFUSED},
		{"host", func(r *netstack.Request) { r.Unreachable(ippkt.HostUnreachable) }, syscall.EHOSTUNREACH},
		{"net", func(r *netstack.Request) { r.Unreachable(ippkt.NetUnreachable) }, syscall.ENETUNREACH},
	} {
		for _, dest := range []netip.Addr{foreignV4, foreignV6} {
			if c.want == syscall.EHOSTUNREACH && dest.Is6() {
				continue // gVisor as a client does not know ICMPv6's code for it
			}
			t.Run(c.name+"/"+dest.String(), func(t *testing.T) {
				app, _ := pair(t, tuntest.Config{}, netstack.Config{Connect: c.end})
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				conn, err := app.DialContext(ctx, nil, "tcp", netip.AddrPortFrom(dest, 80).String())
				if err == nil {
					conn.Close()
				}
				isErr(t, err, c.want)
			})
		}
	}
}

// Linux believes an ICMP error about a connection if it comes with the quoted
// sequence number, and takes its errno from the code.
func TestRequestUnreachableQuotesSYN(t *testing.T) {
	codes := map[ippkt.Unreachable][2]uint8{ // RFC 792 and RFC 1812, RFC 4443
		ippkt.NetUnreachable: {0, 0}, ippkt.HostUnreachable: {1, 3},
		ippkt.PortUnreachable: {3, 4}, ippkt.AdminProhibited: {13, 1},
	}
	for why, code := range codes {
		for i, a := range []netip.Addr{appV4.Addr(), appV6.Addr()} {
			dev, _ := alone(t, tuntest.Config{}, netstack.Config{Connect: func(r *netstack.Request) { r.Unreachable(why) }})
			from, to := netip.AddrPortFrom(a, 4000), netip.AddrPortFrom([]netip.Addr{foreignV4, foreignV6}[i], 80)
			syn := tcp(from, to, flagSYN, 0xabcd1234, 0, nil)
			inject(t, dev, syn)
			got := parseUnreachable(t, answer(t, dev))
			if got.src != to.Addr() || got.dst != a || got.code != code[i] {
				t.Errorf("reason %d: code %d from %s to %s, want code %d", why, got.code, got.src, got.dst, code[i])
			}
			if len(got.quote) < len(syn)-20+8 || !bytes.HasPrefix(syn, got.quote) {
				t.Errorf("quote %x of %x", got.quote, syn)
			}
			silence(t, dev)
		}
	}
}

func TestRequestIgnoreIsSilence(t *testing.T) {
	requests := make(chan *netstack.Request, 10)
	dev, _ := alone(t, tuntest.Config{}, netstack.Config{Connect: func(r *netstack.Request) { requests <- r }})
	from, to := netip.AddrPortFrom(appV4.Addr(), 4000), netip.AddrPortFrom(foreignV4, 80)
	syn := tcp(from, to, flagSYN, 77, 0, nil)
	for range 3 {
		inject(t, dev, syn)
		r := recv(t, requests)
		if r.Source() != from || r.Dest() != to {
			t.Fatalf("request from %s to %s", r.Source(), r.Dest())
		}
		inject(t, dev, syn) // pending: the same request
		silence(t, dev)
		r.Ignore()
		silence(t, dev)
		if len(requests) != 0 {
			t.Fatal("a repeated SYN made a second request")
		}
	}
}

func TestRequestAcceptAfterAppGaveUp(t *testing.T) {
	requests := make(chan *netstack.Request, 1)
	dev, _ := alone(t, tuntest.Config{}, netstack.Config{Connect: func(r *netstack.Request) { requests <- r }})
	from, to := netip.AddrPortFrom(appV4.Addr(), 4000), netip.AddrPortFrom(foreignV4, 80)
	inject(t, dev, tcp(from, to, flagSYN, 77, 0, nil))
	r := recv(t, requests)
	failed := make(chan error, 1)
	go func() {
		_, err := r.Accept(t.Context())
		failed <- err
	}()
	synack := parse(t, answer(t, dev))
	if synack.payload[13] != flagSYN|flagACK || be.Uint32(synack.payload[8:]) != 78 {
		t.Fatalf("not a SYN-ACK: %x", synack.payload)
	}
	// An application's kernel that knows nothing of a connection any more.
	inject(t, dev, tcp(from, to, flagRST, 78, 0, nil))
	isErr(t, recv(t, failed), syscall.ECONNREFUSED)
	// The next SYN is a new request.
	inject(t, dev, tcp(from, to, flagSYN, 99, 0, nil))
	recv(t, requests).Ignore()
}

// A handshake whose ACK never comes ends with its context, and the connection's
// next SYN is a new request. It is a canary as well: Accept relies on what
// gVisor does with an event that comes early.
func TestRequestAcceptAbandoned(t *testing.T) {
	requests := make(chan *netstack.Request, 1)
	dev, _ := alone(t, tuntest.Config{}, netstack.Config{Connect: func(r *netstack.Request) { requests <- r }})
	from, to := netip.AddrPortFrom(appV4.Addr(), 4000), netip.AddrPortFrom(foreignV4, 80)
	why := errors.New("enough")
	for i := range 10 {
		inject(t, dev, tcp(from, to, flagSYN, uint32(77+i), 0, nil))
		r := recv(t, requests)
		ctx, cancel := context.WithCancelCause(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, err := r.Accept(ctx)
			failed <- err
		}()
		for synack := parse(t, answer(t, dev)); synack.payload[13] != flagSYN|flagACK; {
			synack = parse(t, answer(t, dev)) // what follows the end of the one before
		}
		cancel(why)
		isErr(t, recv(t, failed), why)
	}
	inject(t, dev, tcp(from, to, flagSYN, 99, 0, nil))
	r := recv(t, requests)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why) // before the handshake begins
	_, err := r.Accept(ctx)
	isErr(t, err, why)
}

// All that is not ours to serve looks closed.
func TestClosedPorts(t *testing.T) {
	for i, own := range []netip.Addr{ownV4.Addr(), ownV6.Addr(), foreignV4, foreignV6} {
		dev, _ := alone(t, tuntest.Config{}, netstack.Config{}) // takes nothing foreign
		from := netip.AddrPortFrom([]netip.Addr{appV4.Addr(), appV6.Addr()}[i%2], 4000)
		to := netip.AddrPortFrom(own, 9)
		inject(t, dev, tcp(from, to, flagSYN, 77, 0, nil))
		got := parse(t, answer(t, dev))
		if got.proto != protoTCP || got.payload[13] != flagRST|flagACK || be.Uint32(got.payload[8:]) != 78 || got.src != own {
			t.Errorf("%s: answer to SYN %+v", own, got)
		}
		inject(t, dev, tcp(from, to, flagACK, 77, 555, []byte("stray")))
		got = parse(t, answer(t, dev))
		if got.payload[13]&flagRST == 0 || be.Uint32(got.payload[4:]) != 555 {
			t.Errorf("%s: answer to a stray segment %+v", own, got)
		}
		inject(t, dev, tcp(from, to, flagRST, 77, 555, nil)) // never answer a reset
		d := udp(from, to, []byte("anybody?"))
		inject(t, dev, d)
		u := parseUnreachable(t, answer(t, dev))
		if want := []uint8{3, 4}[i%2]; u.code != want || u.src != own || !bytes.HasPrefix(d, u.quote) || len(u.quote) < len(d)-8 {
			t.Errorf("%s: answer to a datagram %+v", own, u)
		}
		silence(t, dev)
	}
}

func TestRequestDSCP(t *testing.T) {
	const expedited, ect = 46 << 2, 1 // RFC 3246, RFC 3168
	for _, to := range []netip.Addr{foreignV4, foreignV6} {
		requests := make(chan *netstack.Request, 1)
		dev, _ := alone(t, tuntest.Config{}, netstack.Config{Connect: func(r *netstack.Request) { requests <- r }})
		from := appV4.Addr()
		if to.Is6() {
			from = appV6.Addr()
		}
		syn := tcp(netip.AddrPortFrom(from, 5555), netip.AddrPortFrom(to, 80), flagSYN, 1, 0, nil)
		if to.Is4() {
			syn[1] = expedited | ect
			be.PutUint16(syn[10:], 0)
			be.PutUint16(syn[10:], sum(syn[:20]))
		} else {
			be.PutUint16(syn, 6<<12|(expedited|ect)<<4)
		}
		inject(t, dev, syn)
		r := recv(t, requests)
		if got := r.DSCP(); got != expedited {
			t.Errorf("%s: %#x, want %#x", to, got, expedited)
		}
		r.Refuse()
	}
}
