package action

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// fleet makes endpoints.
func (w *world) fleet(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		w.endpoint(t, fmt.Sprintf("laptop-%02d", i))
	}
}

// askAll asks all laptops to terminate a process, so many at a time.
func (w *world) askAll(t *testing.T, name string, maxParallel int32, changes ...func(*v1alpha1.EndpointAction)) *v1alpha1.EndpointAction {
	t.Helper()
	return w.ask(t, name, v1alpha1.TerminateProcess, "", append([]func(*v1alpha1.EndpointAction){func(a *v1alpha1.EndpointAction) {
		a.Spec.Selector = &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{"device": "laptop"}}
		a.Spec.MaxParallel = &maxParallel
	}}, changes...)...)
}

// counts waits until a parent counts its children so.
func (w *world) counts(t *testing.T, parent string, want v1alpha1.ActionChildren) *v1alpha1.EndpointAction {
	t.Helper()
	return w.until(t, parent, func(a *v1alpha1.EndpointAction) error {
		c := ptr.Deref(a.Status.Children, v1alpha1.ActionChildren{})
		if c.Failures = nil; fmt.Sprint(c) != fmt.Sprint(want) {
			return fmt.Errorf("it counts %+v, want %+v", c, want)
		}
		return nil
	})
}

// open waits until exactly so many children may be sent, and returns them.
func (w *world) open(t *testing.T, parent string, n int) (open []*v1alpha1.EndpointAction) {
	t.Helper()
	harness.Eventually(t, patience, func() error {
		open = nil
		for _, child := range w.children(t, parent) {
			if child.Status.Admission != nil && !decide.Ended(&child.Status) {
				open = append(open, child)
			}
		}
		if len(open) != n {
			return fmt.Errorf("%d are open, want %d", len(open), n)
		}
		return nil
	})
	return open
}

// TestFanOut: one child for each endpoint that matches, as the parent asks, and so many at a time.
func TestFanOut(t *testing.T) {
	w := start(t)
	w.fleet(t, 5)
	w.endpoint(t, "server")
	w.label(t, "server", "server")
	somebody := "system:serviceaccount:" + w.name + ":person"
	parent := w.askAll(t, "stop-all", 2, func(a *v1alpha1.EndpointAction) {
		a.Annotations = map[string]string{v1alpha1.AnnotationRequestedBy: somebody}
		a.Spec.Reason, a.Spec.TTLSecondsAfterFinished = "exercise", ptr.To[int32](3600)
	})
	w.counts(t, "stop-all", v1alpha1.ActionChildren{Total: 5, Waiting: 5, Released: 2})
	endpoints := map[string]bool{}
	for _, child := range w.children(t, "stop-all") {
		endpoints[string(child.Spec.EndpointName)] = true
		want := parent.Spec.DeepCopy()
		want.Selector, want.MaxParallel, want.TTLSecondsAfterFinished, want.EndpointName = nil, nil, nil, child.Spec.EndpointName
		owner := metav1.GetControllerOf(child)
		if !equality.Semantic.DeepEqual(&child.Spec, want) || child.Annotations[v1alpha1.AnnotationRequestedBy] != somebody || owner == nil || owner.UID != parent.UID ||
			!strings.HasPrefix(child.Name, "stop-all-") {
			t.Errorf("a child is %+v", child)
		}
	}
	if got := slices.Sorted(maps.Keys(endpoints)); len(got) != 5 || endpoints["server"] {
		t.Errorf("the children are for %v", got)
	}
	for done := range 5 {
		open := w.open(t, "stop-all", min(2, 5-done))
		w.succeed(t, open[0].Name)
	}
	a := w.is(t, "stop-all", v1alpha1.ActionSucceeded, decide.ReasonDone)
	if a.Status.Progress != "5/5" || a.Status.Children.Succeeded != 5 {
		t.Errorf("it says %q, %+v", a.Status.Progress, a.Status.Children)
	}
	w.told(t, "stop-all", "Normal Succeeded")
	for _, child := range w.children(t, "stop-all") {
		w.told(t, child.Name) // nothing
		if byManager, byGateway := w.writes(t, child.Name); byManager != 2 || byGateway != 2 {
			t.Errorf("%s cost the manager %d writes, its creation included, the gateway %d", child.Name, byManager, byGateway)
		}
	}
}

