package endpoint

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Reconcile brings one Endpoint up to date: one write of its status at most, one of its labels, none if nothing has changed.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	before := &v1alpha1.Endpoint{}
	if err := r.client.Get(ctx, req.NamespacedName, before); err != nil || before.DeletionTimestamp != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	now := r.Now()
	if wait := enrolling(before, now); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	ep := before.DeepCopy()
	obeyed, err := r.assign(ctx, ep, now)
	if err != nil {
		return ctrl.Result{}, err
	}
	keepJournal(ep)
	f := r.facts(ep, obeyed, now)
	next := record(f, judge(f))
	if err := r.write(ctx, before, ep); err != nil {
		if apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: retryNow}, nil
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	return ctrl.Result{RequeueAfter: next}, nil
}

// maxEnrolling is how long an enrolment may take before its Endpoint is judged all the same: nobody may come for the certificate any more.
const maxEnrolling = 30 * time.Second

// enrolling is how long an Endpoint is left alone that an enrolment has just made: it is about to be written again, and a verdict that nobody
// has asked for yet would only collide with that.
func enrolling(ep *v1alpha1.Endpoint, now time.Time) time.Duration {
	if _, is := ep.Annotations[v1alpha1.AnnotationEnrolling]; !is {
		return 0
	}
	return ep.CreationTimestamp.Add(maxEnrolling).Sub(now)
}

// facts are all that an endpoint is judged by.
type facts struct {
	// Endpoint has the conditions of the last time it was judged.
	*v1alpha1.Endpoint
	// policy that it obeys; nil for the defaults.
	policy *v1alpha1.EndpointPolicy
	now    time.Time

	// listenedFrom, listenedTo and missing are what is known of the gateways.
	listenedFrom, listenedTo, missing time.Time
	gatewayLease, gatewayGrace        time.Duration
	certificateExpiring, renewalGrace time.Duration
}

func (r *reconciler) facts(ep *v1alpha1.Endpoint, obeyed *v1alpha1.EndpointPolicy, now time.Time) *facts {
	f := &facts{
		Endpoint: ep, policy: obeyed, now: now, missing: r.Gateways.Missing(now),
		gatewayLease: r.GatewayLease, gatewayGrace: r.GatewayGrace, certificateExpiring: r.CertificateExpiring, renewalGrace: r.RenewalGrace,
	}
	f.listenedFrom, f.listenedTo = r.Gateways.Listened()
	return f
}

// verdict is what is said of an endpoint.
type verdict struct {
	conditions []metav1.Condition
	// next is when to judge again if nothing happens; zero for never.
	next time.Time
}

func judge(f *facts) verdict {
	online, deadline := online(f)
	healthy, change := healthy(f, online)
	v := verdict{conditions: []metav1.Condition{online, inSync(f, online), healthy}, next: sooner(deadline, change)}
	if c := conflict(f); c != nil {
		v.conditions = append(v.conditions, *c)
	}
	if c := stalled(f); c != nil {
		v.conditions = append(v.conditions, *c)
	}
	return v
}

// record puts a verdict into the status, and returns how long it holds if nothing happens.
func record(f *facts, v verdict) time.Duration {
	status := &f.Status
	for _, t := range []string{v1alpha1.EndpointIdentityConflict, v1alpha1.ConditionStalled} { // there only while they are true
		if meta.FindStatusCondition(v.conditions, t) == nil {
			meta.RemoveStatusCondition(&status.Conditions, t)
		}
	}
	for _, c := range v.conditions {
		c.ObservedGeneration, c.LastTransitionTime = f.Generation, metav1.NewTime(f.now)
		meta.SetStatusCondition(&status.Conditions, c)
	}
	if c := status.Connection; c != nil && c.Channel != v1alpha1.ChannelNone && meta.IsStatusConditionFalse(v.conditions, v1alpha1.EndpointOnline) {
		c.Channel, c.Gateway, c.SinceTime = v1alpha1.ChannelNone, "", &metav1.Time{Time: f.now}
	}
	status.ObservedGeneration = f.Generation
	status.Summary, status.Message = summary(f, v.conditions)
	if v.next.IsZero() {
		return 0
	}
	return max(v.next.Sub(f.now), time.Millisecond)
}

// write writes what has changed. The status goes under the resourceVersion that was judged: if anybody has written meanwhile, a gateway that
// has heard of the endpoint for instance, or another connection has taken its place, nothing is written, and it is judged again.
func (r *reconciler) write(ctx context.Context, before, ep *v1alpha1.Endpoint) error {
	if !equality.Semantic.DeepEqual(before.Status, ep.Status) {
		judged := ep.DeepCopy()
		if err := r.client.Status().Patch(ctx, ep, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return fmt.Errorf("write the status of Endpoint %s/%s: %w", before.Namespace, before.Name, err)
		}
		r.announce(before, judged)
	}
	unlabelled := ep.DeepCopy()
	if !label(ep) {
		return nil
	}
	if err := r.client.Patch(ctx, ep, client.MergeFromWithOptions(unlabelled, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("label Endpoint %s/%s: %w", before.Namespace, before.Name, err)
	}
	return nil
}

// sooner is the earlier of two times; zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
