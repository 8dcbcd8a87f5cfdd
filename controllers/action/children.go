package action

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/policy"
)

const (
	// makers create children at a time, and brood is how many one turn in the queue makes at most: a turn ends within a minute.
	makers = 16
	brood  = 2000
	// sweepPace is how many are deleted in a second: what is over is in no hurry, others are. sweepBatch of them are in one turn, and nextSweep
	// is the pause after it, in which the cache learns of them.
	sweepPace  = 100
	sweepBatch = 200
	nextSweep  = time.Second
)

const maxName = 63

// fanOut makes the children that are missing, one for each endpoint that the selector matches now. all tells whether they are there now; if so
// they are returned in the order of their names. A child that is there already was made by a turn that was interrupted.
func (r *reconciler) fanOut(ctx context.Context, parent *v1alpha1.EndpointAction, have []*v1alpha1.EndpointAction) (children []*v1alpha1.EndpointAction, all bool, err error) {
	selector, err := policy.Selector(parent.Spec.Selector)
	if err != nil {
		return nil, false, err
	}
	var endpoints v1alpha1.EndpointList
	err = r.client.List(ctx, &endpoints, client.InNamespace(parent.Namespace), client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, false, fmt.Errorf("list the endpoints of EndpointAction %s/%s: %w", parent.Namespace, parent.Name, err)
	}
	missing := missingChildren(parent, endpoints.Items, have)
	made := missing[:min(len(missing), brood)]
	failures := make([]error, len(made))
	workqueue.ParallelizeUntil(ctx, makers, len(made), func(i int) { failures[i] = r.create(ctx, made[i]) })
	if err := errors.Join(ctx.Err(), firstOf(failures)); err != nil {
		return nil, false, err
	}
	if len(made) > 0 {
		log.FromContext(ctx).V(1).Info("Made children.", "children", len(made), "missing", len(missing)-len(made))
	}
	children = append(have, made...)
	sortByName(children)
	return children, len(made) == len(missing), nil
}

func missingChildren(parent *v1alpha1.EndpointAction, endpoints []v1alpha1.Endpoint, have []*v1alpha1.EndpointAction) (missing []*v1alpha1.EndpointAction) {
	names := make(map[string]bool, len(have))
	for _, child := range have {
		names[child.Name] = true
	}
	for i := range endpoints {
		if name := childName(parent, endpoints[i].UID); !names[name] && endpoints[i].DeletionTimestamp == nil {
			missing = append(missing, newChild(parent, name, endpoints[i].Name))
		}
	}
	return missing
}

// childName is always the same for one endpoint and one action, so that a child that was made is found again. The action's own name may not fit
// whole, and may have been another's before.
func childName(parent *v1alpha1.EndpointAction, endpoint types.UID) string {
	sum := sha256.Sum256([]byte(string(parent.UID) + "/" + string(endpoint)))
	suffix := "-" + hex.EncodeToString(sum[:5])
	return strings.TrimRight(parent.Name[:min(len(parent.Name), maxName-len(suffix))], "-.") + suffix
}

// newChild is what the action with the selector asks of one endpoint.
func newChild(parent *v1alpha1.EndpointAction, name, endpoint string) *v1alpha1.EndpointAction {
	child := &v1alpha1.EndpointAction{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: parent.Namespace, Name: name,
			Labels: map[string]string{v1alpha1.LabelParent: string(parent.UID)},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: kind, Name: parent.Name, UID: parent.UID, Controller: ptr.To(true),
			}},
		},
		Spec: *parent.Spec.DeepCopy(),
	}
	if by, ok := parent.Annotations[v1alpha1.AnnotationRequestedBy]; ok {
		child.Annotations = map[string]string{v1alpha1.AnnotationRequestedBy: by}
	}
	spec := &child.Spec
	spec.EndpointName, spec.Selector, spec.MaxParallel, spec.MaxFailures = v1alpha1.LocalName(endpoint), nil, nil, nil
	spec.TTLSecondsAfterFinished, spec.Cancel = nil, false
	return child
}

