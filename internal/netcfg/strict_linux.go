package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// A socket that its program binds to an address or an interface goes around the
// capture. The table that a strict capture adds refuses its new flows:
//
//	output  to loopback, into the TUN, or with our mark              accept
//	        from a user that is not captured                         accept
//	        to a nameserver that is captured, port 53                goto refuse
//	        to a captured destination                                goto refuse
//	refuse  TCP that opens no connection                             accept
//	        DHCP; UDP of a flow that was answered, or is an answer   accept
//	        ICMP that is no echo request                             accept
//	        all else                                                 reject
//
// So connections from before go on, and services of this host answer. Whether a
// datagram is an answer is known from connection tracking.
//
// The table names the TUN and not its index: one that is kept holds for the next
// TUN of that name, and without one refuses all that was captured.
type strict struct {
	f    *os.File
	name string
	keep bool
	sets []strictSet // what the table holds
}

// strictSet is one set of destinations.
type strictSet struct {
	family family
	dns    bool // for port 53
	ranges []addrRange
}

func (s strictSet) name() string {
	kind := "captured"
	if s.dns {
		kind = "names"
	}
	return fmt.Sprint(kind, s.family)
}

func strictName(n int) string { return fmt.Sprint("netstackd-strict-", n) }

// strictSets are the destinations of the capture.
func (c *capture) strictSets() ([]strictSet, error) {
	var sets []strictSet
	for _, f := range []family{ipv4, ipv6} {
		var plan, dns tablePlan
		if slices.Contains(c.h.families, f) {
			connected, err := c.connected(f)
			if err != nil {
				return nil, err
			}
			plan = planTable(f, c.h.cfg.Routes, c.h.cfg.Excludes, connected)
			dns = planDNSTable(f, c.h.cfg.Routes, c.h.cfg.Excludes)
		}
		sets = append(sets, strictSet{f, false, plan.ranges()}, strictSet{f, true, dns.ranges()})
	}
	return sets, nil
}

// enforce adds the table, in place of one that was kept.
func (c *capture) enforce() error {
	sets, err := c.strictSets()
	if err != nil {
		return err
	}
	f, err := openNFT()
	if err != nil {
		return err
	}
	s := &strict{f: f, name: strictName(c.h.slot.n), keep: c.h.cfg.Strict == StrictKeep, sets: sets}
	b := newNFTBatch()
	b.deleteTable(s.name)
	flags := uint32(nftTableOwner)
	if s.keep {
		flags = 0
	}
	b.add(unix.NFT_MSG_NEWTABLE, str(unix.NFTA_TABLE_NAME, s.name), u32(unix.NFTA_TABLE_FLAGS, flags))
	b.addChain(s.name, "output", "filter", 3 /* NF_INET_LOCAL_OUT */, priorityStrict)
	b.add(unix.NFT_MSG_NEWCHAIN, str(unix.NFTA_CHAIN_TABLE, s.name), str(unix.NFTA_CHAIN_NAME, "refuse"))
	b.addRule(s.name, "output", nftMeta(unix.NFT_META_OIF, 1), nftCompare(1, unix.NFT_CMP_EQ, native(1)), nftAccept())
	name := append([]byte(c.h.link), make([]byte, unix.IFNAMSIZ-len(c.h.link))...)
	b.addRule(s.name, "output", nftMeta(unix.NFT_META_OIFNAME, unix.NFT_REG_1), nftCompare(unix.NFT_REG_1, unix.NFT_CMP_EQ, name), nftAccept())
	b.addRule(s.name, "output", nftMeta(unix.NFT_META_MARK, 1), nftCompare(1, unix.NFT_CMP_EQ, native(c.h.mark)), nftAccept())
	for _, r := range uncaptured(c.h.cfg.IncludeUIDs, c.h.cfg.ExcludeUIDs) {
		b.addRule(s.name, "output", nftMeta(unix.NFT_META_SKUID, 1), nftNetworkOrder(1),
			nftCompare(1, unix.NFT_CMP_GTE, big(r.First)), nftCompare(1, unix.NFT_CMP_LTE, big(r.Last)), nftAccept())
	}
	for _, set := range sets {
		b.addRanges(s.name, set)
		b.refuse(s.name, set)
	}
	b.refusals(s.name)
	if err := b.commit(f); err != nil {
		f.Close()
		return fmt.Errorf("refuse what goes around the capture (a kernel with CONFIG_NF_TABLES_INET, CONFIG_NFT_CT and CONFIG_NFT_REJECT can): %w", err)
	}
	c.strict = s
	return nil
}

