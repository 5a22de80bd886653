package daemon

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestReclaimAfterManyFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		freed := 0
		r := &reclaim{free: func() { freed++ }}
		defer r.stop()
		for n := range 10001 {
			r.changed(n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if freed != 0 {
			t.Fatal("freed while all flows were open")
		}
		for n := 10000; n >= 0; n-- {
			r.changed(n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if freed != 1 {
			t.Fatalf("freed %d times within a minute of the flows' end", freed)
		}
		for range 1000 { // a quiet day
			r.changed(1)
			r.changed(0)
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if freed != 1 {
			t.Fatalf("freed %d times for few flows", freed)
		}
	})
}
