package action

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// lookedAfter has the manager look at a parent, which must take a row of the table.
func lookedAfter(t rapid.TB, parent *v1alpha1.EndpointAction, l ParentLook, row Arrow) *v1alpha1.EndpointAction {
	t.Helper()
	status, got, err := NextParent(parent, l)
	if err != nil || got != row {
		t.Fatalf("a parent that is %s takes row %q, %v, want row %q", parent.Status.Phase, got, err, row)
	}
	after := parent.DeepCopy()
	after.Status = *status
	check(t, parent, after)
	return after
}

// brood are n children of a parent, in the order of their names.
func brood(parent *v1alpha1.EndpointAction, n int) (children []*v1alpha1.EndpointAction) {
	for i := range n {
		children = append(children, childOf(parent, fmt.Sprintf("pc-%02d", i)))
	}
	return children
}

// ends a child, without the way there.
func end(child *v1alpha1.EndpointAction, phase v1alpha1.ActionPhase, reason string) {
	s := begin(child)
	s.end(noon, phase, reason, "because")
	s.to.ObservedGeneration = 1
	child.Status = *s.to
}

func lookAfter(children []*v1alpha1.EndpointAction, after time.Duration) ParentLook {
	return ParentLook{Now: noon.Add(after), Children: children, All: true, Matched: len(children)}
}

// TestParent walks through rows P1, P2 and P4.
func TestParent(t *testing.T) {
	p := newParent()
	p.Spec.MaxParallel = ptr.To[int32](2)
	children := brood(p, 4)
	lookedAfter(t, p, ParentLook{Now: noon, Children: children[:2], Matched: 4}, None)
	p = lookedAfter(t, p, lookAfter(children, 0), "P1")
	c := p.Status.Children
	if c.Total != 4 || c.Waiting != 4 || c.Released != 2 || p.Status.Progress != "0/4" || reasonFor(&p.Status) != ReasonFanOut || p.Status.Message != "0 of 4 endpoints succeeded: at work" {
		t.Errorf("%+v, %s: %s", c, p.Status.Progress, p.Status.Message)
	}
	lookedAfter(t, p, lookAfter(children, time.Second), None)

	l := lookAt(devbox(), time.Second)
	l.Parent, l.Turn = p, 0
	children[0] = take(t, children[0], l, "2")
	lookedAfter(t, p, lookAfter(children, time.Second), None) // not yet
	p = lookedAfter(t, p, lookAfter(children, 5*time.Second), "P2")
	if c := p.Status.Children; c.Open != 1 || c.Waiting != 3 || c.Released != 2 {
		t.Errorf("%+v", c)
	}
	end(children[0], v1alpha1.ActionSucceeded, "Done")
	p = lookedAfter(t, p, lookAfter(children, 6*time.Second), "P2") // the next one's turn does not wait
	if c := p.Status.Children; c.Released != 3 || c.Succeeded != 1 || p.Status.Progress != "1/4" {
		t.Errorf("%+v, %s", c, p.Status.Progress)
	}
	lookedAfter(t, p, lookAfter(children[:3], 20*time.Second).unsure(), None) // one is not in the cache
	for _, child := range children[1:3] {
		end(child, v1alpha1.ActionSucceeded, "Done")
	}
	p = lookedAfter(t, p, lookAfter(children, 20*time.Second), "P2")
	p = lookedAfter(t, p, lookAfter(children[:3], 21*time.Second), "P4") // somebody has deleted the last one
	if p.Status.Phase != v1alpha1.ActionSucceeded || reasonFor(&p.Status) != ReasonDone || p.Status.Progress != "4/4" ||
		p.Status.Message != "3 of 4 endpoints succeeded, 1 were cancelled" {
		t.Errorf("%s, %s: %s", p.Status.Phase, p.Status.Progress, p.Status.Message)
	}
	lookedAfter(t, p, lookAfter(children, time.Hour), None)
	p.Generation = 2
	lookedAfter(t, p, lookAfter(children, time.Hour), "27")
}

func (l ParentLook) unsure() ParentLook {
	l.All = false
	return l
}

func TestNobodyMatches(t *testing.T) {
	p := lookedAfter(t, newParent(), lookAfter(nil, 0), "P4")
	if p.Status.Phase != v1alpha1.ActionSucceeded || reasonFor(&p.Status) != ReasonNoMatch || p.Status.Message != "no endpoint matches" {
		t.Errorf("%s, %s: %s", p.Status.Phase, reasonFor(&p.Status), p.Status.Message)
	}
}

