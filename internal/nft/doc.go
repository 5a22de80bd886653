// Package nft is just enough of nf_tables' netlink protocol (linux/netfilter/
// nf_tables.h) to make a table that belongs to a socket: the kernel removes it
// with the socket, and so with a killed process. The nft program can't hold such a
// socket open.
package nft
