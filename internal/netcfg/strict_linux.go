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

	"netstackd/internal/nft"
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
	f, err := nft.Open()
	if err != nil {
		return err
	}
	s := &strict{f: f, name: strictName(c.h.slot.n), keep: c.h.cfg.Strict == StrictKeep, sets: sets}
	b := nft.NewBatch()
	b.DeleteTable(s.name)
	flags := uint32(nft.TableOwner)
	if s.keep {
		flags = 0
	}
	b.Add(unix.NFT_MSG_NEWTABLE, nft.String(unix.NFTA_TABLE_NAME, s.name), nft.U32(unix.NFTA_TABLE_FLAGS, flags))
	b.AddChain(s.name, "output", "filter", 3 /* NF_INET_LOCAL_OUT */, priorityStrict)
	b.Add(unix.NFT_MSG_NEWCHAIN, nft.String(unix.NFTA_CHAIN_TABLE, s.name), nft.String(unix.NFTA_CHAIN_NAME, "refuse"))
	b.AddRule(s.name, "output", nft.Meta(unix.NFT_META_OIF, 1), nft.Compare(1, unix.NFT_CMP_EQ, native(1)), nft.Accept())
	name := append([]byte(c.h.link), make([]byte, unix.IFNAMSIZ-len(c.h.link))...)
	b.AddRule(s.name, "output", nft.Meta(unix.NFT_META_OIFNAME, unix.NFT_REG_1), nft.Compare(unix.NFT_REG_1, unix.NFT_CMP_EQ, name), nft.Accept())
	b.AddRule(s.name, "output", nft.Meta(unix.NFT_META_MARK, 1), nft.Compare(1, unix.NFT_CMP_EQ, native(c.h.mark)), nft.Accept())
	for _, r := range uncaptured(c.h.cfg.IncludeUIDs, c.h.cfg.ExcludeUIDs) {
		b.AddRule(s.name, "output", nft.Meta(unix.NFT_META_SKUID, 1), nft.NetworkOrder(1),
			nft.Compare(1, unix.NFT_CMP_GTE, big(r.First)), nft.Compare(1, unix.NFT_CMP_LTE, big(r.Last)), nft.Accept())
	}
	for _, set := range sets {
		addRanges(b, s.name, set)
		refuse(b, s.name, set)
	}
	refusals(b, s.name)
	if err := b.Commit(f); err != nil {
		f.Close()
		return fmt.Errorf("refuse what goes around the capture (a kernel with CONFIG_NF_TABLES_INET, CONFIG_NFT_CT and CONFIG_NFT_REJECT can): %w", err)
	}
	c.strict = s
	return nil
}

// priorityStrict is after NF_IP_PRI_FILTER.
const priorityStrict = 10

// refuse sends what goes to the destinations of a set to the chain of refusals.
func refuse(b *nft.Batch, table string, set strictSet) {
	f := headerOf(set.family)
	var port []nft.Attr
	if set.dns {
		port = []nft.Attr{nft.Load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, 1), nft.Compare(1, unix.NFT_CMP_EQ, []byte{0, portDNS})}
	}
	protos := []byte{0}
	if set.dns {
		protos = []byte{protoTCP, protoUDP}
	}
	for _, proto := range protos {
		rule := []nft.Attr{nft.Meta(unix.NFT_META_NFPROTO, 1), nft.Compare(1, unix.NFT_CMP_EQ, []byte{f.nfproto})}
		if proto != 0 {
			rule = append(rule, nft.Meta(unix.NFT_META_L4PROTO, 1), nft.Compare(1, unix.NFT_CMP_EQ, []byte{proto}))
		}
		rule = append(rule, port...)
		rule = append(rule, nft.Load(unix.NFT_PAYLOAD_NETWORK_HEADER, f.dst, f.length, unix.NFT_REG_1),
			nft.Lookup(set.name(), unix.NFT_REG_1), nft.Goto("refuse"))
		b.AddRule(table, "output", rule...)
	}
}

