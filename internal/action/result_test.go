package action

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

const (
	done      = agentv1.Outcome_OUTCOME_SUCCEEDED
	failedTo  = agentv1.Outcome_OUTCOME_FAILED
	unknown   = agentv1.Outcome_OUTCOME_UNKNOWN
	takenBack = agentv1.Outcome_OUTCOME_CANCELLED
	refusedTo = agentv1.Outcome_OUTCOME_REFUSED
)

// TestResult: rows 12 to 16 and 18.
func TestResult(t *testing.T) {
	for name, tt := range map[string]struct {
		running bool
		outcome agentv1.Outcome
		word    string
		says    string

		row     Arrow
		phase   v1alpha1.ActionPhase
		reason  string
		message string
	}{
		"done":              {outcome: done, word: "Done", says: "full report received in 31 ms", row: "12", phase: "Succeeded", reason: "Done", message: "full report received in 31 ms"},
		"done, after a run": {running: true, outcome: done, word: "Done", row: "12", phase: "Succeeded", reason: "Done", message: "done by devbox 2026-11-24 12:00:59Z"},
		"not done":          {outcome: failedTo, word: "NoSuchProcess", row: "13", phase: "Failed", reason: "NoSuchProcess", message: "not done by devbox: NoSuchProcess"},
		"too slow":          {running: true, outcome: failedTo, word: "TimedOut", row: "13", phase: "Failed", reason: "TimedOut", message: "TimedOut"},
		"too late":          {outcome: refusedTo, word: "PastDeadline", row: "14", phase: "Expired", reason: "PastDeadline", message: "devbox did not begin it: PastDeadline"},
		"cannot":            {outcome: refusedTo, word: "Unsupported", row: "15", phase: "Unsupported", reason: "Unsupported", message: "Unsupported"},
		"must not":          {outcome: refusedTo, word: "DisabledByPolicy", row: "15", phase: "Unsupported", reason: "DisabledByPolicy", message: "DisabledByPolicy"},
		"will not, for a reason of a later version": {outcome: refusedTo, word: "TooHot", row: "15", phase: "Unsupported", reason: "TooHot", message: "TooHot"},
		"superseded":                {outcome: refusedTo, word: "Superseded", row: "16", phase: "Cancelled", reason: "Superseded", message: "devbox did not begin it: Superseded"},
		"taken back":                {outcome: takenBack, word: "Cancelled", row: "16", phase: "Cancelled", reason: "Cancelled", message: "devbox did not begin it: Cancelled"},
		"stopped, and not a word":   {running: true, outcome: takenBack, word: "Cancelled", row: "16", phase: "Cancelled", reason: "Cancelled", message: "stopped by devbox: Cancelled"},
		"stopped":                   {running: true, outcome: takenBack, word: "Cancelled", says: "stopped", row: "16", phase: "Cancelled", reason: "Cancelled", message: "stopped"},
		"interrupted":               {running: true, outcome: unknown, word: "Interrupted", says: "the agent was killed", row: "18", phase: "Unknown", reason: "Interrupted", message: "the agent was killed; it may have been done or not: check on devbox"},
		"the journal is damaged":    {outcome: unknown, word: "JournalCorrupt", row: "18", phase: "Unknown", reason: "JournalCorrupt", message: "check on devbox whether the process still runs"},
		"an outcome yet to be made": {outcome: 99, word: "Puzzled", row: "18", phase: "Unknown", reason: "Puzzled", message: "check on devbox"},
		"no word":                   {outcome: done, word: "all is well!", row: "12", phase: "Succeeded", reason: "Succeeded", message: "done by devbox"},
	} {
		t.Run(name, func(t *testing.T) {
			a := sent(t, terminate)
			if tt.running {
				a = take(t, a, runs(3*time.Second), "10")
			}
			m := says(a, time.Minute, tt.outcome, tt.word).Says
			if m.Message = tt.says; tt.running {
				m.StartedAt = timestamppb.New(noon.Add(5 * time.Second))
			}
			a = take(t, a, signed(m, time.Minute), tt.row)
			s := &a.Status
			if s.Phase != tt.phase || reasonFor(s) != tt.reason || !strings.Contains(s.Message, tt.message) {
				t.Errorf("%s, %s: %s\nwant %s, %s: %s", s.Phase, reasonFor(s), s.Message, tt.phase, tt.reason, tt.message)
			}
			if !s.FinishTime.Time.Equal(noon.Add(time.Minute)) || s.Delivery.AcknowledgedTime == nil ||
				tt.running != (s.Delivery.StartedTime != nil && s.Delivery.StartedTime.Time.Equal(noon.Add(5*time.Second))) {
				t.Errorf("finished %s, delivered as %+v", s.FinishTime, s.Delivery)
			}
			if s.Result.Proof == nil || !s.Result.ReportedTime.Time.Equal(noon.Add(time.Minute)) || s.Result.Message != tt.says {
				t.Errorf("the result is %+v", s.Result)
			}
			if s.ObservedGeneration != 1 {
				t.Error("a gateway does not tell what the manager has seen")
			}
			if !Due(a, noon).IsZero() {
				t.Errorf("the next look is due %s", Due(a, noon))
			}
		})
	}
}

