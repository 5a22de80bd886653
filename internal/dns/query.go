package dns

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	headerLen  = 12
	maxMessage = 65535 // the length prefix of TCP has 16 bits (RFC 1035 §4.2.2)
	minUDP     = 512   // what every program takes over UDP (RFC 1035 §4.2.1)
	maxUDP     = 4096  // what we send at most, whatever a program says it takes

	// Offsets and bits in the header (RFC 1035 §4.1.1).
	offFlags = 2
	offCount = 4 // QDCOUNT, ANCOUNT, NSCOUNT, ARCOUNT
	bitRD    = 0x01
	bitTC    = 0x02
	bitQR    = 0x80
)

// query is a program's question.
type query struct {
	raw      []byte // the message as it came
	question []byte // its question section, a part of raw
	id       uint16
	name     string // for the log
	typ      dnsmessage.Type
	class    dnsmessage.Class
	edns     bool
	udpSize  int // what the program takes over UDP
}

// Errors of parseQuery.
var (
	errIgnore   = errors.New("not a query") // gets no answer
	errMalform  = errors.New("malformed query")
	errNotForUs = errors.New("not a question")
)

// parseQuery reads as much of raw, which it keeps, as a forwarder has to know.
func parseQuery(raw []byte) (*query, error) {
	var p dnsmessage.Parser
	h, err := p.Start(raw)
	if err != nil || h.Response {
		return nil, errIgnore
	}
	q := &query{raw: raw, id: h.ID, udpSize: minUDP}
	if h.OpCode != 0 {
		return q, errNotForUs
	}
	question, err := p.Question()
	if err != nil || binary.BigEndian.Uint16(raw[offCount:]) != 1 {
		return q, errMalform
	}
	q.name, q.typ, q.class = question.Name.String(), question.Type, question.Class
	end := headerLen + nameLen(raw[headerLen:]) + 4
	if end > len(raw) || end <= headerLen+4 {
		return q, errMalform // its name ends in a pointer
	}
	q.question = raw[headerLen:end]
	if q.typ == dnsmessage.TypeAXFR || q.typ == typeIXFR {
		return q, errNotForUs // their answers are many messages
	}
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, errMalform
	}
	for {
		rr, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return q, nil
		}
		if err != nil || p.SkipAdditional() != nil {
			return q, errMalform
		}
		if rr.Type == dnsmessage.TypeOPT { // RFC 6891 §6.1.2: the class is the size
			q.edns = true
			q.udpSize = min(max(int(rr.Class), minUDP), maxUDP)
		}
	}
}

const typeIXFR dnsmessage.Type = 251 // RFC 1995

// nameLen is the length of an uncompressed name, 0 if it isn't one.
func nameLen(b []byte) int {
	for i := 0; i < len(b); i += 1 + int(b[i]) {
		switch {
		case b[i] == 0:
			return i + 1
		case b[i] > 63:
			return 0
		}
	}
	return 0
}

// outgoing is a question as a nameserver gets it.
type outgoing struct {
	msg      []byte
	question []byte // a part of msg
}

// ask returns the query with another ID and, where the bits of noise are set, the
// other case of its name's letters.
func (q *query) ask(id uint16, noise []byte) outgoing {
	msg := bytes.Clone(q.raw)
	binary.BigEndian.PutUint16(msg, id)
	question := msg[headerLen : headerLen+len(q.question)]
	for i := range len(question) - 4 { // its type and class follow the name
		c := question[i] &^ 0x20
		// A label's length is at most 63, less than any letter.
		if i < len(noise)*8 && 'A' <= c && c <= 'Z' && noise[i/8]&(1<<(i%8)) != 0 {
			question[i] ^= 0x20
		}
	}
	return outgoing{msg, question}
}

// How an answer fits.
type fit int

const (
	fits      fit = iota
	otherID       // late or forged: wait for another
	otherQ        // likewise
	otherCase     // the question, with letters in another case
)

// check says how an answer fits what was asked.
func (o outgoing) check(answer []byte) fit {
	if len(answer) < headerLen || answer[offFlags]&bitQR == 0 || !bytes.Equal(answer[:2], o.msg[:2]) {
		return otherID
	}
	if binary.BigEndian.Uint16(answer[offCount:]) != 1 || len(answer) < headerLen+len(o.question) {
		// Some servers leave the question out when they refuse.
		if binary.BigEndian.Uint16(answer[offCount:]) == 0 && len(answer) == headerLen && rcodeOf(answer) != 0 {
			return fits
		}
		return otherQ
	}
	got := answer[headerLen : headerLen+len(o.question)]
	switch {
	case bytes.Equal(got, o.question):
		return fits
	case bytes.EqualFold(got, o.question): // lengths are no letters, types hardly
		return otherCase
	}
	return otherQ
}

// answer makes the program's answer of a nameserver's, which it changes.
func (q *query) answer(msg []byte) []byte {
	binary.BigEndian.PutUint16(msg, q.id)
	if len(msg) >= headerLen+len(q.question) {
		// Names further on point here, so this restores their case too.
		copy(msg[headerLen:], q.question)
	}
	return msg
}

// cut is an answer that only says that it doesn't fit into UDP: the program
// asks again over TCP.
func (q *query) cut(msg []byte) []byte {
	short := append([]byte(nil), msg[:headerLen]...)
	short[offFlags] |= bitTC
	return q.finish(short)
}

// recursion reports whether the program wants an answer from wherever it is
// (RFC 1035 §4.1.1, RD).
func (q *query) recursion() bool { return q.raw[offFlags]&bitRD != 0 }

// fail is an answer of our own, without records.
func (q *query) fail(code dnsmessage.RCode) []byte {
	msg := append([]byte(nil), q.raw[:headerLen]...)
	msg[offFlags] = msg[offFlags]&0x79 | bitQR // opcode and RD stay as they are
	msg[offFlags+1] = 0x80 | byte(code)&0xf    // RA
	return q.finish(msg)
}

// finish appends the question, and what EDNS asks for, to a header.
func (q *query) finish(msg []byte) []byte {
	clear(msg[offCount:headerLen])
	if q.question == nil {
		return msg
	}
	msg[offCount+1] = 1
	msg = append(msg, q.question...)
	if q.edns { // RFC 6891 §6.1.1: a root name, OPT, our size, no flags, no options
		msg[offCount+7] = 1
		msg = append(msg, 0, 0, byte(dnsmessage.TypeOPT), maxUDP>>8, maxUDP&0xff, 0, 0, 0, 0, 0, 0)
	}
	return msg
}

func rcodeOf(msg []byte) dnsmessage.RCode { return dnsmessage.RCode(msg[offFlags+1] & 0xf) }

func truncated(msg []byte) bool { return msg[offFlags]&bitTC != 0 }
