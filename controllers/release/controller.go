package release

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/internal/policy"
	decide "github.com/rollcall-dev/rollcall/internal/release"
)

const (
	// retryNow is the pause after a lost race: the cache catches up meanwhile.
	retryNow = 50 * time.Millisecond
	// retryFetch bounds the pauses between attempts to fetch: they double from the least to the most.
	retryFetchLeast, retryFetchMost = 2 * time.Second, 5 * time.Minute
)

type reconciler struct {
	Options
	client    client.Client
	artifacts *artifacts
	counts    *counts
	events    events.EventRecorder
	signing   sync.Mutex // two offers of a namespace may never have one sequence
	// signed is the highest sequence that this process has signed in each namespace: the cache may lag behind.
	signed map[string]int64
}

// Reconcile brings one release's status up to date, and comes back to count again.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	release := &v1alpha1.ContentRelease{}
	if err := r.client.Get(ctx, req.NamespacedName, release); err != nil || release.DeletionTimestamp != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var all v1alpha1.ContentReleaseList
	if err := r.client.List(ctx, &all, client.InNamespace(req.Namespace)); err != nil {
		return ctrl.Result{}, err
	}
	before := release.DeepCopy()
	if release.Status.Conditions == nil { // seen, and said so, before something that may take its time
		setConditions(release, &problem{reason: reasonFetching, message: "fetching " + where(release.Spec.Source), passes: true})
		return ctrl.Result{RequeueAfter: retryNow}, ignoreConflict(r.write(ctx, before, release))
	}
	wrong, err := r.offer(ctx, release, all.Items)
	if err != nil {
		return ctrl.Result{}, err
	}
	if wrong != nil && wrong.reason == reasonFetching { // what was said of it holds until its turn comes
		return ctrl.Result{RequeueAfter: retryFetchLeast}, nil
	}
	setConditions(release, wrong)
	setNotShared(release, r.NotShared)
	release.Status.ObservedGeneration = release.Generation
	if err := r.count(ctx, before, release, all.Items); err != nil {
		return ctrl.Result{}, err
	}
	if err := r.write(ctx, before, release); err != nil {
		return ctrl.Result{RequeueAfter: retryNow}, ignoreConflict(err)
	}
	r.announce(ctx, before, release)
	return ctrl.Result{RequeueAfter: r.next(release, wrong)}, nil
}

// offer signs what agents may take now, or takes it away. What is wrong with the release itself is no failure of ours.
func (r *reconciler) offer(ctx context.Context, release *v1alpha1.ContentRelease, all []v1alpha1.ContentRelease) (wrong *problem, failure error) {
	if wrong = r.unfit(ctx, release, all); wrong != nil {
		if !wrong.passes { // what passes by itself is no reason to take back what was verified once
			release.Status.Offer, release.Status.Artifact = nil, nil
		}
		return wrong, nil
	}
	if release.Spec.State == v1alpha1.ReleaseWithdrawn {
		release.Status.Offer = nil
		return nil, nil
	}
	var before *agentv1.Envelope
	if release.Status.Offer != nil {
		before = order.FromResource(*release.Status.Offer)
	}
	offer := decide.Content(r.FleetID, release, content.MediaType, all)
	r.signing.Lock()
	defer r.signing.Unlock()
	signed, sequence, err := decide.Sign(r.Orders, before, offer, decide.Floor(release, all), r.last(release.Namespace, all), r.Now())
	if err != nil {
		return nil, fmt.Errorf("sign the offer of ContentRelease %s/%s: %w", release.Namespace, release.Name, err)
	}
	if signed != before {
		e := order.ToResource(signed)
		release.Status.Offer, release.Status.Sequence = &e, sequence
		r.signed[release.Namespace] = sequence
	}
	return nil, nil
}

