//go:build faults

package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// orderIn arms a point in a file of its own.
func orderIn(t *testing.T, o Order) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fault")
	if err := Arm(file, o); err != nil {
		t.Fatal(err)
	}
	return file
}

const inChild = "ROLLCALL_FAULTS_TEST"

// TestEnds: the program ends at the point that was named, by SIGKILL, and neither before nor again.
func TestEnds(t *testing.T) {
	if file := os.Getenv(inChild); file != "" {
		orders = file
		Before("row", "a")
		After("row", "b")
		After("row", "a")
		os.Exit(0)
	}
	run := func(file string) string {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=TestEnds")
		cmd.Env = append(os.Environ(), inChild+"="+file)
		_ = cmd.Run() // its state says how it ended
		return cmd.ProcessState.String()
	}
	file := orderIn(t, Order{Point: Point(WhenAfter, "row"), Of: "a"})
	if got := run(file); got != "signal: killed" || !Reached(file) {
		t.Errorf("it ended with %s", got)
	}
	if got := run(file); got != "exit status 0" {
		t.Errorf("started again, it ended with %s", got)
	}
	if got := run(orderIn(t, Order{Point: Point(WhenAfter, "row"), Of: "c"})); got != "exit status 0" {
		t.Errorf("for another action it ended with %s", got)
	}
}

// TestHolds: the program is held until it is released, and not again.
func TestHolds(t *testing.T) {
	orders = orderIn(t, Order{Point: Point(WhenBefore, "row"), Hold: true})
	gone := make(chan struct{})
	go func() {
		Before("row", "a")
		Before("row", "a")
		close(gone)
	}()
	for end := time.Now().Add(10 * time.Second); !Reached(orders); {
		if time.Now().After(end) {
			t.Fatal("nobody came by")
		}
	}
	select {
	case <-gone:
		t.Fatal("it was not held")
	case <-time.After(10 * look):
	}
	if err := Release(orders); err != nil {
		t.Fatal(err)
	}
	<-gone
}

// TestHoldsAll: whoever comes by is held until the order is taken back.
func TestHoldsAll(t *testing.T) {
	orders = orderIn(t, Order{Point: Point(WhenBefore, "row"), All: true})
	gone := make(chan struct{}, 2)
	for _, of := range []string{"a", "b"} {
		go func() {
			Before("row", of)
			gone <- struct{}{}
		}()
	}
	select {
	case <-gone:
		t.Fatal("one was not held")
	case <-time.After(10 * look):
	}
	if err := Disarm(orders); err != nil {
		t.Fatal(err)
	}
	<-gone
	<-gone
}

// TestDisarmed: an order that was taken back, or replaced, is not carried out.
func TestDisarmed(t *testing.T) {
	orders = orderIn(t, Order{Point: Point(WhenBefore, "row")})
	if err := Disarm(orders); err != nil {
		t.Fatal(err)
	}
	Before("row", "a")
	if err := Arm(orders, Order{Point: Point(WhenBefore, "another")}); err != nil {
		t.Fatal(err)
	}
	Before("row", "a")
	if Reached(orders) {
		t.Error("somebody was there")
	}
}
