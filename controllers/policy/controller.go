package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
	decide "github.com/rollcall-dev/rollcall/internal/policy"
)

// Reasons of the conditions.
const (
	reasonSigned          = "Signed"
	reasonInvalidSettings = "InvalidSettings"
)

// retryNow is the pause after a lost race: the cache catches up meanwhile.
const retryNow = 50 * time.Millisecond

type reconciler struct {
	Options
	client client.Client
}

// Reconcile brings one policy's status up to date, and comes back to count again.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.EndpointPolicy{}
	if err := r.client.Get(ctx, req.NamespacedName, p); err != nil || p.DeletionTimestamp != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := p.DeepCopy()
	wrong, err := r.sign(p)
	if err != nil {
		return ctrl.Result{}, err
	}
	setConditions(p, wrong)
	if err := r.count(ctx, p); err != nil {
		return ctrl.Result{}, err
	}
	p.Status.ObservedGeneration = p.Generation
	if !equality.Semantic.DeepEqual(before.Status, p.Status) {
		// Under the resourceVersion: two contents may never be signed as one revision.
		err := r.client.Status().Patch(ctx, p, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		if apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: retryNow}, nil
		}
		if err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	if p.Status.Revision != before.Status.Revision {
		log.FromContext(ctx).Info("Signed a policy.", "revision", p.Status.Revision)
	}
	return ctrl.Result{RequeueAfter: r.CountInterval}, nil
}

// sign signs the settings if that is needed. What is wrong with the policy itself is no failure of ours: it waits for a person.
func (r *reconciler) sign(p *v1alpha1.EndpointPolicy) (wrong, failure error) {
	if _, err := decide.Selector(p.Spec.Selector); err != nil {
		return err, nil
	}
	settings, err := decide.Settings(&p.Spec)
	if err != nil {
		return err, nil
	}
	var before *agentv1.Envelope
	if p.Status.Order != nil {
		before = order.FromResource(*p.Status.Order)
	}
	signed, revision, err := decide.Sign(r.Orders, before, r.FleetID, string(p.UID), settings, r.Now())
	if errors.Is(err, envelope.ErrBounds) {
		return err, nil
	}
	if err != nil {
		return nil, fmt.Errorf("sign EndpointPolicy %s/%s: %w", p.Namespace, p.Name, err)
	}
	p.Status.Revision = revision
	if signed != before {
		e := order.ToResource(signed)
		p.Status.Order = &e
	}
	return nil, nil
}

// setConditions says whether the policy is in use as it is declared.
func setConditions(p *v1alpha1.EndpointPolicy, wrong error) {
	ready := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: reasonSigned, ObservedGeneration: p.Generation,
		Message: fmt.Sprintf("revision %d is signed, and offered to its endpoints with their next heartbeats", p.Status.Revision),
	}
	if wrong == nil {
		meta.RemoveStatusCondition(&p.Status.Conditions, v1alpha1.ConditionStalled)
		meta.SetStatusCondition(&p.Status.Conditions, ready)
		return
	}
	ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, reasonInvalidSettings, wrong.Error()+". No endpoint obeys this policy until that is set right"
	if p.Status.Order != nil {
		ready.Message = fmt.Sprintf("%s. Its endpoints obey revision %d until that is set right", wrong, p.Status.Revision)
	}
	stalled := ready
	stalled.Type, stalled.Status = v1alpha1.ConditionStalled, metav1.ConditionTrue
	meta.SetStatusCondition(&p.Status.Conditions, ready)
	meta.SetStatusCondition(&p.Status.Conditions, stalled)
}

// count counts the endpoints that obey the policy, as the cache has them.
func (r *reconciler) count(ctx context.Context, p *v1alpha1.EndpointPolicy) error {
	var list v1alpha1.EndpointList
	err := r.client.List(ctx, &list, client.InNamespace(p.Namespace), client.MatchingFields{byPolicy: p.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return fmt.Errorf("count the endpoints of EndpointPolicy %s/%s: %w", p.Namespace, p.Name, err)
	}
	var endpoints, online, drifted int32
	for i := range list.Items {
		ep := &list.Items[i]
		endpoints++
		if meta.IsStatusConditionTrue(ep.Status.Conditions, v1alpha1.EndpointOnline) {
			online++
		}
		if a := ep.Status.Agent; a == nil || a.PolicyID != string(p.UID) || a.PolicyRevision != p.Status.Revision {
			drifted++
		}
	}
	p.Status.Endpoints, p.Status.Online, p.Status.Drifted = &endpoints, &online, &drifted
	return nil
}
