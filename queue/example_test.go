package queue_test

import (
	"context"
	"fmt"
	"sync"

	"netstackd/queue"
)

func Example() {
	ctx := context.Background()
	q := queue.New[string](16)

	var wg sync.WaitGroup
	wg.Go(func() {
		batch := make([]string, 8)
		for {
			n, err := q.Get(ctx, batch) // waits for at least one
			if err != nil {
				fmt.Println(err)
				return
			}
			for _, packet := range batch[:n] {
				fmt.Println(packet)
			}
		}
	})

	for _, packet := range []string{"SYN", "ACK", "FIN"} {
		if err := q.Put(ctx, packet); err != nil { // waits while full
			fmt.Println(err)
		}
	}
	q.Close() // what is queued can still be taken
	wg.Wait()
	// Output:
	// SYN
	// ACK
	// FIN
	// queue: closed
}