// TestAChildWaitsForItsTurn: and says so to whoever has it looked at.
func TestAChildWaitsForItsTurn(t *testing.T) {
	w := start(t)
	w.fleet(t, 2)
	w.askAll(t, "stop-all", 1)
	first := w.open(t, "stop-all", 1)[0].Name
	second := w.children(t, "stop-all")[1].Name
	w.touch(t, second, `{"metadata":{"annotations":{"look":"again"}}}`)
	if a := w.is(t, second, v1alpha1.ActionPending, decide.ReasonWaitingForTurn); a.Status.Admission != nil {
		t.Error("it was admitted all the same")
	}
	w.cancel(t, first)
	w.admitted(t, second)
}

// TestDeletedChildrenHadTheirTurns: who tidies up what has ended lets nobody in before the others have.
func TestDeletedChildrenHadTheirTurns(t *testing.T) {
	w := start(t)
	w.fleet(t, 6)
	w.askAll(t, "stop-all", 1)
	for range 3 {
		name := w.open(t, "stop-all", 1)[0].Name
		w.succeed(t, name)
		w.is(t, name, v1alpha1.ActionSucceeded, decide.ReasonDone)
		if err := w.person.Delete(t.Context(), w.get(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	a := w.until(t, "stop-all", func(a *v1alpha1.EndpointAction) error {
		if c := a.Status.Children; c == nil || c.Released != 4 || c.Open != 1 {
			return fmt.Errorf("it counts %+v, want the fourth to be open", c)
		}
		return nil
	})
	w.touch(t, a.Name, `{"metadata":{"annotations":{"look":"again"}}}`)
	w.open(t, "stop-all", 1)
}

// TestNothingMatches: there is nothing to do, and somebody may have meant something else.
func TestNothingMatches(t *testing.T) {
	w := start(t)
	w.askAll(t, "stop-all", 2)
	w.is(t, "stop-all", v1alpha1.ActionSucceeded, decide.ReasonNoMatch)
	w.told(t, "stop-all", "Warning Succeeded")
}

// TestTooManyFailures: no more are sent, and those that were go on.
func TestTooManyFailures(t *testing.T) {
	w := start(t)
	w.fleet(t, 6)
	w.askAll(t, "stop-all", 2, func(a *v1alpha1.EndpointAction) { a.Spec.MaxFailures = ptr.To[int32](0) })
	open := w.open(t, "stop-all", 2)
	w.send(t, open[0].Name)
	w.send(t, open[1].Name)
	w.report(t, open[0].Name, agentv1.Outcome_OUTCOME_FAILED, "NoSuchProcess")
	w.is(t, "stop-all", v1alpha1.ActionRunning, decide.ReasonTooManyFailures)
	w.counts(t, "stop-all", v1alpha1.ActionChildren{Total: 6, Open: 1, Failed: 1, Cancelled: 4, Released: 2})
	w.report(t, open[1].Name, agentv1.Outcome_OUTCOME_SUCCEEDED, "Done")
	a := w.is(t, "stop-all", v1alpha1.ActionFailed, decide.ReasonTooManyFailures)
	if f := a.Status.Children.Failures; len(f) != 1 || f[0].EndpointName != open[0].Spec.EndpointName || f[0].Reason != "NoSuchProcess" {
		t.Errorf("it names %+v", f)
	}
	w.told(t, "stop-all", "Warning Failed")
}

// TestCancelAll: what was not sent never will be, and what was is asked to stop.
func TestCancelAll(t *testing.T) {
	w := start(t)
	w.fleet(t, 4)
	w.askAll(t, "stop-all", 2)
	sent := w.open(t, "stop-all", 2)[0].Name
	w.send(t, sent)
	w.cancel(t, "stop-all")
	w.is(t, sent, v1alpha1.ActionSent, decide.ReasonCancelRequested)
	for _, child := range w.children(t, "stop-all") {
		if child.Name != sent {
			w.is(t, child.Name, v1alpha1.ActionCancelled, decide.ReasonParentCancelled)
		}
	}
	w.report(t, sent, agentv1.Outcome_OUTCOME_CANCELLED, "CancelledByUser")
	w.is(t, "stop-all", v1alpha1.ActionCancelled, decide.ReasonCancelledByUser)
	w.told(t, "stop-all", "Normal Cancelled")
}

// TestAnotherManagerGoesOn: one that is stopped in the middle of a fan-out leaves the rest to the next.
func TestAnotherManagerGoesOn(t *testing.T) {
	w := start(t)
	w.fleet(t, 20)
	w.askAll(t, "stop-all", 3)
	harness.Eventually(t, patience, func() error {
		if len(w.children(t, "stop-all")) == 0 {
			return errors.New("no child yet")
		}
		return nil
	})
	w.stop()
	w.run(t, orderKey("a"))
	w.counts(t, "stop-all", v1alpha1.ActionChildren{Total: 20, Waiting: 20, Released: 3})
	w.open(t, "stop-all", 3)
	w.stop()
	w.run(t, orderKey("a"))
	w.succeed(t, w.open(t, "stop-all", 3)[0].Name)
	w.open(t, "stop-all", 3)
	if n := len(w.children(t, "stop-all")); n != 20 {
		t.Errorf("there are %d children", n)
	}
}

// TestAForgedResultEndsNothingWell: a parent counts what agents have signed.
func TestAForgedResultEndsNothingWell(t *testing.T) {
	w := start(t)
	w.fleet(t, 2)
	w.askAll(t, "stop-all", 2)
	children := w.open(t, "stop-all", 2)
	w.succeed(t, children[0].Name)
	w.send(t, children[1].Name)
	w.move(t, children[1].Name, func(a *v1alpha1.EndpointAction) decide.Event {
		forger := w.machines[string(children[0].Spec.EndpointName)]
		return reported(t, forger.key, result(a, agentv1.Outcome_OUTCOME_SUCCEEDED, "Done"))
	})
	a := w.is(t, "stop-all", v1alpha1.ActionFailed, decide.ReasonChildrenFailed)
	if f := a.Status.Children.Failures; len(f) != 1 || f[0].Reason != decide.ReasonBadProof {
		t.Errorf("it names %+v", f)
	}
	if !meta.IsStatusConditionFalse(w.get(t, children[1].Name).Status.Conditions, v1alpha1.ConditionResultVerified) {
		t.Error("the child does not say so")
	}
	w.told(t, children[1].Name, "Warning BadProof")
}

// TestChildrenGoWithTheirParent: at once, though the garbage collector is slow; and another of the same name gets its own.
func TestChildrenGoWithTheirParent(t *testing.T) {
	w := start(t)
	w.fleet(t, 3)
	w.askAll(t, "stop-all", 1)
	w.counts(t, "stop-all", v1alpha1.ActionChildren{Total: 3, Waiting: 3, Released: 1})
	old := w.children(t, "stop-all")
	if err := w.person.Delete(t.Context(), w.get(t, "stop-all"), client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	w.askAll(t, "stop-all", 3)
	w.open(t, "stop-all", 3)
	for _, child := range old {
		w.gone(t, child.Name)
	}
	if n := len(w.children(t, "stop-all")); n != 3 {
		t.Errorf("the new one has %d children", n)
	}
}

// TestSucceededChildrenAreNotKept: those that failed stay for people to read.
func TestSucceededChildrenAreNotKept(t *testing.T) {
	w := begin(t)
	w.retention = 2 * time.Second
	w.run(t, orderKey("a"))
	w.fleet(t, 2)
	w.askAll(t, "stop-all", 2)
	children := w.open(t, "stop-all", 2)
	w.succeed(t, children[0].Name)
	w.send(t, children[1].Name)
	w.report(t, children[1].Name, agentv1.Outcome_OUTCOME_FAILED, "NoSuchProcess")
	end := w.is(t, "stop-all", v1alpha1.ActionFailed, decide.ReasonChildrenFailed).Status.FinishTime.Time
	w.gone(t, children[0].Name)
	if kept := time.Since(end); kept < w.retention {
		t.Errorf("it was kept for %s", kept)
	}
	w.get(t, children[1].Name)
	if c := w.get(t, "stop-all").Status.Children; c.Total != 2 || c.Succeeded != 1 {
		t.Errorf("the parent counts %+v now", c)
	}
}

// TestAChildOfAReplacedEndpoint: an Endpoint of the same name is not the one that it was made for.
func TestAChildOfAReplacedEndpoint(t *testing.T) {
	w := start(t)
	w.fleet(t, 2)
	w.askAll(t, "stop-all", 1)
	w.counts(t, "stop-all", v1alpha1.ActionChildren{Total: 2, Waiting: 2, Released: 1})
	w.open(t, "stop-all", 1)
	waiting := w.children(t, "stop-all")[1]
	ep := &v1alpha1.Endpoint{}
	w.find(t, string(waiting.Spec.EndpointName), ep)
	if err := w.person.Delete(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
	w.endpoint(t, ep.Name)
	w.is(t, waiting.Name, v1alpha1.ActionCancelled, decide.ReasonEndpointDeleted)
}
