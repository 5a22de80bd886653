package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Attr is one netlink attribute, or several.
type Attr []byte

// Bytes returns an attribute with the given data.
func Bytes(kind uint16, data []byte) Attr {
	b := make([]byte, 4, 4+len(data)+3)
	binary.NativeEndian.PutUint16(b, uint16(4+len(data)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	b = append(b, data...)
	return append(b, make([]byte, -len(data)&3)...)
}

// Nested returns an attribute that holds others.
func Nested(kind uint16, inner ...Attr) Attr {
	return Bytes(kind|unix.NLA_F_NESTED, slices.Concat(inner...))
}

// U32 returns an attribute that is a number in network byte order.
func U32(kind uint16, v uint32) Attr { return Bytes(kind, binary.BigEndian.AppendUint32(nil, v)) }

// String returns an attribute that is a string.
func String(kind uint16, s string) Attr { return Bytes(kind, append([]byte(s), 0)) }

// Batch is one transaction: all of it happens or nothing.
type Batch struct {
	buf []byte
	seq uint32
}

// Message adds a message of any subsystem.
func (b *Batch) Message(kind, flags uint16, family byte, resource uint16, attrs ...Attr) {
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

// NewBatch returns an empty batch.
func NewBatch() *Batch {
	b := &Batch{}
	b.Message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	return b
}

// Seq returns the number of the last message, which is unique in the batch.
func (b *Batch) Seq() uint32 { return b.seq }

// Add adds a message that creates something in the family inet.
func (b *Batch) Add(kind uint16, attrs ...Attr) {
	b.Message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_APPEND,
		unix.NFPROTO_INET, 0, attrs...)
}

// AddRule appends a rule to a chain.
func (b *Batch) AddRule(table, chain string, exprs ...Attr) {
	b.Add(unix.NFT_MSG_NEWRULE, String(unix.NFTA_RULE_TABLE, table), String(unix.NFTA_RULE_CHAIN, chain),
		Nested(unix.NFTA_RULE_EXPRESSIONS, exprs...))
}

// AddChain creates a chain of a type (filter, route) on a hook (NF_INET_…).
func (b *Batch) AddChain(table, name, kind string, hook uint32, priority int32) {
	b.Add(unix.NFT_MSG_NEWCHAIN, String(unix.NFTA_CHAIN_TABLE, table), String(unix.NFTA_CHAIN_NAME, name),
		Nested(unix.NFTA_CHAIN_HOOK, U32(unix.NFTA_HOOK_HOOKNUM, hook), U32(unix.NFTA_HOOK_PRIORITY, uint32(priority))),
		String(unix.NFTA_CHAIN_TYPE, kind))
}

// DeleteTable deletes a table that need not be there.
func (b *Batch) DeleteTable(name string) {
	b.Message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, unix.NFPROTO_INET, 0, String(unix.NFTA_TABLE_NAME, name))
	b.Message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_INET, 0, String(unix.NFTA_TABLE_NAME, name))
}

// Open opens a socket for batches. Tables that it owns live as long as it.
func Open() (*os.File, error) {
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

// Commit sends the batch over f and waits for the kernel's answer to each part.
func (b *Batch) Commit(f *os.File) error {
	fd := int(f.Fd())
	// Large sets make large batches. Without the privilege the default holds.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*len(b.buf)+1<<16)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20)
	b.Message(unix.NFNL_MSG_BATCH_END, 0, unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
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
