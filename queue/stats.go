package queue

// Stats is a snapshot of a queue's counters since it was made.
type Stats struct {
	Len      int    // values that a Get would find
	Cap      int    // values that there is room for
	Puts     uint64 // values put
	Refused  uint64 // TryPut calls that found no room
	Gets     uint64 // batches taken; Puts/Gets is the mean batch
	PutWaits uint64 // Put calls that had to wait: the queue was full
	GetWaits uint64 // Get calls that had to wait: the queue was empty
}

// Stats returns the counters. Each one is exact, but they are not read at the
// same instant.
func (q *Queue[T]) Stats() Stats {
	st := Stats{Len: q.Len(), Cap: q.Cap(), PutWaits: q.slots.waited.Load(), GetWaits: q.items.waited.Load()}
	q.in.mu.Lock()
	st.Puts, st.Refused = q.in.puts, q.in.refused
	q.in.mu.Unlock()
	q.out.mu.Lock()
	st.Gets = q.out.gets
	q.out.mu.Unlock()
	return st
}