// TestTooLateToBegin is row P7. Who has begun goes on.
func TestTooLateToBegin(t *testing.T) {
	p := newParent()
	p.Spec.StartingDeadlineSeconds = ptr.To[int32](60)
	lookedAfter(t, p, ParentLook{Now: noon.Add(59 * time.Second)}, None)
	late := lookedAfter(t, p, ParentLook{Now: noon.Add(time.Minute)}, "P7")
	if late.Status.Phase != v1alpha1.ActionExpired || reasonFor(&late.Status) != ReasonDeadlineExceeded || late.Status.Children != nil ||
		late.Status.Message != "its starting deadline had passed before it began: no endpoint was asked" {
		t.Errorf("%s, %s: %s", late.Status.Phase, reasonFor(&late.Status), late.Status.Message)
	}
	children := brood(p, 2)
	lookedAfter(t, p, ParentLook{Now: noon.Add(time.Hour), Children: children[:1], Matched: 2}, None)
	lookedAfter(t, p, lookAfter(children, time.Hour), "P1")
	p.Spec.Cancel = true
	lookedAfter(t, p, ParentLook{Now: noon.Add(time.Hour)}, "P6")
}

// TestChildrenFail is row P5.
func TestChildrenFail(t *testing.T) {
	p := newParent()
	children := brood(p, 30)
	p = lookedAfter(t, p, lookAfter(children, 0), "P1")
	for i, child := range children {
		phase := ends[i%len(ends)]
		end(child, phase, string(phase)+"Somehow")
	}
	forged, _ := Disbelieve(children[0], errors.New("forged"), noon)
	children[0].Status = *forged
	p = lookedAfter(t, p, lookAfter(children, time.Minute), "P5")
	c := p.Status.Children
	if c.Succeeded != 4 || c.Failed != 21 || c.Cancelled != 5 || len(c.Failures) != 20 || c.Waiting+c.Open != 0 {
		t.Errorf("%+v", c)
	}
	if got, want := c.Failures[:3], []v1alpha1.EndpointFailure{
		{EndpointName: "pc-00", Reason: "BadProof", Message: "do not believe this result: forged; the action was sent by an unknown gateway"},
		{EndpointName: "pc-01", Reason: "FailedSomehow", Message: "because"},
		{EndpointName: "pc-02", Reason: "UnknownSomehow", Message: "because"},
	}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if want := "4 of 30 endpoints succeeded, 21 failed, 5 were cancelled: pc-00 (BadProof), pc-01 (FailedSomehow),"; reasonFor(&p.Status) != ReasonChildrenFailed || !strings.HasPrefix(p.Status.Message, want) {
		t.Errorf("%s: %s", reasonFor(&p.Status), p.Status.Message)
	}
}

// TestTooManyFail is row P3, and that it is not taken back.
func TestTooManyFail(t *testing.T) {
	p := newParent()
	p.Spec.MaxParallel, p.Spec.MaxFailures = ptr.To[int32](1), ptr.To[int32](0)
	children := brood(p, 4)
	p = lookedAfter(t, p, lookAfter(children, 0), "P1")
	end(children[0], v1alpha1.ActionFailed, "NoSuchProcess")
	p = lookedAfter(t, p, lookAfter(children, time.Second), "P3")
	if reasonFor(&p.Status) != ReasonTooManyFailures || p.Status.Children.Released != 1 || p.Status.Phase != v1alpha1.ActionRunning {
		t.Errorf("%s, %+v", reasonFor(&p.Status), p.Status.Children)
	}
	lookedAfter(t, p, lookAfter(children, 2*time.Second), None)
	p = lookedAfter(t, p, lookAfter(children[1:], time.Minute), "P2") // the failed one was deleted
	if reasonFor(&p.Status) != ReasonTooManyFailures || p.Status.Children.Released != 1 {
		t.Errorf("it went on: %s, %+v", reasonFor(&p.Status), p.Status.Children)
	}
	for _, child := range children[1:] {
		end(child, v1alpha1.ActionCancelled, ReasonParentCancelled)
	}
	p = lookedAfter(t, p, lookAfter(children, 2*time.Minute), "P5")
	if reasonFor(&p.Status) != ReasonTooManyFailures {
		t.Errorf("it ended for %s", reasonFor(&p.Status))
	}
}

// TestParentCancelled is row P6.
func TestParentCancelled(t *testing.T) {
	cancelled := newParent()
	cancelled.Spec.Cancel = true
	if p := lookedAfter(t, cancelled, ParentLook{Now: noon}, "P6"); p.Status.Message != "cancelled before there was a child" {
		t.Error(p.Status.Message)
	}
	children := brood(cancelled, 2)
	p := lookedAfter(t, cancelled, lookAfter(children, 0).unsure(), "P3")
	lookedAfter(t, p, lookAfter(children, time.Second).unsure(), None)
	end(children[0], v1alpha1.ActionCancelled, ReasonParentCancelled)
	end(children[1], v1alpha1.ActionCancelled, ReasonParentCancelled)
	lookedAfter(t, p, lookAfter(children, time.Minute).unsure(), "P6")

	children = brood(cancelled, 2)
	p = lookedAfter(t, newParent(), lookAfter(children, 0), "P1")
	p.Spec.Cancel, p.Generation = true, 2
	p = lookedAfter(t, p, lookAfter(children, time.Second), "P3")
	end(children[0], v1alpha1.ActionFailed, "NoSuchProcess")
	lookedAfter(t, p, lookAfter(children, 2*time.Second), None)
	end(children[1], v1alpha1.ActionCancelled, ReasonParentCancelled)
	p = lookedAfter(t, p, lookAfter(children, time.Minute), "P6")
	if p.Status.Phase != v1alpha1.ActionCancelled || reasonFor(&p.Status) != ReasonCancelledByUser || p.Status.Message != "cancelled: 0 of 2 endpoints succeeded, 1 failed, 1 were cancelled" {
		t.Errorf("%s, %s: %s", p.Status.Phase, reasonFor(&p.Status), p.Status.Message)
	}
}

