// Package action takes EndpointActions through the part of their life that is the manager's: it admits and signs them, ends those that never
// left the server, says of the others when nobody can know any more, makes the children of an action with a selector, and deletes what is over.
//
// What to write is decided by internal/action, whose table is docs/actions.md. Here are the facts for it, one file each: facts.go for an
// action on one endpoint, parent.go and children.go for one with a selector, verify.go for what agents report.
package action

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Options of the controller.
type Options struct {
	// FleetID and Orders are whose orders actions are. A Pending action that another key has signed is signed anew.
	FleetID string
	Orders  crypto.Signer
	// ReportMargin is the least time after its deadlines that an agent has for its report of an action; 0 is 15 minutes.
	ReportMargin time.Duration
	// ChildRetention is how long children that succeeded are kept after the end of the action with the selector.
	ChildRetention time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const (
	// workers: a write waits for the API server most of its time.
	workers = 16
	// retryNow is the pause after a lost race: the cache catches up meanwhile. maxRetry bounds the pauses after failures.
	retryNow = 50 * time.Millisecond
	maxRetry = 30 * time.Second
)

type reconciler struct {
	Options
	client client.Client
	// live reads the API server itself.
	live   client.Reader
	events events.EventRecorder
	// queue is the controller's own: actions with a selector call their children.
	queue   priorityqueue.PriorityQueue[reconcile.Request]
	seen    *sightings
	topics  *topics
	turns   *turns
	sweeper *rate.Limiter
}

// Setup adds the controller to a manager.
func Setup(ctx context.Context, mgr ctrl.Manager, opts Options) error {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	r := &reconciler{
		Options: opts, client: mgr.GetClient(), live: mgr.GetAPIReader(), events: mgr.GetEventRecorder("rollcall-manager"),
		seen: newSightings(), topics: newTopics(), turns: newTurns(), sweeper: rate.NewLimiter(sweepPace, sweepPace),
	}
	if err := index(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).Named("endpointaction").
		For(&v1alpha1.EndpointAction{}).
		Watches(&v1alpha1.EndpointAction{}, r.onActions()).
		Watches(&v1alpha1.Endpoint{}, r.onEndpoints()).
		Watches(&v1alpha1.EndpointPolicy{}, r.onPolicies()).
		WatchesRawSource(source.Func(r.keepQueue)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryNow, maxRetry),
		}).
		Complete(r)
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

func (r *reconciler) keepQueue(_ context.Context, q queue) error {
	var ok bool
	if r.queue, ok = q.(priorityqueue.PriorityQueue[reconcile.Request]); !ok {
		return errors.New("the queue of actions must know priorities")
	}
	return nil
}

// Indexes of the cache.
const (
	// byOpen finds the actions that have not ended, by their endpoint; under anyEndpoint all of a namespace.
	byOpen = "open"
	// byTopic finds the actions that were admitted on an endpoint's topic, ended or not.
	byTopic = "topic"
	// byParent finds the children of an action with a selector by its name.
	byParent = "parent"

	anyEndpoint = "*" // no name of an endpoint
)

func index(ctx context.Context, indexer client.FieldIndexer) error {
	for field, values := range map[string]func(*v1alpha1.EndpointAction) []string{
		byOpen:   openAt,
		byTopic:  admittedAt,
		byParent: parentName,
	} {
		err := indexer.IndexField(ctx, &v1alpha1.EndpointAction{}, field, func(o client.Object) []string {
			if a, ok := o.(*v1alpha1.EndpointAction); ok {
				return values(a)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("index EndpointActions by %s: %w", field, err)
		}
	}
	return nil
}
