package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A UDP service that is bound to no address, and doesn't look which of its own
// a question came to, leaves the source of its answer to the kernel. To the
// routing rules that answer looks like a new flow: it would leave through the
// TUN, with the TUN's address, and its client would not know it. A TCP
// connection always has its address, so this is about UDP only.
//
// Two chains put that right, without the state of a connection:
//
//	input   from elsewhere, to a socket without an address: remember
//	        client, client's port, service's port -> address asked
//	output  into the TUN, from the TUN's address, to a remembered client:
//	        answer from the address asked; the kernel then routes it again,
//	        and by that source it leaves as it would have without us
//	input   to a service that has answered so: from now on to the TUN's
//	        address, since it may have connected its socket to the client
//
// Output comes before connection tracking, input after the user's filters, so
// that both see the addresses that the client sees.
const (
	servedTimeout = 5 * time.Minute // RFC 4787 REQ-5
	servedSize    = 1 << 16

	priorityOutput = -300 // NF_IP_PRI_RAW
	priorityInput  = 200  // after NF_IP_PRI_SECURITY, before helpers
)

// nftFamily is what the two families' headers differ in.
type nftFamily struct {
	nfproto          byte
	addrType, length uint32 // of an address: nft's type number, bytes
	src, dst         uint32 // offsets in the IP header
	sport, dport     uint32 // registers after an address in the first
	csumType         uint32 // of the IP header
	served, moved    string
}

func nftFamilyOf(f family) nftFamily {
	if f == ipv4 {
		return nftFamily{unix.NFPROTO_IPV4, 7, 4, 12, 16, unix.NFT_REG32_01, unix.NFT_REG32_02,
			unix.NFT_PAYLOAD_CSUM_INET, "served4", "moved4"}
	}
	return nftFamily{unix.NFPROTO_IPV6, 8, 16, 8, 24, unix.NFT_REG32_04, unix.NFT_REG32_05,
		unix.NFT_PAYLOAD_CSUM_NONE, "served6", "moved6"}
}

// serveUDP makes the two chains. They live as long as the returned file.
func serveUDP(name string, index int, mark uint32, addresses []netip.Prefix) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "nf_tables")
	err = errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("nf_tables socket: %w", err)
	}
	b := newNFTBatch()
	b.add(unix.NFT_MSG_NEWTABLE, str(unix.NFTA_TABLE_NAME, name), u32(unix.NFTA_TABLE_FLAGS, nftTableOwner))
	b.addChain(name, "input", "filter", 1 /* NF_INET_LOCAL_IN */, priorityInput)
	b.addChain(name, "output", "route", 3 /* NF_INET_LOCAL_OUT */, priorityOutput)
	tun := binary.NativeEndian.AppendUint32(nil, uint32(index))
	loopback := binary.NativeEndian.AppendUint32(nil, 1)
	b.addRule(name, "input", nftMeta(unix.NFT_META_L4PROTO, 1), nftCompare(1, unix.NFT_CMP_NEQ, []byte{protoUDP}), nftAccept())
	for _, iif := range [][]byte{loopback, tun} {
		b.addRule(name, "input", nftMeta(unix.NFT_META_IIF, 1), nftCompare(1, unix.NFT_CMP_EQ, iif), nftAccept())
	}
	if mark != 0 { // what our own sockets get is no question
		b.addRule(name, "input", nftSocket(nftSocketMark, 1),
			nftCompare(1, unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, mark)), nftAccept())
	}
	for _, a := range addresses {
		if a.Addr().Is4() {
			b.serve(name, nftFamilyOf(ipv4), tun, a.Addr())
		} else {
			b.serve(name, nftFamilyOf(ipv6), tun, a.Addr())
		}
	}
	if err := b.commit(fd); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (b *nftBatch) addChain(table, name, kind string, hook uint32, priority int32) {
	b.add(unix.NFT_MSG_NEWCHAIN, str(unix.NFTA_CHAIN_TABLE, table), str(unix.NFTA_CHAIN_NAME, name),
		nested(unix.NFTA_CHAIN_HOOK, u32(unix.NFTA_HOOK_HOOKNUM, hook), u32(unix.NFTA_HOOK_PRIORITY, uint32(priority))),
		str(unix.NFTA_CHAIN_TYPE, kind))
}