// refusals fills the chain.
func refusals(b *nft.Batch, table string) {
	const (
		synAck, syn = 0x12, 0x02
		icmp        = 1
		icmp6       = 58
	)
	proto := func(op uint32, p byte) []nft.Attr {
		return []nft.Attr{nft.Meta(unix.NFT_META_L4PROTO, 1), nft.Compare(1, op, []byte{p})}
	}
	add := func(exprs ...nft.Attr) { b.AddRule(table, "refuse", exprs...) }
	add(append(proto(unix.NFT_CMP_EQ, protoTCP), nft.Load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1, 1),
		nft.And(1, []byte{synAck}), nft.Compare(1, unix.NFT_CMP_NEQ, []byte{syn}), nft.Accept())...)
	for _, ports := range [][]byte{{0, 68, 0, 67}, {2, 34, 2, 35}} { // DHCP, DHCPv6: client to server
		add(append(proto(unix.NFT_CMP_EQ, protoUDP), nft.Load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 4, 1),
			nft.Compare(1, unix.NFT_CMP_EQ, ports), nft.Accept())...)
	}
	const established, related = 2, 4 // NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h
	add(append(proto(unix.NFT_CMP_EQ, protoUDP), nft.ConntrackState(1),
		nft.And(1, native(established|related)), nft.Compare(1, unix.NFT_CMP_NEQ, native(0)), nft.Accept())...)
	for p, request := range map[byte]byte{icmp: 8, icmp6: 128} { // RFC 792, RFC 4443 §4.1
		add(append(proto(unix.NFT_CMP_EQ, p), nft.Load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, 1),
			nft.Compare(1, unix.NFT_CMP_NEQ, []byte{request}), nft.Accept())...)
	}
	add(nft.Reject())
}

// sync brings the sets to what they should hold.
func (s *strict) sync(sets []strictSet) error {
	b := nft.NewBatch()
	for i, set := range sets {
		if slices.Equal(set.ranges, s.sets[i].ranges) {
			continue
		}
		b.Message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELSETELEM, 0, unix.NFPROTO_INET, 0,
			nft.String(unix.NFTA_SET_ELEM_LIST_TABLE, s.name), nft.String(unix.NFTA_SET_ELEM_LIST_SET, set.name()))
		addElements(b, s.name, set)
	}
	if err := b.Commit(s.f); err != nil {
		return fmt.Errorf("strict capture: %w", err)
	}
	s.sets = sets
	return nil
}

// close removes the table.
func (s *strict) close() error {
	var err error
	if s.keep {
		b := nft.NewBatch()
		b.DeleteTable(s.name)
		err = b.Commit(s.f)
	}
	return errors.Join(err, s.f.Close())
}

// dropKept removes the table that a killed daemon of this slot kept, if any, and
// reports whether there was one. Without nf_tables there is none.
func (s slot) dropKept() (bool, error) {
	f, err := nft.Open()
	if err != nil {
		return false, nil
	}
	defer f.Close()
	b := nft.NewBatch()
	b.Message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_INET, 0, nft.String(unix.NFTA_TABLE_NAME, strictName(s.n)))
	switch err := b.Commit(f); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EPERM):
		return false, err
	}
	return false, nil
}

// addRanges makes a set of ranges of addresses.
func addRanges(b *nft.Batch, table string, set strictSet) {
	f := headerOf(set.family)
	b.Add(unix.NFT_MSG_NEWSET, nft.String(unix.NFTA_SET_TABLE, table), nft.String(unix.NFTA_SET_NAME, set.name()),
		nft.U32(unix.NFTA_SET_KEY_TYPE, f.addrType), nft.U32(unix.NFTA_SET_KEY_LEN, f.length),
		nft.U32(unix.NFTA_SET_ID, b.Seq()), nft.U32(unix.NFTA_SET_FLAGS, unix.NFT_SET_INTERVAL))
	addElements(b, table, set)
}

// elementsPerMessage keeps a list of them within the 64 KB of an attribute.
const elementsPerMessage = 500

// addElements fills a set: a range is its first address, and the one behind its
// last marked as an end.
func addElements(b *nft.Batch, table string, set strictSet) {
	for part := range slices.Chunk(set.ranges, elementsPerMessage) {
		var list []nft.Attr
		element := func(a netip.Addr, flags uint32) {
			list = append(list, nft.Nested(unix.NFTA_LIST_ELEM,
				nft.Nested(unix.NFTA_SET_ELEM_KEY, nft.Bytes(unix.NFTA_DATA_VALUE, a.AsSlice())), nft.U32(unix.NFTA_SET_ELEM_FLAGS, flags)))
		}
		for _, r := range part {
			element(r.first, 0)
			if end := r.last.Next(); end.IsValid() {
				element(end, unix.NFT_SET_ELEM_INTERVAL_END)
			}
		}
		b.Message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, unix.NFPROTO_INET, 0,
			nft.String(unix.NFTA_SET_ELEM_LIST_TABLE, table), nft.String(unix.NFTA_SET_ELEM_LIST_SET, set.name()),
			nft.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list...))
	}
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
func big(v uint32) []byte    { return binary.BigEndian.AppendUint32(nil, v) }

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
