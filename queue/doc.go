// Package queue is a bounded first-in first-out queue, signaled by a counting
// semaphore. It imports the standard library only.
//
// # Theory of operation
//
// This is the bounded buffer of Dijkstra (EWD 123). A ring holds the values.
// Two counting semaphores count its slots: items counts the filled slots,
// slots counts the empty ones.
//
// Put acquires an empty slot, fills it under the producers' lock, and releases
// an item. Get acquires up to len(dst) items in one step, empties their slots
// under the consumers' lock, and releases as many slots. Producers and
// consumers have separate locks. With one producer and one consumer, neither
// lock is contended.
//
// The count of a semaphore is one atomic integer. A positive count is the
// number of free permits. A negative count is the number of goroutines that
// wait for a permit. While permits are free, an acquire is one atomic
// operation; while no goroutine waits, so is a release. Neither uses a channel
// or a system call.
//
// A release that finds a negative count also sends a token on a channel, from
// which the waiters receive in order. The count is updated before the token is
// sent, so each permit belongs to exactly one waiter and no wake-up is lost. A
// Put wakes at most one reader. Until that reader runs, further Puts only
// increase the count; the reader then takes all values as one batch.
//
// When the context of a waiter ends, the waiter may leave only while the count
// is negative; it adds itself back. At zero or above, each waiter has a token
// in the channel or about to be sent: it must receive one, and its call
// succeeds. Only a call that must wait looks at its context. Only New allocates.
//
// # Cost
//
// Measured on two cores, beside a Go channel:
//
//	one producer, one consumer of batches    33 ns a value, channel 40 (BenchmarkSPSC)
//	four producers, four consumers           66 ns, channel 40 (BenchmarkMPMC)
//	hand-over to a waiting goroutine         200 ns, channel 130 (BenchmarkHandoff)
//
// The last two rows pay for batches, a Close that drains, and contexts.
//
// # Order
//
// The values of one producer are taken in the order in which it put them. Each
// value is taken exactly once.
package queue
