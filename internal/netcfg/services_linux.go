package netcfg

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"netstackd/internal/nft"
)

// A UDP service that is bound to no address, and doesn't look which of its own
// a question came to, leaves the source of its answer to the kernel. To the
// routing rules that answer looks like a new flow: it would leave through the
// TUN, with the TUN's address, and its client would not know it. A TCP
// connection always has its address, so this is about UDP only.
//
// Two chains put that right, without the state of a connection. They remember
// clients, by address, port and the service's port, with the address asked:
//
//	input   from outside, to a socket without an address: remember the client
//	output  into the TUN, from the TUN's address, to a remembered client: send
//	        from the address asked. The kernel then routes the packet again, and
//	        by that source it leaves as it would have without us
//	input   from a client that was answered so: to the TUN's address, since
//	        the service may have connected its socket to the client
//
// Output comes before connection tracking, input after the user's filters, so
// that both see the addresses that the client sees.
//
// Sources can be forged, and a full set takes no more clients. So how long a
// client is remembered depends on what it did, and each kind has its own set:
//
//	asked     sent a question                              30 s
//	answered  got an answer                                30 s
//	served    sent a question after an answer              5 min (RFC 4787 REQ-5)
//	crowd     sent a question when asked was full          1 s
//
// A flood of forged questions fills asked and answered. Then clients that are
// served keep their places, and others have the second of crowd for an answer.

const (
	priorityOutput = -300 // NF_IP_PRI_RAW
	priorityInput  = 200  // after NF_IP_PRI_SECURITY, before helpers
)

// header is what the IP headers of the two families differ in.
type header struct {
	nfproto          byte
	addrType, length uint32 // of an address: nft's type number, bytes
	src, dst         uint32 // offsets in the IP header
	sport, dport     uint32 // registers after an address in the first
	csumType         uint32 // of the IP header
	suffix           string // of its sets' names
}

func headerOf(f family) header {
	if f == ipv4 {
		return header{unix.NFPROTO_IPV4, 7, 4, 12, 16, unix.NFT_REG32_01, unix.NFT_REG32_02,
			unix.NFT_PAYLOAD_CSUM_INET, "4"}
	}
	return header{unix.NFPROTO_IPV6, 8, 16, 8, 24, unix.NFT_REG32_04, unix.NFT_REG32_05,
		unix.NFT_PAYLOAD_CSUM_NONE, "6"}
}

