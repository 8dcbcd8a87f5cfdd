package action

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/order"
)

// Reconcile takes one action as far as it goes now: one write of its status at most, none if nothing has changed.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	a := &v1alpha1.EndpointAction{}
	switch err := r.client.Get(ctx, req.NamespacedName, a); {
	case apierrors.IsNotFound(err):
		return r.gone(ctx, req.NamespacedName)
	case err != nil || a.DeletionTimestamp != nil:
		return ctrl.Result{}, err
	}
	now := r.Now()
	next, err := r.step(ctx, a, now)
	switch {
	case apierrors.IsConflict(err):
		lostRaces.Inc()
		return ctrl.Result{RequeueAfter: retryNow}, nil
	case err != nil:
		return ctrl.Result{}, client.IgnoreNotFound(err)
	case next.IsZero():
		return ctrl.Result{}, nil
	default:
		return ctrl.Result{RequeueAfter: max(next.Sub(now), time.Millisecond)}, nil
	}
}

// step is all there is to do for an action now; next is when to come back if nothing happens, zero for never.
func (r *reconciler) step(ctx context.Context, a *v1alpha1.EndpointAction, now time.Time) (next time.Time, err error) {
	if err := r.verify(ctx, a, now); err != nil {
		return time.Time{}, err
	}
	r.observe(ctx, a, now)
	switch {
	case decide.Ended(&a.Status):
		if err := r.acknowledge(ctx, a, now); err != nil {
			return time.Time{}, err
		}
		return r.retire(ctx, a, now)
	case a.Spec.Selector != nil:
		return r.lead(ctx, a, now)
	default:
		return r.advance(ctx, a, now)
	}
}

// advance judges an open action on one endpoint.
func (r *reconciler) advance(ctx context.Context, a *v1alpha1.EndpointAction, now time.Time) (next time.Time, err error) {
	defer r.topics.lock(a)()
	look, ok, err := r.look(ctx, a, now)
	if err != nil || !ok {
		return time.Time{}, err
	}
	waited := a.Status.Admission == nil
	status, row, err := decide.Next(a, *look)
	if err := r.write(ctx, a, status, row, err); err != nil {
		return time.Time{}, err
	}
	if waited {
		r.topics.remember(a)
	}
	return decide.Due(a, now), nil
}

// acknowledge says of an action that has ended that a later change of its spec was seen: it leads nowhere.
func (r *reconciler) acknowledge(ctx context.Context, a *v1alpha1.EndpointAction, now time.Time) error {
	if a.Status.ObservedGeneration == a.Generation {
		return nil
	}
	ask := func() (*v1alpha1.EndpointActionStatus, decide.Arrow, error) {
		return decide.Next(a, decide.Look{Now: now})
	}
	if a.Spec.Selector != nil {
		ask = func() (*v1alpha1.EndpointActionStatus, decide.Arrow, error) {
			return decide.NextParent(a, decide.ParentLook{Now: now})
		}
	}
	status, row, err := ask()
	return r.write(ctx, a, status, row, err)
}

// write writes the status that internal/action has answered with, under the resourceVersion and UID that it was asked about: whoever has written
// meanwhile is read first. The action has it afterwards.
func (r *reconciler) write(ctx context.Context, a *v1alpha1.EndpointAction, status *v1alpha1.EndpointActionStatus, row decide.Arrow, err error) error {
	switch {
	case errors.Is(err, decide.ErrUnfit):
		unfit.Inc()
		log.FromContext(ctx).V(1).Info("What has happened does not fit the action.", "reason", err.Error())
		return nil
	case err != nil:
		return fmt.Errorf("judge EndpointAction %s/%s: %w", a.Namespace, a.Name, err)
	case row == decide.None:
		return nil
	}
	from := a.Status.Phase
	a.Status = *status
	faults.Before(row, a.Name)
	if err := r.client.Status().Update(ctx, a); err != nil {
		return fmt.Errorf("write the status of EndpointAction %s/%s: %w", a.Namespace, a.Name, err)
	}
	faults.After(row, a.Name)
	transitions.WithLabelValues(string(row), string(a.Spec.Type)).Inc()
	log.FromContext(ctx).V(1).Info("An action has moved.", "row", row, "from", from, "to", a.Status.Phase, "endpoint", a.Spec.EndpointName)
	return nil
}

// seal signs an order.
func (r *reconciler) seal(t envelope.Type, m proto.Message) (v1alpha1.Envelope, error) {
	e, err := envelope.Seal(r.Orders, t, m)
	if err != nil {
		return v1alpha1.Envelope{}, err
	}
	return order.ToResource(e), nil
}

// sealedNow tells whether an order was signed by the key of now.
func (r *reconciler) sealedNow(e v1alpha1.Envelope) bool {
	return envelope.Verify(order.FromResource(e), envelope.Type(e.PayloadType), r.Orders.Public()) == nil
}

// sooner is the earlier of two times; zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
