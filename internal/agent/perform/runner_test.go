package perform

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type executor struct {
	perform     func(context.Context, *Task) Result
	interrupted func(context.Context, *Task) (Result, bool)
}

func (x executor) Perform(ctx context.Context, t *Task) Result { return x.perform(ctx, t) }
func (x executor) Interrupted(ctx context.Context, t *Task) (Result, bool) {
	return x.interrupted(ctx, t)
}

// held waits for its context.
var held = executor{
	perform:     func(ctx context.Context, _ *Task) Result { <-ctx.Done(); return Cut(ctx, "nothing") },
	interrupted: func(context.Context, *Task) (Result, bool) { return Result{}, false },
}

func expect(t *testing.T, e Event, outcome agentv1.Outcome, reason, message string) {
	t.Helper()
	if e.Result == nil || e.Result.Outcome != outcome || e.Result.Reason != reason || e.Result.Message != message {
		t.Errorf("event %+v, result %+v, want %s, %s, %q", e, e.Result, outcome, reason, message)
	}
}

// How a task ends: by itself, by its time, by a cancel, by a fault, or not at all.
func TestEnds(t *testing.T) {
	const failed, unknown = agentv1.Outcome_OUTCOME_FAILED, agentv1.Outcome_OUTCOME_UNKNOWN
	synctest.Test(t, func(t *testing.T) {
		r := NewRunner()
		begin := func(uid string, x executor, interrupted bool) {
			r.Start(&Task{UID: uid}, x, time.Minute, interrupted)
			synctest.Wait()
		}
		end := func() Event { e := <-r.Events(); r.Ended(e.UID); return e }

		begin("done", executor{perform: func(context.Context, *Task) Result { return Done("%d things", 3) }}, false)
		expect(t, end(), agentv1.Outcome_OUTCOME_SUCCEEDED, "Done", "3 things")

		began := time.Now()
		begin("late", held, false)
		expect(t, end(), failed, "TimedOut", "its time was over: nothing")
		if took := time.Since(began); took != time.Minute {
			t.Errorf("after %s", took)
		}

		begin("cancelled", held, true) // interrupted, and goes on
		r.Cancel("cancelled")
		r.Cancel("nobody")
		expect(t, end(), agentv1.Outcome_OUTCOME_CANCELLED, "Cancelled", "taken back while it ran: nothing")

		begin("faulty", executor{perform: func(context.Context, *Task) Result { panic("oh") }}, false)
		e := end()
		if expect(t, e, unknown, "Internal", "the agent has a fault: oh"); !strings.Contains(string(e.Stack), "runner_test.go") {
			t.Errorf("stack %s", e.Stack)
		}

		once := executor{interrupted: func(context.Context, *Task) (Result, bool) { return Unknown(ReasonInterrupted, "who knows"), true }}
		begin("once", once, true)
		expect(t, end(), unknown, "Interrupted", "who knows")

		release := make(chan struct{})
		begin("deaf", executor{perform: func(context.Context, *Task) Result { <-release; return Done("at last") }}, false)
		began = time.Now()
		expect(t, end(), failed, "TimedOut", "its time was over, and it did not stop: it may still do something")
		if took := time.Since(began); took != time.Minute+Patience || r.Len() != 1 || r.Runs("deaf") {
			t.Errorf("given up after %s; %d run", took, r.Len())
		}
		close(release)
		synctest.Wait()
		if r.Len() != 0 {
			t.Error("it still has its place")
		}
		<-r.Events() // its word is late
		r.Wait()
	})
}

// Notes come back with what the disk says; progress is told.
func TestNotes(t *testing.T) {
	r, full := NewRunner(), errors.New("full")
	r.Start(&Task{UID: "x"}, executor{perform: func(ctx context.Context, t *Task) Result {
		t.Tell(ctx, 10, "begins")
		first, second := t.Note(ctx, []byte("one")), t.Note(ctx, []byte("two"))
		return Done("%v, %v", first, second)
	}}, time.Minute, false)
	if e := <-r.Events(); e.Percent != 10 || e.Message != "begins" {
		t.Errorf("%+v", e)
	}
	for _, answer := range []error{nil, full} {
		e := <-r.Events()
		if e.Noted == nil || len(e.Intent) != 3 {
			t.Fatalf("%+v", e)
		}
		e.Noted(answer)
	}
	expect(t, <-r.Events(), agentv1.Outcome_OUTCOME_SUCCEEDED, "Done", "<nil>, full")
	r.Ended("x")
	r.Wait()
}

// The agent's end: who has something to say is heard, for a while; nobody is left behind.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRunner()
		release := make(chan struct{})
		r.Start(&Task{UID: "held"}, held, time.Hour, false)
		r.Start(&Task{UID: "deaf"}, executor{perform: func(context.Context, *Task) Result { <-release; return Done("") }}, time.Hour, false)
		heard := 0
		began := time.Now()
		r.Stop(5*time.Second, func(e Event) {
			heard++
			expect(t, e, agentv1.Outcome_OUTCOME_UNKNOWN, "Interrupted", "the agent was stopped while it ran: nothing")
			r.Ended(e.UID)
		})
		if heard != 1 || time.Since(began) != 5*time.Second {
			t.Errorf("%d heard, after %s", heard, time.Since(began))
		}
		r.Abandon()
		r.Abandon()
		close(release)
		r.Wait()

		// Whatever they are in the middle of.
		r = NewRunner()
		r.Start(&Task{UID: "notes"}, executor{perform: func(ctx context.Context, t *Task) Result {
			return Done("%v", t.Note(ctx, nil))
		}}, time.Hour, false)
		r.Start(&Task{UID: "waits"}, executor{perform: func(ctx context.Context, t *Task) Result {
			return Done("%v", t.Note(ctx, nil))
		}}, time.Hour, false)
		<-r.Events() // one is taken, and never answered
		synctest.Wait()
		r.Abandon()
		r.Wait()
	})
}
