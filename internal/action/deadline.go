package action

import (
	"cmp"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

const (
	// reasonPace is the least time between two writes that tell nothing but what a Pending action waits for.
	reasonPace = time.Minute
	// runPace is that between two which tell how far it is, parentPace that of an action with a selector.
	runPace    = 30 * time.Second
	parentPace = 5 * time.Second
	// sendMargin before the starting deadline nothing is sent for the first time any more: it could not arrive in time.
	sendMargin = 5 * time.Second
	// reportMargin is the least time that an agent has for its report, unless the Look says otherwise; heartbeatMargin how many heartbeats at least.
	reportMargin    = 15 * time.Minute
	heartbeatMargin = 3
)

// startingTime is how long an action may wait to be started; the defaults are those of the field's comment.
func startingTime(spec *v1alpha1.EndpointActionSpec) time.Duration {
	if n := spec.StartingDeadlineSeconds; n != nil {
		return time.Duration(*n) * time.Second
	}
	switch spec.Type {
	case v1alpha1.LiveTerminal:
		return 5 * time.Minute
	case v1alpha1.PerformHeartbeat, v1alpha1.TerminateProcess, v1alpha1.SetEndpointProxy, v1alpha1.DisableEndpointProxy:
		return time.Hour
	default:
		return 30 * 24 * time.Hour
	}
}

// activeTime is how long an action may run, likewise.
func activeTime(spec *v1alpha1.EndpointActionSpec) time.Duration {
	if n := spec.ActiveDeadlineSeconds; n != nil {
		return time.Duration(*n) * time.Second
	}
	switch spec.Type {
	case v1alpha1.LiveTerminal, v1alpha1.RetrieveFiles, v1alpha1.RetrieveSecurityEventData, v1alpha1.RetrieveSupportFile:
		return time.Hour
	default:
		return time.Minute
	}
}

// startingDeadline is when the action may no longer start. It counts from its creation; a child's from its turn, which is when it is admitted,
// or held for something else. Once admitted, it stays what was signed.
func startingDeadline(a *v1alpha1.EndpointAction, now time.Time) time.Time {
	if a.Status.Admission != nil {
		return a.Status.Admission.StartingDeadline.Time
	}
	from := a.CreationTimestamp.Time
	if isChild(a) {
		from = now
		if c := waiting(&a.Status); c != nil && c.Reason != ReasonWaitingForTurn {
			from = c.LastTransitionTime.Time
		}
	}
	return second(from.Add(startingTime(&a.Spec))).Time
}

// reportDeadline is when an action that was sent must have been reported.
func reportDeadline(a *v1alpha1.EndpointAction, starting time.Time, l Look) time.Time {
	return starting.Add(activeTime(&a.Spec)).Add(max(cmp.Or(l.ReportMargin, reportMargin), heartbeatMargin*l.Endpoint.Interval))
}

// isChild tells whether an action was made for one with a selector.
func isChild(a *v1alpha1.EndpointAction) bool {
	owner := metav1.GetControllerOf(a)
	return owner != nil && owner.Kind == "EndpointAction"
}

// Due is when the manager has to look again if nothing happens; zero for never. It is no earlier than the deadline that it is for.
func Due(a *v1alpha1.EndpointAction, now time.Time) time.Time {
	switch {
	case Ended(&a.Status):
		return DeletionTime(a)
	case a.Spec.Selector != nil:
		if a.Status.Phase == v1alpha1.ActionRunning {
			return nextWrite(a, now, parentPace)
		}
		return time.Time{}
	case a.Status.Phase == v1alpha1.ActionSent || a.Status.Phase == v1alpha1.ActionRunning:
		if a.Status.Admission == nil {
			return time.Time{}
		}
		return a.Status.Admission.ReportDeadline.Time
	case isChild(a) && a.Status.Admission == nil && (waiting(&a.Status) == nil || waitsFor(&a.Status, ReasonWaitingForTurn)):
		return nextWrite(a, now, reasonPace)
	default:
		return sooner(startingDeadline(a, now), nextWrite(a, now, reasonPace))
	}
}

// DeletionTime is when an action that has ended is to be deleted, by its own ttlSecondsAfterFinished; zero for never.
func DeletionTime(a *v1alpha1.EndpointAction) time.Time {
	if a.Status.FinishTime == nil || a.Spec.TTLSecondsAfterFinished == nil {
		return time.Time{}
	}
	return a.Status.FinishTime.Add(time.Duration(*a.Spec.TTLSecondsAfterFinished) * time.Second)
}

// nextWrite is when something may be written again that was held back for a write shortly before; zero if nothing is held back.
func nextWrite(a *v1alpha1.EndpointAction, now time.Time, pace time.Duration) time.Time {
	if freshly(&a.Status, now, pace) {
		return waiting(&a.Status).LastTransitionTime.Add(pace)
	}
	return time.Time{}
}

// sooner of two times; zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