// TestResultLists: people see as many processes as the API holds, and how many there are besides.
func TestResultLists(t *testing.T) {
	a := sent(t, terminate)
	m := says(a, time.Minute, done, "Done").Says
	for i := range 40 {
		m.Processes = append(m.Processes, &agentv1.ProcessInstance{Pid: uint32(100 + i), Executable: fmt.Sprintf("/%s/%d", strings.Repeat("ä", 300), i)})
	}
	m.Omitted = 2
	m.Message = strings.Repeat("ö", 2000)
	r := take(t, a, signed(m, time.Minute), "12").Status.Result
	if len(r.Processes) != 16 || r.Omitted != 26 || r.Processes[15].PID != 115 {
		t.Errorf("%d processes, %d omitted: %+v", len(r.Processes), r.Omitted, r.Processes)
	}
	if path := []rune(r.Processes[3].Executable); len(path) != 256 || path[0] != '…' || !strings.HasSuffix(string(path), "/3") {
		t.Errorf("a path is shown as %s", string(path))
	}
	if n := len([]rune(r.Message)); n != 1024 {
		t.Errorf("a message of %d characters", n)
	}
	m.Omitted = 1<<32 - 1
	if r := take(t, a, signed(m, time.Minute), "12").Status.Result; r.Omitted != 1<<31-1 {
		t.Errorf("%d omitted", r.Omitted)
	}
}

// TestResultAfterTheEnd: rows 21 and 22.
func TestResultAfterTheEnd(t *testing.T) {
	a := take(t, sent(t, terminate), lookAt(devbox(), 2*time.Hour), "19")
	was := a.DeepCopy().Status
	m := says(a, 3*time.Hour, done, "Done").Says
	m.Message = "ended pid 1"
	a = take(t, a, signed(m, 3*time.Hour), "21")
	is := &a.Status
	if is.Phase != v1alpha1.ActionUnknown || reasonFor(is) != ReasonNoReport || !is.FinishTime.Equal(was.FinishTime) || is.Message != "reported Succeeded (Done) after the end: ended pid 1" {
		t.Errorf("%s, %s: %s", is.Phase, reasonFor(is), is.Message)
	}
	// Nothing else may change: an admission policy holds the gateway to it.
	same := is.DeepCopy()
	same.Result, same.Message = nil, was.Message
	if diff := cmp.Diff(&was, same); diff != "" {
		t.Error(diff)
	}
	take(t, a, signed(m, 4*time.Hour), None)
	m.Outcome = failedTo
	take(t, a, signed(m, 4*time.Hour), None)
	take(t, take(t, sent(t, terminate), signed(m, time.Minute), "13"), signed(m, 2*time.Minute), None)
}

// TestResultAfterARestore is row 23: etcd was set back to before the order was sent.
func TestResultAfterARestore(t *testing.T) {
	before := admitted(t, terminate)
	original := says(take(t, before, sendTo(devbox(), time.Second), "8"), time.Minute, done, "Done")
	a := take(t, before, original, "23")
	if a.Status.Phase != v1alpha1.ActionSucceeded || reasonFor(&a.Status) != "RestoredDone" || a.Status.Delivery != nil || a.Status.Result.Reason != "Done" {
		t.Errorf("%s, %s", a.Status.Phase, reasonFor(&a.Status))
	}
	take(t, a, original, None)

	t.Run("to before it was admitted", func(t *testing.T) {
		if _, _, err := Next(newAction(terminate), original); !errors.Is(err, ErrEarly) || !errors.Is(err, ErrUnfit) {
			t.Errorf("%v, want %v: the agent has to say it again", err, ErrEarly)
		}
		again := take(t, newAction(terminate), lookAt(devbox(), 10*time.Second), "2")
		if Digest(again.Status.Admission.Order) == Digest(before.Status.Admission.Order) {
			t.Fatal("it is the same order")
		}
		a := take(t, take(t, again, sendTo(devbox(), 11*time.Second), "8"), original, "23")
		if a.Status.Phase != v1alpha1.ActionSucceeded || reasonFor(&a.Status) != "RestoredDone" || a.Status.Delivery == nil {
			t.Errorf("%s, %s", a.Status.Phase, reasonFor(&a.Status))
		}
		take(t, take(t, again, lookAt(devbox(), time.Hour), "6"), original, "21")
	})
}

// TestUnfitResults: a result that speaks of something else, or that cannot be.
func TestUnfitResults(t *testing.T) {
	a := sent(t, terminate)
	for name, change := range map[string]func(*Result){
		"of another action":           func(e *Result) { e.Says.ActionUid = fleetID },
		"of another identity":         func(e *Result) { e.Says.IdentityId = stranger },
		"with another's certificate":  func(e *Result) { e.IdentityID = stranger },
		"by whom it was not sent to":  func(e *Result) { e.IdentityID, e.Says.IdentityId = stranger, stranger },
		"of nothing":                  func(e *Result) { e.Says = nil },
		"refused after it had begun ": func(e *Result) { e.Says.Outcome, e.Says.Reason = refusedTo, "PastDeadline" },
	} {
		e := says(a, time.Minute, done, "Done")
		e.Says = proto.CloneOf(e.Says)
		change(&e)
		t.Run(name, func(t *testing.T) { refuses(t, take(t, a, runs(3*time.Second), "10"), e) })
	}
	cancelled := newAction(terminate)
	cancelled.Spec.Cancel = true
	refuses(t, take(t, cancelled, lookAt(nil, 0), "5"), says(a, time.Minute, done, "Done"))
	refuses(t, newParent(), says(newParent(), time.Minute, done, "Done"))
}
