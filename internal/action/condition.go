package action

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Conditions follow kstatus: Reconciling and Stalled are there only while they are true. lastTransitionTime of Reconciling is when it was
// written last, so that the pace of writes can be told from the action alone.

// wait says what the action waits for.
func (s *step) wait(now time.Time, reason, message string) {
	meta.RemoveStatusCondition(&s.to.Conditions, v1alpha1.ConditionReconciling)
	s.condition(now, v1alpha1.ConditionReconciling, metav1.ConditionTrue, reason, message)
	s.to.Message = cut(message, maxMessage)
}

// end ends the action. Nothing leads on from there but a result that comes late.
func (s *step) end(now time.Time, phase v1alpha1.ActionPhase, reason, message string) {
	meta.RemoveStatusCondition(&s.to.Conditions, v1alpha1.ConditionReconciling)
	kind := v1alpha1.ConditionFailed
	if phase == v1alpha1.ActionSucceeded {
		kind = v1alpha1.ConditionComplete
	}
	s.condition(now, kind, metav1.ConditionTrue, reason, message)
	if kind == v1alpha1.ConditionFailed && phase != v1alpha1.ActionCancelled {
		s.condition(now, v1alpha1.ConditionStalled, metav1.ConditionTrue, reason, message)
	}
	s.to.Phase, s.to.Message, s.to.FinishTime = phase, cut(message, maxMessage), ptr.To(second(now))
	if s.single() {
		s.to.Progress = ""
	}
}

func (s *step) condition(now time.Time, kind string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&s.to.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: cut(message, maxMessage),
		LastTransitionTime: second(now), ObservedGeneration: s.Generation,
	})
}

// waiting is what it waits for, as it was written last; nil if nothing was.
func waiting(s *v1alpha1.EndpointActionStatus) *metav1.Condition {
	return meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReconciling)
}

// waitsFor tells whether that is so already.
func waitsFor(s *v1alpha1.EndpointActionStatus, reason string) bool {
	c := waiting(s)
	return c != nil && c.Reason == reason
}

// freshly tells whether what the action waits for was written within a pace. What another's clock says is to come was not.
func freshly(s *v1alpha1.EndpointActionStatus, now time.Time, pace time.Duration) bool {
	c := waiting(s)
	return c != nil && !now.Before(c.LastTransitionTime.Time) && now.Before(c.LastTransitionTime.Add(pace))
}

// second is a time as the API keeps it: in UTC, cut to seconds.
func second(t time.Time) metav1.Time { return metav1.NewTime(t.UTC().Truncate(time.Second)) }

// micro is a time as the API keeps it where order matters: in UTC, cut to microseconds.
func micro(t time.Time) metav1.MicroTime {
	return metav1.NewMicroTime(t.UTC().Truncate(time.Microsecond))
}
