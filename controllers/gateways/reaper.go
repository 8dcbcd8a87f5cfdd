package gateways

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

const (
	// byGateway finds the Endpoints whose session a gateway is said to have.
	byGateway = "status.connection.gateway"
	// pace of giving sessions up, per second: what a lost gateway leaves behind is in no hurry, others are.
	pace = 50
	// batch is how many are given up between two questions whether the gateway is gone. nextBatch is the pause before the next, in which
	// the cache learns of this one.
	batch     = 200
	nextBatch = time.Second
	// minRetry and maxRetry bound the pauses after failures.
	minRetry = 50 * time.Millisecond
	maxRetry = 30 * time.Second
)

// errGatewayGone is status.connection.error of a session that was given up.
const errGatewayGone = "its gateway is gone"

var givenUp = prometheus.NewCounter(prometheus.CounterOpts{
	Name: "rollcall_sessions_given_up_total", Help: "Sessions that were given up because their gateway was gone.",
})

func init() { metrics.Registry.MustRegister(givenUp) }

// reaper gives up sessions whose gateway is gone. A request of its queue is a gateway's name.
//
// A session without its gateway would be a ghost: nobody ends it, and its endpoint would be online for ever. An agent that has found another
// gateway meanwhile is none of its business, so it touches nothing that has changed since it looked.
type reaper struct {
	*Watcher
	client client.Client
	pacer  *rate.Limiter
}

func setupReaper(mgr ctrl.Manager, w *Watcher) error {
	err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.Endpoint{}, byGateway, func(o client.Object) []string {
		if name := gatewayOf(o); name != "" {
			return []string{name}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index Endpoints by their gateway: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).Named("gateway").
		Watches(&v1alpha1.Endpoint{}, handler.Funcs{
			CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { enqueue(q, "", gatewayOf(e.Object)) },
			UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
				enqueue(q, gatewayOf(e.ObjectOld), gatewayOf(e.ObjectNew))
			},
		}).
		WithOptions(controller.Options{
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minRetry, maxRetry),
		}).
		Complete(&reaper{Watcher: w, client: mgr.GetClient(), pacer: rate.NewLimiter(pace, pace)})
}

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// gatewayOf is the gateway that has the session of an Endpoint; "" for none.
func gatewayOf(o client.Object) string {
	ep, ok := o.(*v1alpha1.Endpoint)
	if !ok || ep.Status.Connection == nil || ep.Status.Connection.Channel != v1alpha1.ChannelWebSocket {
		return ""
	}
	return string(ep.Status.Connection.Gateway)
}

func enqueue(q queue, before, now string) {
	if now != "" && now != before {
		q.Add(reconcile.Request{NamespacedName: types.NamespacedName{Name: now}})
	}
}

// Reconcile comes back for as long as some session is said to be the gateway's, and gives those up once it is gone.
func (r *reaper) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	gateway := req.Name
	if wait := r.untilGone(gateway, time.Now()); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	var left v1alpha1.EndpointList
	err := r.client.List(ctx, &left, client.MatchingFields{byGateway: gateway}, client.Limit(batch), client.UnsafeDisableDeepCopy)
	if err != nil || len(left.Items) == 0 {
		return ctrl.Result{}, err
	}
	switch gone, err := r.gone(ctx, gateway); {
	case err != nil:
		return ctrl.Result{}, err
	case !gone:
		return ctrl.Result{RequeueAfter: max(minRetry, r.untilGone(gateway, time.Now()))}, nil
	}
	n, err := r.giveUp(ctx, left.Items)
	if n > 0 {
		log.FromContext(ctx).Info("A gateway is gone: its sessions were given up.", "gateway", gateway, "sessions", n)
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: nextBatch}, nil
}

// giveUp writes that endpoints have no session, one after another and not too fast, and counts. Those that were written meanwhile are left:
// another gateway may have them. The error is the first of several.
func (r *reaper) giveUp(ctx context.Context, endpoints []v1alpha1.Endpoint) (n int, failed error) {
	for i := range endpoints {
		if err := r.pacer.Wait(ctx); err != nil {
			return n, cmp.Or(failed, err)
		}
		ep := endpoints[i].DeepCopy()
		c := ep.Status.Connection
		c.Channel, c.Gateway, c.SinceTime, c.Error = v1alpha1.ChannelNone, "", &metav1.Time{Time: time.Now()}, errGatewayGone
		err := r.client.Status().Patch(ctx, ep, client.MergeFromWithOptions(&endpoints[i], client.MergeFromWithOptimisticLock{}))
		switch {
		case err == nil:
			n++
			givenUp.Inc()
		case !apierrors.IsConflict(err) && !apierrors.IsNotFound(err):
			failed = cmp.Or(failed, fmt.Errorf("give up the session of Endpoint %s/%s: %w", ep.Namespace, ep.Name, err))
		}
	}
	return n, failed
}