// unfit is why a release is not to be offered; nil for one whose artifact is verified and in the store.
func (r *reconciler) unfit(ctx context.Context, release *v1alpha1.ContentRelease, all []v1alpha1.ContentRelease) *problem {
	if by := decide.TakenBy(release, all); by != nil {
		return &problem{reason: reasonVersionTaken, message: fmt.Sprintf("ContentRelease %s has version %s too, and is older: delete one of the two", by.Name, by.Spec.Version)}
	}
	if _, err := policy.Selector(release.Spec.Selector); err != nil {
		return &problem{reason: reasonInvalidSelector, message: err.Error()}
	}
	if release.Spec.State == v1alpha1.ReleaseWithdrawn {
		return nil
	}
	found, err := r.artifacts.ensure(ctx, release)
	if err != nil {
		return problemOf(err)
	}
	release.Status.Artifact = found
	return nil
}

// last is the highest sequence of a namespace.
func (r *reconciler) last(namespace string, all []v1alpha1.ContentRelease) int64 {
	last := r.signed[namespace]
	for i := range all {
		last = max(last, all[i].Status.Sequence)
	}
	return last
}

// count says who has the release, or why nobody can.
func (r *reconciler) count(ctx context.Context, before, release *v1alpha1.ContentRelease, all []v1alpha1.ContentRelease) error {
	for i := range all {
		if all[i].UID == release.UID {
			all[i] = *release
		}
	}
	changed := before.Status.Sequence != release.Status.Sequence || before.Status.ObservedGeneration != release.Status.ObservedGeneration
	matched, err := r.counts.of(ctx, release, all, changed)
	if err != nil {
		return fmt.Errorf("count the endpoints of ContentRelease %s/%s: %w", release.Namespace, release.Name, err)
	}
	release.Status.Rollout = decide.Count(release, matched)
	if release.Status.Rollout.Message == "" {
		release.Status.Rollout.Message = notOffered(release)
	}
	return nil
}

// write writes what has changed, under the resourceVersion: two offers may never have one sequence.
func (r *reconciler) write(ctx context.Context, before, release *v1alpha1.ContentRelease) error {
	if equality.Semantic.DeepEqual(before.Status, release.Status) {
		return nil
	}
	err := r.client.Status().Patch(ctx, release, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	return client.IgnoreNotFound(err)
}

// ignoreConflict: somebody else was quicker, and the cache will have it in a moment.
func ignoreConflict(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// announce tells of what has changed, and of nothing twice.
func (r *reconciler) announce(ctx context.Context, before, release *v1alpha1.ContentRelease) {
	if c := meta.FindStatusCondition(release.Status.Conditions, v1alpha1.ConditionStoreNotShared); c != nil && meta.FindStatusCondition(before.Status.Conditions, c.Type) == nil {
		r.events.Eventf(release, nil, corev1.EventTypeWarning, c.Type, "Release", "%s", c.Message)
	}
	was, is := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionReady), meta.FindStatusCondition(release.Status.Conditions, v1alpha1.ConditionReady)
	if was != nil && was.Reason == is.Reason && was.Status == is.Status {
		return
	}
	kind := corev1.EventTypeNormal
	if is.Status == metav1.ConditionFalse {
		kind = corev1.EventTypeWarning
	}
	r.events.Eventf(release, nil, kind, is.Reason, "Release", "%s", is.Message)
	log.FromContext(ctx).Info("A release has changed.", "version", release.Spec.Version, "ready", string(is.Status), "reason", is.Reason, "detail", is.Message)
}

// next is when to look again.
func (r *reconciler) next(release *v1alpha1.ContentRelease, wrong *problem) time.Duration {
	if wrong == nil || !wrong.passes {
		return r.CountInterval
	}
	waiting := retryFetchLeast
	if c := meta.FindStatusCondition(release.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		waiting = max(waiting, r.Now().Sub(c.LastTransitionTime.Time)/2) // so that the pauses grow with the wait
	}
	return min(waiting, retryFetchMost)
}

// notOffered is why nobody gets a release, as its conditions have it.
func notOffered(release *v1alpha1.ContentRelease) string {
	c := meta.FindStatusCondition(release.Status.Conditions, v1alpha1.ConditionReady)
	if c == nil || c.Status == metav1.ConditionTrue {
		return ""
	}
	return decide.Cut(c.Message)
}
