package netstack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// anyAddress is a local address that exists only in the route that uses it. It
// has no lifetime, so its reference count is a formality.
type anyAddress tcpip.AddressWithPrefix

var _ stack.AddressEndpoint = anyAddress{}

func (a anyAddress) AddressWithPrefix() tcpip.AddressWithPrefix {
	return tcpip.AddressWithPrefix(a)
}
func (a anyAddress) Subnet() tcpip.Subnet                       { return a.AddressWithPrefix().Subnet() }
func (anyAddress) IsAssigned(bool) bool                         { return true }
func (anyAddress) TryIncRef() bool                              { return true }
func (anyAddress) DecRef()                                      {}
func (anyAddress) GetKind() stack.AddressKind                   { return stack.Temporary }
func (anyAddress) SetKind(stack.AddressKind)                    {}
func (anyAddress) ConfigType() stack.AddressConfigType          { return stack.AddressConfigStatic }
func (anyAddress) Deprecated() bool                             { return false }
func (anyAddress) SetDeprecated(bool)                           {}
func (anyAddress) Lifetimes() stack.AddressLifetimes            { return stack.AddressLifetimes{} }
func (anyAddress) SetLifetimes(stack.AddressLifetimes)          {}
func (anyAddress) Temporary() bool                              { return true }
func (anyAddress) RegisterDispatcher(d stack.AddressDispatcher) {}