// priorityStrict is after NF_IP_PRI_FILTER.
const priorityStrict = 10

// refuse sends what goes to the destinations of a set to the chain of refusals.
func (b *nftBatch) refuse(table string, set strictSet) {
	f := nftFamilyOf(set.family)
	var port []nftAttr
	if set.dns {
		port = []nftAttr{nftLoad(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, 1), nftCompare(1, unix.NFT_CMP_EQ, []byte{0, portDNS})}
	}
	protos := []byte{0}
	if set.dns {
		protos = []byte{protoTCP, protoUDP}
	}
	for _, proto := range protos {
		rule := []nftAttr{nftMeta(unix.NFT_META_NFPROTO, 1), nftCompare(1, unix.NFT_CMP_EQ, []byte{f.nfproto})}
		if proto != 0 {
			rule = append(rule, nftMeta(unix.NFT_META_L4PROTO, 1), nftCompare(1, unix.NFT_CMP_EQ, []byte{proto}))
		}
		rule = append(rule, port...)
		rule = append(rule, nftLoad(unix.NFT_PAYLOAD_NETWORK_HEADER, f.dst, f.length, unix.NFT_REG_1),
			nftLookup(set.name(), unix.NFT_REG_1), nftGoto("refuse"))
		b.addRule(table, "output", rule...)
	}
}

// refusals fills the chain.
func (b *nftBatch) refusals(table string) {
	const (
		synAck, syn = 0x12, 0x02
		icmp        = 1
		icmp6       = 58
	)
	proto := func(op uint32, p byte) []nftAttr {
		return []nftAttr{nftMeta(unix.NFT_META_L4PROTO, 1), nftCompare(1, op, []byte{p})}
	}
	add := func(exprs ...nftAttr) { b.addRule(table, "refuse", exprs...) }
	add(append(proto(unix.NFT_CMP_EQ, protoTCP), nftLoad(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1, 1),
		nftAnd(1, []byte{synAck}), nftCompare(1, unix.NFT_CMP_NEQ, []byte{syn}), nftAccept())...)
	for _, ports := range [][]byte{{0, 68, 0, 67}, {2, 34, 2, 35}} { // DHCP, DHCPv6: client to server
		add(append(proto(unix.NFT_CMP_EQ, protoUDP), nftLoad(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 4, 1),
			nftCompare(1, unix.NFT_CMP_EQ, ports), nftAccept())...)
	}
	const established, related = 2, 4 // NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h
	add(append(proto(unix.NFT_CMP_EQ, protoUDP), nftConntrackState(1),
		nftAnd(1, native(established|related)), nftCompare(1, unix.NFT_CMP_NEQ, native(0)), nftAccept())...)
	for p, request := range map[byte]byte{icmp: 8, icmp6: 128} { // RFC 792, RFC 4443 §4.1
		add(append(proto(unix.NFT_CMP_EQ, p), nftLoad(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, 1),
			nftCompare(1, unix.NFT_CMP_NEQ, []byte{request}), nftAccept())...)
	}
	add(nftReject())
}

// sync brings the sets to what they should hold.
func (s *strict) sync(sets []strictSet) error {
	b := newNFTBatch()
	for i, set := range sets {
		if slices.Equal(set.ranges, s.sets[i].ranges) {
			continue
		}
		b.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELSETELEM, 0, unix.NFPROTO_INET, 0,
			str(unix.NFTA_SET_ELEM_LIST_TABLE, s.name), str(unix.NFTA_SET_ELEM_LIST_SET, set.name()))
		b.addElements(s.name, set)
	}
	if err := b.commit(s.f); err != nil {
		return fmt.Errorf("strict capture: %w", err)
	}
	s.sets = sets
	return nil
}

// close removes the table.
func (s *strict) close() error {
	var err error
	if s.keep {
		b := newNFTBatch()
		b.deleteTable(s.name)
		err = b.commit(s.f)
	}
	return errors.Join(err, s.f.Close())
}

// dropKept removes the table that a killed daemon of this slot kept, if any, and
// reports whether there was one. Without nf_tables there is none.
func (s slot) dropKept() (bool, error) {
	f, err := openNFT()
	if err != nil {
		return false, nil
	}
	defer f.Close()
	b := newNFTBatch()
	b.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_INET, 0, str(unix.NFTA_TABLE_NAME, strictName(s.n)))
	switch err := b.commit(f); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EPERM):
		return false, err
	}
	return false, nil
}

