package netstack_test

import (
	"testing"
	"testing/synctest"
	"time"

	"netstackd/internal/netstack"
)

func passed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d netstack.Deadline
		never := d.Wait()
		if passed(never) {
			t.Fatal("no deadline has passed")
		}
		d.Set(time.Now().Add(time.Second))
		time.Sleep(500 * time.Millisecond)
		d.Set(time.Now().Add(time.Second)) // later
		time.Sleep(700 * time.Millisecond)
		if passed(never) {
			t.Fatal("the first deadline still held")
		}
		time.Sleep(400 * time.Millisecond)
		synctest.Wait()
		if !passed(never) {
			t.Fatal("who waited before it was set missed it")
		}
		if !passed(d.Wait()) {
			t.Fatal("who comes late missed it")
		}
		d.Set(time.Time{})
		if passed(d.Wait()) {
			t.Fatal("a deadline that was taken back holds")
		}
		d.Set(time.Now().Add(-time.Second))
		if !passed(d.Wait()) {
			t.Fatal("a deadline in the past has not passed")
		}
		d.Set(time.Now().Add(time.Second))
		ch := d.Wait()
		if passed(ch) {
			t.Fatal("the old deadline holds")
		}
		d.Set(time.Time{})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if passed(ch) {
			t.Fatal("a deadline that was taken back came")
		}
		d.Set(time.Now())
		if !passed(ch) {
			t.Fatal("now is not past")
		}
	})
}
