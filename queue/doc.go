// Package queue is a bounded first-in first-out queue, signaled by a counting
// semaphore. It imports the standard library only.
//
// # Theory of operation
//
// This is Dijkstra's bounded buffer. Two counting semaphores govern one ring
// of slots: items counts the filled slots that a Get may take, slots counts
// the empty ones that a Put may fill. Put acquires a slot, fills it under the
// producers' lock and releases an item; Get acquires as many items as there
// are and dst has room for, in one step, empties their slots under the
// consumers' lock and releases as many slots. Producers and consumers have a
// lock each and so never wait for one another's; with one producer and one
// consumer neither lock is ever contended.
//
// A semaphore's count is one atomic integer. Above zero it is the number of
// permits; below zero, the number of goroutines that wait for one. An acquire
// that finds permits and a release that finds nobody waiting are thus one
// atomic operation each, and nothing else: no lock, no channel, no system
// call. That is the busy case. Only a release that finds the count below zero
// takes the semaphore's lock, hands its permit to the goroutine that has waited
// longest, and wakes it. A permit handed over belongs to the one it was handed
// to, so no wake-up can be lost or stolen, waiters go in order, and a Put
// wakes at most one reader, once. Further puts before that reader runs only add
// to the count: it finds them all when it does, and takes them as one batch.
//
// A waiter parks in a receive from its own channel of capacity one, which the
// semaphore keeps for the next waiter, so that waiting does not allocate. A
// context is consulted only by a call that has to wait, and costs nothing when
// it can't be canceled.
//
// # Order
//
// What one goroutine puts is taken in the order in which it put it, and each
// consumer sees each producer's values in that order. Every value is taken exactly once.
package queue
