// Package release fetches and verifies what ContentReleases name, keeps it where gateways find it, signs the offers that agents get, and counts who
// has taken them. Which release an endpoint should have is decided in internal/release.
package release

import (
	"context"
	"crypto"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/artifact"
)

// Options of the controllers.
type Options struct {
	// FleetID and Orders are whose orders the offers are. Where another key or fleet has signed one, it is signed anew.
	FleetID string
	Orders  crypto.Signer
	// Keys are the release keys that the newest trust bundle names. KeysChanged tells of others.
	Keys        func() []crypto.PublicKey
	KeysChanged <-chan event.GenericEvent
	// Store is where artifacts are kept, Sources where they are fetched from.
	Store   *artifact.Store
	Sources Sources
	// NotShared: gateways run apart from this manager, and nobody has said that they see its Store, too.
	NotShared bool
	// CountInterval is how often the endpoints of a namespace are counted, at most.
	CountInterval time.Duration
	// Recheck is how often what is in the store is verified again, and swept of what no release names.
	Recheck time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Setup adds to a manager the controller of the leader, and what every replica runs: a controller that fills the store beside it, where that is not a
// shared one, and a sweeper of it.
func Setup(ctx context.Context, mgr ctrl.Manager, opts Options) error {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	opts.Sources.Live = mgr.GetAPIReader()
	artifacts := newArtifacts(opts)
	counts := newCounts(mgr.GetClient(), opts.CountInterval, opts.Now)
	r := &reconciler{Options: opts, client: mgr.GetClient(), artifacts: artifacts, counts: counts, events: mgr.GetEventRecorder("rollcall-manager"), signed: map[string]int64{}}
	if _, err := mgr.GetCache().GetInformer(ctx, &v1alpha1.EndpointPolicy{}); err != nil {
		return fmt.Errorf("watch EndpointPolicies: %w", err)
	}
	err := ctrl.NewControllerManagedBy(mgr).Named("contentrelease").
		For(&v1alpha1.ContentRelease{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.ContentRelease{}, handler.EnqueueRequestsFromMapFunc(r.neighbours), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.Endpoint{}, counts.handler()).
		WatchesRawSource(source.Channel(opts.KeysChanged, handler.EnqueueRequestsFromMapFunc(r.everything))).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return err
	}
	seen := &fleet{releases: mgr.GetClient(), leading: mgr.Elected()}
	metrics.Registry.Unregister(seen) // that of a manager before, in this process
	if err := metrics.Registry.Register(seen); err != nil {
		return err
	}
	if err := mgr.Add(&sweeper{artifacts, mgr.GetLogger().WithName("contentartifact")}); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).Named("contentartifact").
		For(&v1alpha1.ContentRelease{}).
		WithOptions(controller.Options{NeedLeaderElection: ptr.To(false), MaxConcurrentReconciles: workers}).
		Complete(&filler{client: mgr.GetClient(), artifacts: artifacts, recheck: opts.Recheck})
}

// neighbours are the other releases of a namespace: they may have the same version, or be what an endpoint goes back to.
func (r *reconciler) neighbours(ctx context.Context, changed client.Object) (all []reconcile.Request) {
	return r.list(ctx, client.InNamespace(changed.GetNamespace()))
}

func (r *reconciler) everything(ctx context.Context, _ client.Object) []reconcile.Request {
	return r.list(ctx)
}

func (r *reconciler) list(ctx context.Context, in ...client.ListOption) (all []reconcile.Request) {
	var list v1alpha1.ContentReleaseList
	if err := r.client.List(ctx, &list, append(in, client.UnsafeDisableDeepCopy)...); err != nil {
		return nil // from a cache that is filled
	}
	for i := range list.Items {
		all = append(all, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: list.Items[i].Namespace, Name: list.Items[i].Name}})
	}
	return all
}

// filler has every replica's store hold what the leader has verified.
type filler struct {
	client    client.Client
	artifacts *artifacts
	recheck   time.Duration
}

// Reconcile fetches an artifact that is missing here.
func (f *filler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	r := &v1alpha1.ContentRelease{}
	if err := f.client.Get(ctx, req.NamespacedName, r); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if r.Status.Offer == nil {
		return ctrl.Result{}, nil
	}
	if _, err := f.artifacts.ensure(ctx, r); err != nil {
		if problemOf(err).reason == reasonFetching {
			return ctrl.Result{RequeueAfter: retryFetchLeast}, nil
		}
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: f.recheck}, nil
}
