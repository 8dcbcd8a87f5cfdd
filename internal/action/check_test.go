package action

import (
	"encoding/json"
	"slices"
	"unicode/utf8"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

var ends = []v1alpha1.ActionPhase{
	v1alpha1.ActionSucceeded, v1alpha1.ActionFailed, v1alpha1.ActionUnknown, v1alpha1.ActionExpired, v1alpha1.ActionCancelled, v1alpha1.ActionUnsupported,
}

// check tells whether a step from one status to another is one that may ever be, whatever has happened.
func check(t rapid.TB, before, after *v1alpha1.EndpointAction) {
	t.Helper()
	was, is := &before.Status, &after.Status
	over := slices.Contains(ends, is.Phase)
	switch {
	case Ended(was) && is.Phase != was.Phase:
		t.Errorf("the end %s was left for %s", was.Phase, is.Phase)
	case Ended(was) && !is.FinishTime.Equal(was.FinishTime):
		t.Errorf("it ended at %s, and then at %s", was.FinishTime, is.FinishTime)
	case was.Result != nil && !equality.Semantic.DeepEqual(was.Result, is.Result):
		t.Error("a result was changed")
	case was.Delivery != nil && is.Phase == v1alpha1.ActionPending:
		t.Error("what was sent is Pending again")
	case over != Ended(is):
		t.Errorf("it is %s, and its finishTime is %s", is.Phase, is.FinishTime)
	case !over && is.Result != nil:
		t.Error("there is a result before the end")
	case utf8.RuneCountInString(is.Message) > maxMessage || !utf8.ValidString(is.Message):
		t.Errorf("a message of %d characters: %s", utf8.RuneCountInString(is.Message), is.Message)
	case len(is.Progress) > 32:
		t.Errorf("a progress of %d characters: %s", len(is.Progress), is.Progress)
	}
	checkConditions(t, after, over)
	roundTrip(t, is)
}

func equalStatus(a, b *v1alpha1.EndpointActionStatus) bool { return equality.Semantic.DeepEqual(a, b) }

func checkConditions(t rapid.TB, a *v1alpha1.EndpointAction, over bool) {
	t.Helper()
	s := &a.Status
	complete := s.Phase == v1alpha1.ActionSucceeded
	for kind, want := range map[string]bool{
		v1alpha1.ConditionReconciling: !over && len(s.Conditions) > 0,
		v1alpha1.ConditionComplete:    complete,
		v1alpha1.ConditionFailed:      over && !complete,
		v1alpha1.ConditionStalled:     over && !complete && s.Phase != v1alpha1.ActionCancelled || !Verified(s),
	} {
		if got := meta.FindStatusCondition(s.Conditions, kind); (got != nil) != want || got != nil && got.Status != metav1.ConditionTrue {
			t.Errorf("%s has the condition %s %+v", s.Phase, kind, got)
		}
	}
	for _, c := range s.Conditions {
		if c.LastTransitionTime.IsZero() || len(validation.IsCIdentifier(c.Reason)) > 0 || utf8.RuneCountInString(c.Message) > maxMessage {
			t.Errorf("a condition that the API refuses: %+v", c)
		}
	}
	want := status.InProgressStatus
	switch {
	case a.DeletionTimestamp != nil:
		want = status.TerminatingStatus
	case s.ObservedGeneration != a.Generation: // the manager has not seen the newest spec
	case over && (complete || s.Phase == v1alpha1.ActionCancelled) && Verified(s):
		want = status.CurrentStatus
	case over:
		want = status.FailedStatus
	}
	if got := kstatus(t, a); got != want {
		t.Errorf("kstatus says %s of %s (generation %d of %d), want %s", got, s.Phase, s.ObservedGeneration, a.Generation, want)
	}
}

// kstatus is what Flux and others make of an action.
func kstatus(t rapid.TB, a *v1alpha1.EndpointAction) status.Status {
	t.Helper()
	o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(a)
	if err != nil {
		t.Fatal(err)
	}
	result, err := status.Compute(&unstructured.Unstructured{Object: o})
	if err != nil {
		t.Fatal(err)
	}
	return result.Status
}

// roundTrip: the API server keeps a status as it was decided. What it would cut would differ at the next look.
func roundTrip(t rapid.TB, s *v1alpha1.EndpointActionStatus) {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	back := &v1alpha1.EndpointActionStatus{}
	if err := json.Unmarshal(b, back); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(s, back) {
		t.Errorf("the API keeps another status: %s", b)
	}
}