// serveUDP makes the two chains. They live as long as the returned file.
func serveUDP(name string, index int, mark uint32, addresses []netip.Prefix) (*os.File, error) {
	f, err := nft.Open()
	if err != nil {
		return nil, err
	}
	b := nft.NewBatch()
	b.Add(unix.NFT_MSG_NEWTABLE, nft.String(unix.NFTA_TABLE_NAME, name), nft.U32(unix.NFTA_TABLE_FLAGS, nft.TableOwner))
	b.AddChain(name, "input", "filter", 1 /* NF_INET_LOCAL_IN */, priorityInput)
	b.AddChain(name, "output", "route", 3 /* NF_INET_LOCAL_OUT */, priorityOutput)
	tun := binary.NativeEndian.AppendUint32(nil, uint32(index))
	loopback := binary.NativeEndian.AppendUint32(nil, 1)
	b.AddRule(name, "input", nft.Meta(unix.NFT_META_L4PROTO, 1), nft.Compare(1, unix.NFT_CMP_NEQ, []byte{protoUDP}), nft.Accept())
	for _, iif := range [][]byte{loopback, tun} {
		b.AddRule(name, "input", nft.Meta(unix.NFT_META_IIF, 1), nft.Compare(1, unix.NFT_CMP_EQ, iif), nft.Accept())
	}
	if mark != 0 { // what our own sockets get is no question
		b.AddRule(name, "input", nft.Socket(nft.SocketMark, 1),
			nft.Compare(1, unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, mark)), nft.Accept())
	}
	for _, a := range addresses {
		if a.Addr().Is4() {
			serve(b, name, headerOf(ipv4), tun, a.Addr())
		} else {
			serve(b, name, headerOf(ipv6), tun, a.Addr())
		}
	}
	if err := b.Commit(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// clientSet is one set of remembered clients.
type clientSet struct {
	name string
	size uint32 // clients; the kernel allocates 16 bytes for each in advance
	life time.Duration
}

// serve adds the sets and rules of one family, as the comment at the top has them.
func serve(b *nft.Batch, table string, f header, tun []byte, addr netip.Addr) {
	// A key has up to six 32-bit registers from the first on.
	const key, asked, own = unix.NFT_REG_1, unix.NFT_REG_3, unix.NFT_REG_4
	var (
		askedSet    = clientSet{"asked" + f.suffix, 1 << 15, 30 * time.Second}
		answeredSet = clientSet{"answered" + f.suffix, 1 << 15, 30 * time.Second}
		servedSet   = clientSet{"served" + f.suffix, 1 << 16, 5 * time.Minute}
		crowdSet    = clientSet{"crowd" + f.suffix, 1 << 17, time.Second}
	)
	for _, s := range []clientSet{askedSet, answeredSet, servedSet, crowdSet} {
		addSet(b, table, f, s)
	}
	load := func(at, dreg uint32) nft.Attr {
		return nft.Load(unix.NFT_PAYLOAD_NETWORK_HEADER, at, f.length, dreg)
	}
	port := func(at, dreg uint32) nft.Attr { return nft.Load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, at, 2, dreg) }
	remember := func(s clientSet) nft.Attr { return nft.Remember(s.name, key, asked) }
	isFamily := slices.Concat(nft.Meta(unix.NFT_META_NFPROTO, 1), nft.Compare(1, unix.NFT_CMP_EQ, []byte{f.nfproto}))

	// A question that has been moved to our own address matches no rule after that.
	question := slices.Concat(isFamily,
		load(f.src, key), port(0, f.sport), port(2, f.dport),
		load(f.dst, asked), nft.Compare(asked, unix.NFT_CMP_NEQ, addr.AsSlice()))
	move := slices.Concat(nft.Immediate(own, addr.AsSlice()), f.write(f.dst, own))
	b.AddRule(table, "input", question, nft.Lookup(servedSet.name, key), move, remember(servedSet))
	b.AddRule(table, "input", question, nft.Lookup(answeredSet.name, key), move,
		remember(answeredSet), remember(servedSet))
	wildcard := slices.Concat(nft.Socket(nft.SocketWildcard, 1), nft.Compare(1, unix.NFT_CMP_EQ, []byte{1}))
	b.AddRule(table, "input", wildcard, question, remember(askedSet), nft.Accept())
	b.AddRule(table, "input", wildcard, question, remember(crowdSet))

	// An answer that has got its source matches no rule after that either.
	answer := slices.Concat(
		nft.Meta(unix.NFT_META_OIF, 1), nft.Compare(1, unix.NFT_CMP_EQ, tun),
		nft.Meta(unix.NFT_META_L4PROTO, 1), nft.Compare(1, unix.NFT_CMP_EQ, []byte{protoUDP}),
		isFamily, load(f.src, asked), nft.Compare(asked, unix.NFT_CMP_EQ, addr.AsSlice()),
		load(f.dst, key), port(2, f.sport), port(0, f.dport))
	for _, r := range []struct{ from, to clientSet }{
		{servedSet, servedSet}, {answeredSet, answeredSet}, {askedSet, answeredSet}, {crowdSet, answeredSet},
	} {
		b.AddRule(table, "output", answer, nft.Lookup(r.from.name, key, asked), f.write(f.src, asked),
			// Read back from the packet: nft 1.0 fails to print a value that
			// comes from a map. A full set ends the rule, but the packet is done.
			load(f.src, asked), remember(r.to))
	}
}

// addSet makes a map from clients to the address of ours that they asked.
func addSet(b *nft.Batch, table string, f header, s clientSet) {
	const portType = 13 // nft's inet_service
	b.Add(unix.NFT_MSG_NEWSET,
		nft.String(unix.NFTA_SET_TABLE, table), nft.String(unix.NFTA_SET_NAME, s.name),
		nft.U32(unix.NFTA_SET_KEY_TYPE, f.addrType<<12|portType<<6|portType), // as nft prints it
		nft.U32(unix.NFTA_SET_KEY_LEN, f.length+4+4),
		nft.U32(unix.NFTA_SET_ID, b.Seq()),
		nft.Nested(unix.NFTA_SET_DESC, nft.U32(unix.NFTA_SET_DESC_SIZE, s.size)),
		nft.Bytes(unix.NFTA_SET_TIMEOUT, binary.BigEndian.AppendUint64(nil, uint64(s.life.Milliseconds()))),
		nft.U32(unix.NFTA_SET_DATA_TYPE, f.addrType), nft.U32(unix.NFTA_SET_DATA_LEN, f.length),
		nft.U32(unix.NFTA_SET_FLAGS, unix.NFT_SET_TIMEOUT|unix.NFT_SET_EVAL|unix.NFT_SET_MAP))
}

// write replaces an address in the IP header and mends the checksums, UDP's too.
func (f header) write(offset, sreg uint32) nft.Attr {
	const headerChecksum = 10 // in an IPv4 header
	attrs := []nft.Attr{
		nft.U32(unix.NFTA_PAYLOAD_SREG, sreg), nft.U32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER),
		nft.U32(unix.NFTA_PAYLOAD_OFFSET, offset), nft.U32(unix.NFTA_PAYLOAD_LEN, f.length),
		nft.U32(unix.NFTA_PAYLOAD_CSUM_TYPE, f.csumType), nft.U32(unix.NFTA_PAYLOAD_CSUM_FLAGS, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR),
	}
	if f.csumType != unix.NFT_PAYLOAD_CSUM_NONE {
		attrs = append(attrs, nft.U32(unix.NFTA_PAYLOAD_CSUM_OFFSET, headerChecksum))
	}
	return nft.Expr("payload", attrs...)
}
