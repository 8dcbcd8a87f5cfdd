package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// done is the evidence of an action that was done as it should be.
func done() *evidence {
	finish, micro := metav1.NewTime(noon), metav1.NewMicroTime(noon)
	return &evidence{
		ends: ends(succeeded), channel: v1alpha1.ChannelWebSocket, terms: 1, most: 1,
		action: &v1alpha1.EndpointAction{Status: v1alpha1.EndpointActionStatus{
			Phase: succeeded, FinishTime: &finish,
			Admission: &v1alpha1.ActionAdmission{ReportDeadline: metav1.NewTime(noon.Add(time.Minute))},
			Delivery:  &v1alpha1.ActionDelivery{Channel: v1alpha1.ChannelWebSocket, StartedTime: &micro},
			Result:    &v1alpha1.ActionResult{},
		}},
		records: []*statev1.JournalRecord{{State: statev1.JournalState_JOURNAL_STATE_SETTLED, StartedAt: timestamppb.New(noon), Result: []byte("done")}},
	}
}

// ofMany is that of an action with a selector, of two that were done.
func ofMany() *evidence {
	e := done()
	e.children, e.records = []*v1alpha1.EndpointAction{e.action.DeepCopy(), e.action.DeepCopy()}, append(e.records, e.records...)
	e.action.Spec.Selector, e.terms, e.most = &v1alpha1.EndpointSelector{}, 2, 2
	return e
}

func TestJudgeFindsNothingWrong(t *testing.T) {
	stoppedMidway := done()
	stoppedMidway.action.Status.Phase, stoppedMidway.ends = cancelled, ends(cancelled)
	neverSent := done()
	neverSent.action.Status = v1alpha1.EndpointActionStatus{Phase: expired, FinishTime: neverSent.action.Status.FinishTime}
	neverSent.ends, neverSent.records, neverSent.terms = ends(expired), []*statev1.JournalRecord{nil}, 0
	for name, e := range map[string]*evidence{"done": done(), "done on all": ofMany(), "stopped midway": stoppedMidway, "never sent": neverSent} {
		if wrong := e.judge(); len(wrong) > 0 || e.strayed() {
			t.Errorf("%s: %q", name, wrong)
		}
	}
}

func TestJudge(t *testing.T) {
	for want, spoil := range map[string]func(*evidence){
		"it was done 2 times":                                 func(e *evidence) { e.terms = 2 },
		"it ended Unknown":                                    func(e *evidence) { e.action.Status.Phase = unknown },
		"it is Sent, and has no end":                          func(e *evidence) { e.action.Status.Phase, e.action.Status.FinishTime = "Sent", nil },
		"after its report deadline":                           func(e *evidence) { e.action.Status.FinishTime = &metav1.Time{Time: noon.Add(2 * time.Minute)} },
		"it is said to be Expired, and was begun":             func(e *evidence) { e.action.Status.Phase, e.ends, e.terms = expired, ends(expired), 0 },
		"it is said to be cancelled before it began":          func(e *evidence) { e.action.Status.Phase, e.action.Status.Result = cancelled, nil },
		"the agent's result is lost":                          func(e *evidence) { e.action.Status.Result = nil },
		"the agent still has it as JOURNAL_STATE_FINISHED":    func(e *evidence) { e.records[0].State = statev1.JournalState_JOURNAL_STATE_FINISHED },
		"1 say that it was done, and it was done 0 times":     func(e *evidence) { e.terms, e.records[0].StartedAt = 0, nil },
		"its result does not verify":                          condition(v1alpha1.ConditionResultVerified, metav1.ConditionFalse, "BadProof"),
		"it was reported before it was sent":                  condition(v1alpha1.ConditionComplete, metav1.ConditionTrue, "RestoredDone"),
		"there are 2 children, and not 3":                     func(e *evidence) { *e = *ofMany(); e.most = 3 },
		"the action with the selector has not ended":          func(e *evidence) { *e = *ofMany(); e.action.Status.FinishTime = nil },
		"it is said to be Unsupported, and was begun":         func(e *evidence) { *e = *ofMany(); e.children[1].Status.Phase = unsupported },
		"2 say that it was done, and it was done 1 times":     func(e *evidence) { *e = *ofMany(); e.terms = 1 },
		"it was done 3 times":                                 func(e *evidence) { *e = *ofMany(); e.terms = 3 },
		"it is Running, and has no end: the report is missed": func(e *evidence) { *e = *ofMany(); open(e.children[0], "the report is missed") },
	} {
		e := done()
		spoil(e)
		if wrong := strings.Join(e.judge(), "; "); !strings.Contains(wrong, want) {
			t.Errorf("%q is not among %q", want, wrong)
		}
	}
	strayed := done()
	strayed.action.Status.Delivery.Channel = v1alpha1.ChannelHeartbeat
	if !strayed.strayed() {
		t.Error("it is not seen that an action went by another channel")
	}
}

func condition(kind string, status metav1.ConditionStatus, reason string) func(*evidence) {
	return func(e *evidence) {
		e.action.Status.Conditions = append(e.action.Status.Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason})
	}
}

func open(a *v1alpha1.EndpointAction, message string) {
	a.Status.Phase, a.Status.FinishTime, a.Status.Message = v1alpha1.ActionRunning, nil, message
}

func TestSettled(t *testing.T) {
	e := done()
	if !settled(e.action, e.records[0]) || !settled(e.action, nil) {
		t.Error("it has ended, and nothing is left to be told")
	}
	e.records[0].State = statev1.JournalState_JOURNAL_STATE_FINISHED
	if settled(e.action, e.records[0]) {
		t.Error("the agent has a result to tell")
	}
	e.action.Status.FinishTime = nil
	if settled(e.action, nil) {
		t.Error("it has not ended")
	}
}
