// Package wire has the message formats of SOCKS5 (RFC 1928, RFC 1929), SOCKS4 and
// SOCKS4a. It does no I/O.
//
// Each message type has an Append method, which appends the message to a slice.
// Each Parse function takes the bytes that have arrived so far and returns the
// message and its length, or io.ErrUnexpectedEOF while the message is incomplete.
// The caller then reads more and parses from the start, so it does not matter how
// the network split the message.
//
//	client                                 server
//	[Greeting]: the methods it offers ───►
//	                                  ◄─── a method ([AppendMethod])
//	[UserPass]                        ───►                     RFC 1929
//	                                  ◄─── a status ([AppendAuthStatus])
//	[Request]: a command, an address  ───►
//	                                  ◄─── [Response]; for BIND, a second one later
//
// SOCKS4 has one message each way: [Request4] and [Response4]. The datagrams of an
// association have a header of their own ([AppendDatagramHeader], [ParseDatagram]).
package wire
