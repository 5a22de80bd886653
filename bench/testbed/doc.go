// Package testbed has what the benchmarks build their networks from: network
// namespaces, programs that run in them, a link that delays, loses and
// reorders, and the client's side of SOCKS5.
package testbed