// deleteTable deletes a table that need not be there.
func (b *nftBatch) deleteTable(name string) {
	b.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, unix.NFPROTO_INET, 0, str(unix.NFTA_TABLE_NAME, name))
	b.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_INET, 0, str(unix.NFTA_TABLE_NAME, name))
}

// addRanges makes a set of ranges of addresses.
func (b *nftBatch) addRanges(table string, set strictSet) {
	f := nftFamilyOf(set.family)
	b.add(unix.NFT_MSG_NEWSET, str(unix.NFTA_SET_TABLE, table), str(unix.NFTA_SET_NAME, set.name()),
		u32(unix.NFTA_SET_KEY_TYPE, f.addrType), u32(unix.NFTA_SET_KEY_LEN, f.length),
		u32(unix.NFTA_SET_ID, b.seq), u32(unix.NFTA_SET_FLAGS, unix.NFT_SET_INTERVAL))
	b.addElements(table, set)
}

// elementsPerMessage keeps a list of them within the 64 KB of an attribute.
const elementsPerMessage = 500

// addElements fills a set: a range is its first address, and the one behind its
// last marked as an end.
func (b *nftBatch) addElements(table string, set strictSet) {
	for part := range slices.Chunk(set.ranges, elementsPerMessage) {
		var list []nftAttr
		element := func(a netip.Addr, flags uint32) {
			list = append(list, nested(unix.NFTA_LIST_ELEM,
				nested(unix.NFTA_SET_ELEM_KEY, attr(unix.NFTA_DATA_VALUE, a.AsSlice())), u32(unix.NFTA_SET_ELEM_FLAGS, flags)))
		}
		for _, r := range part {
			element(r.first, 0)
			if end := r.last.Next(); end.IsValid() {
				element(end, unix.NFT_SET_ELEM_INTERVAL_END)
			}
		}
		b.message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, unix.NFPROTO_INET, 0,
			str(unix.NFTA_SET_ELEM_LIST_TABLE, table), str(unix.NFTA_SET_ELEM_LIST_SET, set.name()),
			nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list...))
	}
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
func big(v uint32) []byte    { return binary.BigEndian.AppendUint32(nil, v) }

func nftNetworkOrder(reg uint32) nftAttr {
	return expr("byteorder", u32(unix.NFTA_BYTEORDER_SREG, reg), u32(unix.NFTA_BYTEORDER_DREG, reg),
		u32(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON), u32(unix.NFTA_BYTEORDER_LEN, 4), u32(unix.NFTA_BYTEORDER_SIZE, 4))
}

func nftAnd(reg uint32, mask []byte) nftAttr {
	return expr("bitwise", u32(unix.NFTA_BITWISE_SREG, reg), u32(unix.NFTA_BITWISE_DREG, reg), u32(unix.NFTA_BITWISE_LEN, uint32(len(mask))),
		nested(unix.NFTA_BITWISE_MASK, attr(unix.NFTA_DATA_VALUE, mask)),
		nested(unix.NFTA_BITWISE_XOR, attr(unix.NFTA_DATA_VALUE, make([]byte, len(mask)))))
}

func nftConntrackState(dreg uint32) nftAttr {
	return expr("ct", u32(unix.NFTA_CT_KEY, unix.NFT_CT_STATE), u32(unix.NFTA_CT_DREG, dreg))
}

func nftGoto(chain string) nftAttr {
	code := int32(unix.NFT_GOTO)
	return expr("immediate", u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
		nested(unix.NFTA_IMMEDIATE_DATA, nested(unix.NFTA_DATA_VERDICT,
			u32(unix.NFTA_VERDICT_CODE, uint32(code)), str(unix.NFTA_VERDICT_CHAIN, chain))))
}

func nftReject() nftAttr {
	return expr("reject", u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH),
		attr(unix.NFTA_REJECT_ICMP_CODE, []byte{unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}))
}

// uncaptured are the users whose traffic is not captured.
func uncaptured(includes, excludes []UIDRange) []UIDRange {
	out := slices.Clone(excludes)
	if len(includes) == 0 {
		return out
	}
	sorted := slices.SortedFunc(slices.Values(includes), func(a, b UIDRange) int {
		return int(int64(a.First) - int64(b.First))
	})
	next := uint64(0)
	for _, r := range sorted {
		if uint64(r.First) > next {
			out = append(out, UIDRange{uint32(next), r.First - 1})
		}
		next = max(next, uint64(r.Last)+1)
	}
	if next <= math.MaxUint32 {
		out = append(out, UIDRange{uint32(next), math.MaxUint32})
	}
	return out
}
