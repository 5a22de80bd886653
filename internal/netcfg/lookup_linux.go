package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// newFlow is a flow of this host that has no source address yet.
type newFlow struct {
	dst          netip.Addr
	uid          uint32
	proto        int
	sport, dport uint16 // 0 = not said
	mark         uint32
	tos          uint8
}

// path is where the kernel sends a flow: by which interface, and from which
// routing table.
type path struct{ link, table int }

// openLookups opens the socket of lookUp in this thread's network namespace. The
// request of package netlink has no field for the protocol.
func openLookups() (*nl.SocketHandle, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	return &nl.SocketHandle{Socket: s}, nil
}

// lookUp asks the kernel where a flow would go, as `ip route get` does. The
// caller holds h.mu.
func (h *Host) lookUp(q newFlow) (path, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_REQUEST)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: h.lookups}
	msg := &nl.RtMsg{}
	msg.Family = unix.AF_INET
	if q.dst.Is6() {
		msg.Family = unix.AF_INET6
	}
	msg.Tos = q.tos
	msg.Dst_len = uint8(q.dst.BitLen())
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.RTA_DST, q.dst.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.RTA_UID, binary.NativeEndian.AppendUint32(nil, q.uid)))
	req.AddData(nl.NewRtAttr(unix.RTA_IP_PROTO, []byte{byte(q.proto)}))
	if q.mark != 0 {
		req.AddData(nl.NewRtAttr(unix.RTA_MARK, binary.NativeEndian.AppendUint32(nil, q.mark)))
	}
	for attr, port := range map[int]uint16{unix.RTA_SPORT: q.sport, unix.RTA_DPORT: q.dport} {
		if port != 0 {
			req.AddData(nl.NewRtAttr(attr, binary.BigEndian.AppendUint16(nil, port)))
		}
	}
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
	if err != nil {
		return path{}, err
	}
	if len(answers) == 0 {
		return path{}, errors.New("no answer")
	}
	answer := answers[0]
	if len(answer) < unix.SizeofRtMsg {
		return path{}, errors.New("short answer")
	}
	attrs, err := nl.ParseRouteAttr(answer[unix.SizeofRtMsg:])
	if err != nil {
		return path{}, err
	}
	var way path
	for _, a := range attrs {
		if len(a.Value) < 4 {
			continue
		}
		switch v := int(binary.NativeEndian.Uint32(a.Value)); a.Attr.Type {
		case unix.RTA_OIF:
			way.link = v
		case unix.RTA_TABLE:
			way.table = v
		}
	}
	return way, nil
}
