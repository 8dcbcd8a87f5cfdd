package main

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// evidence is what a run has left.
type evidence struct {
	// ends are those that the action may come to, channel is the one that it is to go by.
	ends    []v1alpha1.ActionPhase
	channel v1alpha1.Channel
	action  *v1alpha1.EndpointAction
	// children of an action with a selector.
	children []*v1alpha1.EndpointAction
	// records are what the journals of the agents say of the action, or of its children; nil: nothing.
	records []*statev1.JournalRecord
	// terms is how many TERMs the victim got, most how many it may have got.
	terms, most int
}

// singles are the actions on one endpoint.
func (e *evidence) singles() []*v1alpha1.EndpointAction {
	if e.action.Spec.Selector != nil {
		return e.children
	}
	return []*v1alpha1.EndpointAction{e.action}
}

// restored begins the reason of an end that was reported of what was never sent.
const restored = "Restored"

// judge is what is wrong; nothing, if all is as it was promised.
func (e *evidence) judge() (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if e.terms > e.most {
		say("it was done %d times", e.terms)
	}
	if ended(e.action) && !slices.Contains(e.ends, e.action.Status.Phase) {
		say("it ended %s (%s), not %v", e.action.Status.Phase, e.action.Status.Message, e.ends)
	}
	done := 0
	for i, a := range e.singles() {
		if a.Status.Phase == v1alpha1.ActionSucceeded {
			done++
		}
		for _, w := range e.judgeOne(a, e.records[i]) {
			say("%s: %s", a.Name, w)
		}
	}
	if e.action.Spec.Selector != nil {
		if !ended(e.action) {
			say("the action with the selector has not ended: %s", e.action.Status.Message)
		}
		children := e.most
		if e.action.Status.Phase == v1alpha1.ActionExpired { // it has not begun
			children = 0
		}
		if len(e.children) != children {
			say("there are %d children, and not %d", len(e.children), children)
		}
	}
	if e.terms < done {
		say("%d say that it was done, and it was done %d times", done, e.terms)
	}
	return wrong
}

// judgeOne is what is wrong with an action on one endpoint.
func (e *evidence) judgeOne(a *v1alpha1.EndpointAction, r *statev1.JournalRecord) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	s := &a.Status
	begun := r.GetStartedAt() != nil || e.terms > 0 && len(e.singles()) == 1
	switch {
	case !ended(a):
		return append(wrong, fmt.Sprintf("it is %s, and has no end: %s", s.Phase, s.Message))
	case s.Admission != nil && s.FinishTime.After(s.Admission.ReportDeadline.Add(lateness)):
		say("it ended at %s, after its report deadline %s", s.FinishTime, s.Admission.ReportDeadline)
	case begun && (s.Phase == v1alpha1.ActionExpired || s.Phase == v1alpha1.ActionUnsupported):
		say("it is said to be %s, and was begun", s.Phase)
	case begun && s.Phase == v1alpha1.ActionCancelled && !stopped(s):
		say("it is said to be cancelled before it began, and was begun")
	}
	if r.GetResult() != nil && s.Result == nil {
		say("the agent's result is lost")
	}
	if r != nil && r.GetState() != statev1.JournalState_JOURNAL_STATE_SETTLED {
		say("the agent still has it as %s", r.GetState())
	}
	if meta.IsStatusConditionFalse(s.Conditions, v1alpha1.ConditionResultVerified) {
		say("its result does not verify")
	}
	if slices.ContainsFunc(s.Conditions, func(c metav1.Condition) bool { return strings.HasPrefix(c.Reason, restored) }) {
		say("it was reported before it was sent, and no etcd was restored here")
	}
	return wrong
}

// strayed tells whether the action, or a child, went by another channel.
func (e *evidence) strayed() bool {
	return slices.ContainsFunc(e.singles(), func(a *v1alpha1.EndpointAction) bool {
		return a.Status.Delivery != nil && a.Status.Delivery.Channel != e.channel
	})
}

// stopped tells whether the agent said that it stopped what it had begun.
func stopped(s *v1alpha1.EndpointActionStatus) bool {
	return s.Result != nil && s.Delivery != nil && s.Delivery.StartedTime != nil
}

// settled tells whether nothing more happens to an action.
func settled(a *v1alpha1.EndpointAction, r *statev1.JournalRecord) bool {
	return ended(a) && (r == nil || r.GetState() == statev1.JournalState_JOURNAL_STATE_SETTLED)
}
