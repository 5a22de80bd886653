package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// This file is just enough of nf_tables' netlink protocol (linux/netfilter/
// nf_tables.h) to make a table that belongs to a socket: the kernel removes it
// with the socket, and so with a killed process. The nft program can't hold one.

// What x/sys/unix lacks of that header.
const (
	nftTableOwner     = 0x2 // NFT_TABLE_F_OWNER
	nftSocketWildcard = 2   // NFT_SOCKET_WILDCARD
	nftSocketMark     = 1   // NFT_SOCKET_MARK
	nftaSocketKey     = 1   // NFTA_SOCKET_KEY
	nftaSocketDreg    = 2   // NFTA_SOCKET_DREG
)

// nftAttr is one netlink attribute, or several.
type nftAttr []byte

func attr(kind uint16, data []byte) nftAttr {
	b := make([]byte, 4, 4+len(data)+3)
	binary.NativeEndian.PutUint16(b, uint16(4+len(data)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	b = append(b, data...)
	return append(b, make([]byte, -len(data)&3)...)
}

func nested(kind uint16, inner ...nftAttr) nftAttr {
	return attr(kind|unix.NLA_F_NESTED, slices.Concat(inner...))
}

func u32(kind uint16, v uint32) nftAttr { return attr(kind, binary.BigEndian.AppendUint32(nil, v)) }
func str(kind uint16, s string) nftAttr { return attr(kind, append([]byte(s), 0)) }

// nftBatch is one transaction: all of it happens or nothing.
type nftBatch struct {
	buf []byte
	seq uint32
}

func (b *nftBatch) message(kind, flags uint16, family byte, resource uint16, attrs ...nftAttr) {
	body := slices.Concat(attrs...)
	b.seq++
	h := make([]byte, unix.SizeofNlMsghdr+4)
	binary.NativeEndian.PutUint32(h, uint32(len(h)+len(body)))
	binary.NativeEndian.PutUint16(h[4:], kind)
	flags |= unix.NLM_F_REQUEST
	if kind != unix.NFNL_MSG_BATCH_BEGIN && kind != unix.NFNL_MSG_BATCH_END { // newer kernels answer these too
		flags |= unix.NLM_F_ACK
	}
	binary.NativeEndian.PutUint16(h[6:], flags)
	binary.NativeEndian.PutUint32(h[8:], b.seq)
	h[16] = family // struct nfgenmsg: family, version, resource
	binary.BigEndian.PutUint16(h[18:], resource)
	b.buf = append(append(b.buf, h...), body...)
}

func newNFTBatch() *nftBatch {
	b := &nftBatch{}
	b.message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	return b
}

func (b *nftBatch) add(kind uint16, attrs ...nftAttr) {
	b.message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_APPEND,
		unix.NFPROTO_INET, 0, attrs...)
}

func (b *nftBatch) addRule(table, chain string, exprs ...nftAttr) {
	b.add(unix.NFT_MSG_NEWRULE, str(unix.NFTA_RULE_TABLE, table), str(unix.NFTA_RULE_CHAIN, chain),
		nested(unix.NFTA_RULE_EXPRESSIONS, exprs...))
}

func expr(name string, attrs ...nftAttr) nftAttr {
	return nested(unix.NFTA_LIST_ELEM, str(unix.NFTA_EXPR_NAME, name), nested(unix.NFTA_EXPR_DATA, attrs...))
}

// The expressions that we use. A comparison that fails ends the rule.

func nftMeta(key, dreg uint32) nftAttr {
	return expr("meta", u32(unix.NFTA_META_KEY, key), u32(unix.NFTA_META_DREG, dreg))
}

func nftSocket(key, dreg uint32) nftAttr {
	return expr("socket", u32(nftaSocketKey, key), u32(nftaSocketDreg, dreg))
}

func nftCompare(sreg, op uint32, value []byte) nftAttr {
	return expr("cmp", u32(unix.NFTA_CMP_SREG, sreg), u32(unix.NFTA_CMP_OP, op),
		nested(unix.NFTA_CMP_DATA, attr(unix.NFTA_DATA_VALUE, value)))
}

func nftLoad(base, offset, length, dreg uint32) nftAttr {
	return expr("payload", u32(unix.NFTA_PAYLOAD_DREG, dreg), u32(unix.NFTA_PAYLOAD_BASE, base),
		u32(unix.NFTA_PAYLOAD_OFFSET, offset), u32(unix.NFTA_PAYLOAD_LEN, length))
}

func nftLookup(set string, sreg uint32, dreg ...uint32) nftAttr {
	attrs := []nftAttr{str(unix.NFTA_LOOKUP_SET, set), u32(unix.NFTA_LOOKUP_SREG, sreg)}
	for _, d := range dreg {
		attrs = append(attrs, u32(unix.NFTA_LOOKUP_DREG, d))
	}
	return expr("lookup", attrs...)
}

// nftRemember adds a key to a set, or a key and a value to a map. For one that is
// there already it restarts the timeout.
func nftRemember(set string, key uint32, value ...uint32) nftAttr {
	attrs := []nftAttr{str(unix.NFTA_DYNSET_SET_NAME, set), u32(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_UPDATE),
		u32(unix.NFTA_DYNSET_SREG_KEY, key)}
	for _, v := range value {
		attrs = append(attrs, u32(unix.NFTA_DYNSET_SREG_DATA, v))
	}
	return expr("dynset", attrs...)
}

func nftImmediate(dreg uint32, value []byte) nftAttr {
	return expr("immediate", u32(unix.NFTA_IMMEDIATE_DREG, dreg),
		nested(unix.NFTA_IMMEDIATE_DATA, attr(unix.NFTA_DATA_VALUE, value)))
}

func nftAccept() nftAttr {
	const accept = 1 // NF_ACCEPT
	return expr("immediate", u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
		nested(unix.NFTA_IMMEDIATE_DATA, nested(unix.NFTA_DATA_VERDICT, u32(unix.NFTA_VERDICT_CODE, accept))))
}

// openNFT opens a socket for batches. Tables that it owns live as long as it.
func openNFT() (*os.File, error) {
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
	return f, nil
}

// commit sends the batch over f and waits for the kernel's answer to each part.
func (b *nftBatch) commit(f *os.File) error {
	fd := int(f.Fd())
	// Large sets make large batches. Without the privilege the default holds.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*len(b.buf)+1<<16)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20)
	b.message(unix.NFNL_MSG_BATCH_END, 0, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	if err := unix.Sendto(fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	// Begin and end are answered only if they fail, and with them the whole batch.
	var errs []error
	buf := make([]byte, 1<<16)
	for pending := b.seq - 2; pending > 0; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return errors.Join(append(errs, os.NewSyscallError("recvfrom", err))...)
		}
		for m := buf[:n]; len(m) >= unix.SizeofNlMsghdr+4; {
			size := binary.NativeEndian.Uint32(m)
			if size < unix.SizeofNlMsghdr+4 || int(size) > len(m) {
				return errors.New("nf_tables: malformed answer")
			}
			if binary.NativeEndian.Uint16(m[4:]) == unix.NLMSG_ERROR {
				seq := binary.NativeEndian.Uint32(m[8:])
				if code := int32(binary.NativeEndian.Uint32(m[16:])); code != 0 {
					errs = append(errs, fmt.Errorf("nf_tables: part %d: %w", seq, unix.Errno(-code)))
				}
				if seq == 1 || seq == b.seq { // the whole batch
					return errors.Join(errs...)
				}
				pending--
			}
			m = m[min(len(m), int(size+3)&^3):]
		}
	}
	return errors.Join(errs...)
}
