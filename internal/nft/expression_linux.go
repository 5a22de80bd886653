package nft

import (
	"golang.org/x/sys/unix"
)

// What x/sys/unix lacks of linux/netfilter/nf_tables.h.
const (
	TableOwner     = 0x2 // NFT_TABLE_F_OWNER
	SocketWildcard = 2   // NFT_SOCKET_WILDCARD
	SocketMark     = 1   // NFT_SOCKET_MARK
	attrSocketKey  = 1   // NFTA_SOCKET_KEY
	attrSocketDreg = 2   // NFTA_SOCKET_DREG
)

// Expr returns an expression with its attributes.
func Expr(name string, attrs ...Attr) Attr {
	return Nested(unix.NFTA_LIST_ELEM, String(unix.NFTA_EXPR_NAME, name), Nested(unix.NFTA_EXPR_DATA, attrs...))
}

// The expressions that netcfg uses. Those that load take a register, NFT_REG_….

// Meta loads a property of the packet (NFT_META_…) into a register.
func Meta(key, dreg uint32) Attr {
	return Expr("meta", U32(unix.NFTA_META_KEY, key), U32(unix.NFTA_META_DREG, dreg))
}

// Socket loads a property of the socket that gets the packet.
func Socket(key, dreg uint32) Attr {
	return Expr("socket", U32(attrSocketKey, key), U32(attrSocketDreg, dreg))
}

// Compare ends the rule unless the comparison (NFT_CMP_…) of a register holds.
func Compare(sreg, op uint32, value []byte) Attr {
	return Expr("cmp", U32(unix.NFTA_CMP_SREG, sreg), U32(unix.NFTA_CMP_OP, op),
		Nested(unix.NFTA_CMP_DATA, Bytes(unix.NFTA_DATA_VALUE, value)))
}

// Load loads bytes of a header (NFT_PAYLOAD_…) into a register.
func Load(base, offset, length, dreg uint32) Attr {
	return Expr("payload", U32(unix.NFTA_PAYLOAD_DREG, dreg), U32(unix.NFTA_PAYLOAD_BASE, base),
		U32(unix.NFTA_PAYLOAD_OFFSET, offset), U32(unix.NFTA_PAYLOAD_LEN, length))
}

// Lookup ends the rule unless a set holds the key. Of a map it loads the value.
func Lookup(set string, sreg uint32, dreg ...uint32) Attr {
	attrs := []Attr{String(unix.NFTA_LOOKUP_SET, set), U32(unix.NFTA_LOOKUP_SREG, sreg)}
	for _, d := range dreg {
		attrs = append(attrs, U32(unix.NFTA_LOOKUP_DREG, d))
	}
	return Expr("lookup", attrs...)
}

// Remember adds a key to a set, or a key and a value to a map. For one that is
// there already it restarts the timeout.
func Remember(set string, key uint32, value ...uint32) Attr {
	attrs := []Attr{String(unix.NFTA_DYNSET_SET_NAME, set), U32(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_UPDATE),
		U32(unix.NFTA_DYNSET_SREG_KEY, key)}
	for _, v := range value {
		attrs = append(attrs, U32(unix.NFTA_DYNSET_SREG_DATA, v))
	}
	return Expr("dynset", attrs...)
}

// Immediate loads a value into a register.
func Immediate(dreg uint32, value []byte) Attr {
	return Expr("immediate", U32(unix.NFTA_IMMEDIATE_DREG, dreg),
		Nested(unix.NFTA_IMMEDIATE_DATA, Bytes(unix.NFTA_DATA_VALUE, value)))
}

// Accept accepts the packet.
func Accept() Attr {
	const accept = 1 // NF_ACCEPT
	return Expr("immediate", U32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
		Nested(unix.NFTA_IMMEDIATE_DATA, Nested(unix.NFTA_DATA_VERDICT, U32(unix.NFTA_VERDICT_CODE, accept))))
}

// NetworkOrder turns a register of 32 bits into network byte order.
func NetworkOrder(reg uint32) Attr {
	return Expr("byteorder", U32(unix.NFTA_BYTEORDER_SREG, reg), U32(unix.NFTA_BYTEORDER_DREG, reg),
		U32(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON), U32(unix.NFTA_BYTEORDER_LEN, 4), U32(unix.NFTA_BYTEORDER_SIZE, 4))
}

// And masks a register.
func And(reg uint32, mask []byte) Attr {
	return Expr("bitwise", U32(unix.NFTA_BITWISE_SREG, reg), U32(unix.NFTA_BITWISE_DREG, reg), U32(unix.NFTA_BITWISE_LEN, uint32(len(mask))),
		Nested(unix.NFTA_BITWISE_MASK, Bytes(unix.NFTA_DATA_VALUE, mask)),
		Nested(unix.NFTA_BITWISE_XOR, Bytes(unix.NFTA_DATA_VALUE, make([]byte, len(mask)))))
}

// ConntrackState loads the state of the packet's connection.
func ConntrackState(dreg uint32) Attr {
	return Expr("ct", U32(unix.NFTA_CT_KEY, unix.NFT_CT_STATE), U32(unix.NFTA_CT_DREG, dreg))
}

// Goto continues in another chain.
func Goto(chain string) Attr {
	code := int32(unix.NFT_GOTO)
	return Expr("immediate", U32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
		Nested(unix.NFTA_IMMEDIATE_DATA, Nested(unix.NFTA_DATA_VERDICT,
			U32(unix.NFTA_VERDICT_CODE, uint32(code)), String(unix.NFTA_VERDICT_CHAIN, chain))))
}

// Reject answers with an ICMP error: administratively prohibited.
func Reject() Attr {
	return Expr("reject", U32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH),
		Bytes(unix.NFTA_REJECT_ICMP_CODE, []byte{unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}))
}
