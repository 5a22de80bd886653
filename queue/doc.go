// Package queue is a bounded first-in first-out queue, signaled by a counting
// semaphore. It imports the standard library only.
//
// # Theory of operation
//
// This is Dijkstra's bounded buffer. Two counting semaphores govern one ring
// of places: items counts the filled ones, which a Get may take, and slots the
// empty ones, which a Put may fill. Put acquires a slot, fills it under the
// producers' lock and releases an item; Get acquires as many items as there
// are and dst has room for, in one step, empties their slots under the
// consumers' lock and releases as many slots. Producers and consumers have a
// lock each and so never wait for one another's; with one producer and one
// consumer neither lock is ever contended.
//
// A semaphore's count is one atomic integer. Above zero it is the number of
// permits; below zero, the number of goroutines that wait for one. An acquire
// that finds permits and a release that finds nobody waiting are thus one
// atomic operation each, and nothing else: no channel, no system call. That is
// the busy case. Only a release that finds the count below zero also sends a
// token to the waiters, who receive from one channel and so are served in order.
// The count had them down as served before the token was sent, so every
// permit is owed to exactly one waiter, no wake-up can be lost or stolen,
// and a Put wakes at most one reader, once. Puts that come before that reader
// runs only add to the count: it finds them all when it does, and takes them
// as one batch.
//
// A waiter whose context ends may leave only while the count is below zero,
// by adding itself back. At zero or above a token is on its way to everyone
// who waits: it has to take one, and its call succeeds. A context is
// consulted only by a call that has to wait. Nothing here allocates but New.
//
// # Cost
//
// On two cores one producer and one consumer of batches pass a value in 33 ns,
// where a channel takes 40 (BenchmarkSPSC); four and four take 66, a channel 40
// (BenchmarkMPMC). Handing a value to a goroutine that waits takes 200 ns, a
// channel 130 (BenchmarkHandoff): the price of a batch, a Close that drains and
// a context.
//
// # Order
//
// What one goroutine puts is taken in the order in which it put it, and each
// consumer sees each producer's values in that order. Every value is taken
// exactly once.
package queue
