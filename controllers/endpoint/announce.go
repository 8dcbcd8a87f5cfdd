package endpoint

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// announce tells of transitions that were written. An outage of the gateways is none of the endpoints': it would be one event for each.
func (r *reconciler) announce(before, after *v1alpha1.Endpoint) {
	was, is := condition(before, v1alpha1.EndpointOnline), condition(after, v1alpha1.EndpointOnline)
	switch {
	case is.Status == metav1.ConditionTrue && (was.Status == metav1.ConditionFalse || was.Reason == reasonNeverSeen || was.Reason == ""):
		r.events.Eventf(after, nil, corev1.EventTypeNormal, "Online", "Judge", "%s", is.Message)
	case is.Status == metav1.ConditionFalse && was.Status != metav1.ConditionFalse:
		r.events.Eventf(after, nil, corev1.EventTypeNormal, "Offline", "Judge", "%s", is.Message)
	}
	if from, to := shown(before), shown(after); from != to {
		message := "its machine is " + after.Status.Message
		if to == v1alpha1.LifecycleActive {
			message = fmt.Sprintf("its machine is let in again: it was %s", from)
		}
		r.events.Eventf(after, nil, corev1.EventTypeNormal, string(to), "Judge", "%s", message)
	}
	was, is = condition(before, v1alpha1.EndpointIdentityConflict), condition(after, v1alpha1.EndpointIdentityConflict)
	switch {
	case is.Reason != "" && is.Reason != was.Reason && is.Reason != reasonSuperseded: // of that one told who saw it
		r.events.Eventf(after, nil, corev1.EventTypeWarning, "IdentityConflict", "Judge", "%s", is.Message)
	case is.Reason == "" && was.Reason != "":
		r.events.Eventf(after, nil, corev1.EventTypeNormal, "IdentityConflictResolved", "Judge", "it is certain again which machine has this identity")
	}
}

// shown is the lifecycle that a status tells of.
func shown(ep *v1alpha1.Endpoint) v1alpha1.EndpointLifecycle {
	switch l := v1alpha1.EndpointLifecycle(ep.Status.Summary); l {
	case v1alpha1.LifecycleDecommissioned, v1alpha1.LifecycleBlocked, v1alpha1.LifecycleSuspended:
		return l
	default:
		return v1alpha1.LifecycleActive
	}
}

// condition is a copy of a condition; empty if it is not there.
func condition(ep *v1alpha1.Endpoint, t string) metav1.Condition {
	if c := meta.FindStatusCondition(ep.Status.Conditions, t); c != nil {
		return *c
	}
	return metav1.Condition{}
}