// TestMoreChildrenThanWereCounted: a manager that had not seen yet that another leads has made them.
func TestMoreChildrenThanWereCounted(t *testing.T) {
	p := newParent()
	p.Spec.MaxParallel = ptr.To[int32](1)
	children := brood(p, 3)
	p = lookedAfter(t, p, lookAfter(children[:2], 0), "P1")
	end(children[0], v1alpha1.ActionSucceeded, "Done")
	end(children[1], v1alpha1.ActionSucceeded, "Done")
	p = lookedAfter(t, p, lookAfter(children, time.Second), "P2")
	if c := p.Status.Children; c.Total != 3 || c.Released != 3 || p.Status.Progress != "2/3" {
		t.Errorf("%+v", c)
	}
	end(children[2], v1alpha1.ActionSucceeded, "Done")
	if p = lookedAfter(t, p, lookAfter(children, 2*time.Second), "P4"); p.Status.Message != "3 of 3 endpoints succeeded" {
		t.Error(p.Status.Message)
	}
}

// TestDeletedChildrenHadTheirTurn: else the places of others would move up, and more of them be let in than may be open.
func TestDeletedChildrenHadTheirTurn(t *testing.T) {
	p := newParent()
	p.Spec.MaxParallel = ptr.To[int32](1)
	children := brood(p, 5)
	p = lookedAfter(t, p, lookAfter(children, 0), "P1")
	for i := range 2 {
		end(children[i], v1alpha1.ActionSucceeded, "Done")
		p = lookedAfter(t, p, lookAfter(children, time.Second), "P2")
	}
	if p.Status.Children.Released != 3 {
		t.Fatalf("%+v", p.Status.Children)
	}
	lookedAfter(t, p, lookAfter(children[2:], 2*time.Second), None) // the two are deleted, the third is at work
	end(children[2], v1alpha1.ActionSucceeded, "Done")
	p = lookedAfter(t, p, lookAfter(children[2:], 3*time.Second), "P2")
	if c := p.Status.Children; c.Released != 4 || c.Cancelled != 2 {
		t.Errorf("%+v", c)
	}
}

func TestUnfitParents(t *testing.T) {
	odd := newParent()
	odd.Status.Phase = v1alpha1.ActionSent
	for _, a := range []*v1alpha1.EndpointAction{newAction(heartbeat), odd} {
		if status, row, err := NextParent(a, ParentLook{Now: noon}); !errors.Is(err, ErrUnfit) || row != None || status != nil {
			t.Errorf("row %q, %v", row, err)
		}
	}
}

// TestNoMoreThanMayBeOpen: whatever ends, and however old what the manager sees is, released lets no more in than may be open.
func TestNoMoreThanMayBeOpen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newParent()
		n, limit := rapid.IntRange(1, 8).Draw(t, "children"), rapid.IntRange(1, 4).Draw(t, "parallel")
		p.Spec.MaxParallel = ptr.To(int32(limit))
		children := brood(p, n)
		seen := make([]*v1alpha1.EndpointAction, n)
		p = lookedAfter(t, p, lookAfter(children, 0), "P1")
		for range 40 {
			i := rapid.IntRange(0, n-1).Draw(t, "which")
			if child := children[i]; i < int(p.Status.Children.Released) && !Ended(&child.Status) && rapid.Bool().Draw(t, "ends") {
				child = child.DeepCopy()
				end(child, rapid.SampledFrom(ends).Draw(t, "phase"), "Somehow")
				children[i] = child
			}
			for j := range seen {
				if seen[j] == nil || rapid.Bool().Draw(t, "the cache catches up") {
					seen[j] = children[j]
				}
			}
			status, _, err := NextParent(p, lookAfter(seen, time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			p.Status = *status
			open := 0
			for _, child := range children[:p.Status.Children.Released] {
				if !Ended(&child.Status) {
					open++
				}
			}
			if open > limit {
				t.Fatalf("%d of at most %d may be open", open, limit)
			}
			if Ended(&p.Status) {
				return
			}
		}
	})
}
