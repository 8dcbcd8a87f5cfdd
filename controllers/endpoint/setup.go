// Package endpoint says of every Endpoint whether it is there, in sync and healthy, and assigns its policy.
//
// What to say is decided by pure functions, one file each: online.go, insync.go, healthy.go, conflict.go, summary.go. They judge facts, and
// the time is one of these.
package endpoint

import (
	"context"
	"crypto"
	"time"

	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/policy"
)

// Gateways tells whether endpoints could be heard.
type Gateways interface {
	// Listened is the newest stretch of time without a break in which some gateway was alive, as was seen. Both are zero before any was.
	Listened() (from, to time.Time)
	// Missing is since when the API server has answered without a break and shown no gateway that is alive; zero: there is one, or the
	// API server does not answer.
	Missing(now time.Time) time.Time
}

// Options of the controller.
type Options struct {
	// FleetID and Orders are whose orders assignments are. Where another key or fleet has signed one, it is signed anew.
	FleetID string
	Orders  crypto.Signer

	Gateways Gateways
	// GatewayLease is how long a sign of life of a gateway is good for, GatewayGrace how long none may come until endpoints are Unknown.
	GatewayLease, GatewayGrace time.Duration

	// CertificateExpiring is how long before its end a certificate should have been renewed, RenewalGrace how long after it still can be.
	CertificateExpiring, RenewalGrace time.Duration

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const (
	// workers: a write waits for the API server most of its time.
	workers = 8
	// retryNow is the pause after a lost race: the cache catches up meanwhile. maxRetry bounds the pauses after failures.
	retryNow = 50 * time.Millisecond
	maxRetry = 30 * time.Second
)

type reconciler struct {
	Options
	client client.Client
	events events.EventRecorder
}

// Setup adds the controller to a manager.
func Setup(mgr ctrl.Manager, opts Options) error {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	r := &reconciler{Options: opts, client: mgr.GetClient(), events: mgr.GetEventRecorder("rollcall-manager")}
	return ctrl.NewControllerManagedBy(mgr).Named("endpoint").
		For(&v1alpha1.Endpoint{}).
		Watches(&v1alpha1.EndpointPolicy{}, r.onPolicies()).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryNow, maxRetry),
		}).
		Complete(r)
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// onPolicies has the endpoints judged again that a policy selects, and those that it selected before it changed: they obey it, may obey it
// from now on, or no longer.
func (r *reconciler) onPolicies() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { r.enqueueSelected(ctx, q, e.Object) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { r.enqueueSelected(ctx, q, e.Object) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			if concerns(e.ObjectOld, e.ObjectNew) {
				r.enqueueSelected(ctx, q, e.ObjectOld)
				r.enqueueSelected(ctx, q, e.ObjectNew)
			}
		},
	}
}

// concerns tells whether endpoints have to know of a change. Counts and conditions are none of their business.
func concerns(before, after client.Object) bool {
	a, okA := before.(*v1alpha1.EndpointPolicy)
	b, okB := after.(*v1alpha1.EndpointPolicy)
	return okA && okB && (a.UID != b.UID || a.Generation != b.Generation || a.Status.Revision != b.Status.Revision ||
		(a.Status.Order == nil) != (b.Status.Order == nil) || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil))
}

func (r *reconciler) enqueueSelected(ctx context.Context, q queue, o client.Object) {
	p, ok := o.(*v1alpha1.EndpointPolicy)
	if !ok || p.Status.Order == nil { // nobody obeys what is not signed
		return
	}
	selector, err := policy.Selector(p.Spec.Selector)
	if err != nil { // the API lets none through, and it selects nothing
		return
	}
	var list v1alpha1.EndpointList
	err = r.client.List(ctx, &list, client.InNamespace(p.Namespace), client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy)
	if err != nil {
		log.FromContext(ctx).Error(err, "The endpoints of a policy cannot be listed.", "namespace", p.Namespace, "policy", p.Name)
		return
	}
	for i := range list.Items {
		q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
}
