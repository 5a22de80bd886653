package queue_test

import (
	"context"
	"testing"

	"netstackd/queue"
)

func TestOrder(t *testing.T) {
	q := queue.New[int](3)
	ctx := context.Background()
	for i := range 3 {
		if err := q.Put(ctx, i); err != nil {
			t.Fatal(err)
		}
	}
	if q.TryPut(3) {
		t.Fatal("TryPut on a full queue succeeded")
	}
	var dst [4]int
	n, err := q.Get(ctx, dst[:])
	if n != 3 || err != nil {
		t.Fatalf("Get = %d, %v; want 3, nil", n, err)
	}
}