// serve adds maps and rules of one family, as the comment at the top has them.
func (b *nftBatch) serve(table string, f nftFamily, tun []byte, addr netip.Addr) {
	const key, value = unix.NFT_REG_1, unix.NFT_REG_3
	b.addSet(table, f, f.served, true)
	b.addSet(table, f, f.moved, false)

	isFamily := []nftAttr{nftMeta(unix.NFT_META_NFPROTO, 1), nftCompare(1, unix.NFT_CMP_EQ, []byte{f.nfproto})}
	// The client is the source of a question and the destination of an answer.
	client := func(addrAt, clientPort, servicePort uint32) []nftAttr {
		return []nftAttr{
			nftLoad(unix.NFT_PAYLOAD_NETWORK_HEADER, addrAt, f.length, key),
			nftLoad(unix.NFT_PAYLOAD_TRANSPORT_HEADER, clientPort, 2, f.sport),
			nftLoad(unix.NFT_PAYLOAD_TRANSPORT_HEADER, servicePort, 2, f.dport),
		}
	}
	question := client(f.src, 0, 2)
	answer := client(f.dst, 2, 0)
	own := addr.AsSlice()

	b.addRule(table, "input", slices.Concat(isFamily,
		[]nftAttr{nftSocket(nftSocketWildcard, 1), nftCompare(1, unix.NFT_CMP_EQ, []byte{1})},
		question, []nftAttr{
			nftLoad(unix.NFT_PAYLOAD_NETWORK_HEADER, f.dst, f.length, value),
			nftRemember(f.served, key, value),
		})...)
	b.addRule(table, "input", slices.Concat(isFamily, question, []nftAttr{
		nftLookup(f.moved, key),
		nftImmediate(value, own),
		f.write(f.dst, value),
	})...)
	b.addRule(table, "output", slices.Concat(
		[]nftAttr{nftMeta(unix.NFT_META_OIF, 1), nftCompare(1, unix.NFT_CMP_EQ, tun)},
		[]nftAttr{nftMeta(unix.NFT_META_L4PROTO, 1), nftCompare(1, unix.NFT_CMP_EQ, []byte{protoUDP})},
		isFamily,
		[]nftAttr{nftLoad(unix.NFT_PAYLOAD_NETWORK_HEADER, f.src, f.length, 1), nftCompare(1, unix.NFT_CMP_EQ, own)},
		answer, []nftAttr{
			nftLookup(f.served, key, value),
			nftRemember(f.moved, key),
			f.write(f.src, value),
			// Remembered for as long as it is used. Read back from the packet:
			// nft 1.0 fails to print a value that comes from a map.
			nftLoad(unix.NFT_PAYLOAD_NETWORK_HEADER, f.src, f.length, value),
			nftRemember(f.served, key, value),
		})...)
}

// addSet makes a set of clients, or a map from them to an address of ours.
func (b *nftBatch) addSet(table string, f nftFamily, name string, isMap bool) {
	const portType = 13 // nft's inet_service
	flags := uint32(unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL)
	attrs := []nftAttr{
		str(unix.NFTA_SET_TABLE, table), str(unix.NFTA_SET_NAME, name),
		u32(unix.NFTA_SET_KEY_TYPE, f.addrType<<12|portType<<6|portType), // as nft prints it
		u32(unix.NFTA_SET_KEY_LEN, f.length+4+4),
		u32(unix.NFTA_SET_ID, b.seq),
		nested(unix.NFTA_SET_DESC, u32(unix.NFTA_SET_DESC_SIZE, servedSize)),
		attr(unix.NFTA_SET_TIMEOUT, binary.BigEndian.AppendUint64(nil, uint64(servedTimeout.Milliseconds()))),
	}
	if isMap {
		flags |= unix.NFT_SET_MAP
		attrs = append(attrs, u32(unix.NFTA_SET_DATA_TYPE, f.addrType), u32(unix.NFTA_SET_DATA_LEN, f.length))
	}
	b.add(unix.NFT_MSG_NEWSET, append(attrs, u32(unix.NFTA_SET_FLAGS, flags))...)
}

// write replaces an address in the IP header and mends the checksums, UDP's too.
func (f nftFamily) write(offset, sreg uint32) nftAttr {
	const headerChecksum = 10 // in an IPv4 header
	attrs := []nftAttr{
		u32(unix.NFTA_PAYLOAD_SREG, sreg), u32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER),
		u32(unix.NFTA_PAYLOAD_OFFSET, offset), u32(unix.NFTA_PAYLOAD_LEN, f.length),
		u32(unix.NFTA_PAYLOAD_CSUM_TYPE, f.csumType), u32(unix.NFTA_PAYLOAD_CSUM_FLAGS, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR),
	}
	if f.csumType != unix.NFT_PAYLOAD_CSUM_NONE {
		attrs = append(attrs, u32(unix.NFTA_PAYLOAD_CSUM_OFFSET, headerChecksum))
	}
	return expr("payload", attrs...)
}
