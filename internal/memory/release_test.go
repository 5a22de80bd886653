package memory

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestReleaseAfterManyFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		freed := 0
		r := &Releaser{Free: func() { freed++ }}
		defer r.Stop()
		for n := range 10001 {
			r.SetFlows(n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if freed != 0 {
			t.Fatal("freed while all flows were open")
		}
		for n := 10000; n >= 0; n-- {
			r.SetFlows(n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if freed != 1 {
			t.Fatalf("freed %d times within a minute of the flows' end", freed)
		}
		for range 1000 { // a quiet day
			r.SetFlows(1)
			r.SetFlows(0)
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if freed != 1 {
			t.Fatalf("freed %d times for few flows", freed)
		}
	})
}