// create makes a child. One that is there already is read, to be sure that it is this.
func (r *reconciler) create(ctx context.Context, child *v1alpha1.EndpointAction) error {
	wanted := child.DeepCopy()
	faults.Before("child", wanted.OwnerReferences[0].Name)
	err := r.client.Create(ctx, child)
	faults.After("child", wanted.OwnerReferences[0].Name)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(wanted), child); err != nil {
		return err
	}
	if owner := parentOf(child); owner == nil || owner.UID != wanted.OwnerReferences[0].UID || child.Spec.EndpointName != wanted.Spec.EndpointName {
		return fmt.Errorf("EndpointAction %s/%s is in the way of the one for endpoint %s: delete it", wanted.Namespace, wanted.Name, wanted.Spec.EndpointName)
	}
	return nil
}

const kind = "EndpointAction"

// parentOf is the reference of a child to the action that made it; nil for others.
func parentOf(a *v1alpha1.EndpointAction) *metav1.OwnerReference {
	owner := metav1.GetControllerOfNoCopy(a)
	if owner == nil || owner.Kind != kind || owner.APIVersion != v1alpha1.GroupVersion.String() {
		return nil
	}
	return owner
}

func parentName(a *v1alpha1.EndpointAction) []string {
	if owner := parentOf(a); owner != nil {
		return []string{owner.Name}
	}
	return nil
}

// gone is what is left to do when an action is no longer there: its children go with it. The garbage collector would take its time.
func (r *reconciler) gone(ctx context.Context, key client.ObjectKey) (ctrl.Result, error) {
	r.miss(ctx, key)
	children, err := r.childrenOf(ctx, key)
	if err != nil || len(children) == 0 {
		return ctrl.Result{}, err
	}
	if err := r.live.Get(ctx, key, &v1alpha1.EndpointAction{}); !apierrors.IsNotFound(err) { // the cache knows less
		return ctrl.Result{RequeueAfter: nextSweep}, err
	}
	return ctrl.Result{RequeueAfter: nextSweep}, r.sweep(ctx, children)
}

// retire deletes what is over: an action when its time to live has passed, and children that succeeded some time after their parent has ended.
func (r *reconciler) retire(ctx context.Context, a *v1alpha1.EndpointAction, now time.Time) (next time.Time, err error) {
	if next = decide.DeletionTime(a); !next.IsZero() && !now.Before(next) {
		return time.Time{}, r.delete(ctx, a)
	}
	if a.Spec.Selector == nil {
		return next, nil
	}
	r.turns.forget(a.UID)
	children, over, err := r.children(ctx, a) // strays are over
	if err != nil {
		return time.Time{}, err
	}
	end := a.Status.FinishTime.Add(r.ChildRetention)
	for _, child := range children {
		switch {
		case child.Status.Phase != v1alpha1.ActionSucceeded:
		case now.Before(end):
			next = sooner(next, end)
		default:
			over = append(over, child)
		}
	}
	if len(over) > 0 {
		next = now.Add(nextSweep)
	}
	return next, r.sweep(ctx, over)
}

// sweep deletes actions, one after another and not too fast; a batch at most.
func (r *reconciler) sweep(ctx context.Context, over []*v1alpha1.EndpointAction) error {
	for _, a := range over[:min(len(over), sweepBatch)] {
		if err := r.sweeper.Wait(ctx); err != nil {
			return err
		}
		if err := r.delete(ctx, a); err != nil && !apierrors.IsConflict(err) { // it has moved: the next batch looks at it again
			return err
		}
	}
	return nil
}

// delete deletes an action as it was judged: one that has changed since stays, and so does another of its name.
func (r *reconciler) delete(ctx context.Context, a *v1alpha1.EndpointAction) error {
	faults.Before("24", a.Name)
	err := r.client.Delete(ctx, a, client.Preconditions{UID: &a.UID, ResourceVersion: &a.ResourceVersion})
	faults.After("24", a.Name)
	if err := client.IgnoreNotFound(err); err != nil {
		return fmt.Errorf("delete EndpointAction %s/%s: %w", a.Namespace, a.Name, err)
	}
	return nil
}

// firstOf is the first failure. There may be thousands, and they say the same.
func firstOf(failures []error) error {
	for _, err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}
