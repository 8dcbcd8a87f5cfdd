package action

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/faults"
)

// waitQuietly is how long a child waits for its turn before it says so.
const waitQuietly = time.Minute

// lead judges an open action with a selector: it makes the children, calls those whose turn it is, and counts.
func (r *reconciler) lead(ctx context.Context, a *v1alpha1.EndpointAction, now time.Time) (next time.Time, err error) {
	children, strays, err := r.children(ctx, a)
	if err != nil {
		return time.Time{}, err
	}
	if len(strays) > 0 { // of a deleted action of the same name
		if err := r.sweep(ctx, strays); err != nil {
			return time.Time{}, err
		}
		next = now.Add(nextSweep)
	}
	if a.Status.Children == nil && !a.Spec.Cancel {
		if begins, err := r.begins(ctx, a, children); err != nil || !begins {
			return next, err
		}
		var all bool
		if children, all, err = r.fanOut(ctx, a, children); err != nil {
			if ctx.Err() != nil { // this process ends: another goes on
				return time.Time{}, err
			}
			r.events.Eventf(a, nil, corev1.EventTypeWarning, "ChildrenMissing", "FanOut", "%.900s", err)
			return time.Time{}, err
		}
		if !all {
			return now.Add(retryNow), nil
		}
	}
	if a.Status.Children != nil || a.Spec.Cancel {
		r.turns.arrange(a.UID, gone(a, children), children)
		r.call(a, children)
	}
	status, row, err := decide.NextParent(a, decide.ParentLook{Now: now, Children: children, All: true, Matched: len(children)})
	if err == nil && decide.Ended(status) {
		if doubtful, err := r.doubtful(ctx, children, now); err != nil || doubtful {
			return now.Add(gather), err
		}
	}
	if err := r.write(ctx, a, status, row, err); err != nil {
		return time.Time{}, err
	}
	return sooner(next, decide.Due(a, now)), nil
}

// begins tells whether children may be made of an action now: the cache may not know yet that it was cancelled, deleted, or begun by another
// manager, and it may be too late. If it is, that is written.
func (r *reconciler) begins(ctx context.Context, a *v1alpha1.EndpointAction, children []*v1alpha1.EndpointAction) (bool, error) {
	faults.Before("begin", a.Name)
	live := &v1alpha1.EndpointAction{}
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(a), live); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	if live.UID != a.UID || live.ResourceVersion != a.ResourceVersion {
		return false, nil // the cache will show it
	}
	status, row, err := decide.NextParent(a, decide.ParentLook{Now: r.Now(), Children: children})
	if err != nil || row == decide.None {
		return err == nil, err
	}
	return false, r.write(ctx, a, status, row, nil)
}

// doubtful tells whether the result of some child is not what its agent has signed, and the child does not say so yet: it has to, before an end
// may rest on it.
func (r *reconciler) doubtful(ctx context.Context, children []*v1alpha1.EndpointAction, now time.Time) (bool, error) {
	for _, child := range children {
		if doubt, err := r.doubt(ctx, child, now); err != nil || doubt != nil {
			r.queue.Add(requestFor(child))
			return true, err
		}
	}
	return false, nil
}

// call has children judged whose turn it is, or whose parent wants no more of them. Others say that they wait for their turn, if they still do after
// some time: most of them never cost that write.
func (r *reconciler) call(a *v1alpha1.EndpointAction, children []*v1alpha1.EndpointAction) {
	released := 0
	if a.Status.Children != nil {
		released = int(a.Status.Children.Released)
	}
	var waiting []reconcile.Request
	for place, child := range children {
		s, turn := &child.Status, gone(a, children)+place
		switch {
		case decide.Ended(s):
		case draining(a), turn < released && s.Admission == nil:
			r.queue.Add(requestFor(child))
		case turn >= released && len(s.Conditions) == 0:
			waiting = append(waiting, requestFor(child))
		}
	}
	r.queue.AddWithOpts(priorityqueue.AddOpts{Priority: ptr.To(handler.LowPriority), After: waitQuietly}, waiting...)
}

// gone are how many children were deleted: they have had their turns, and leave none to others.
func gone(a *v1alpha1.EndpointAction, children []*v1alpha1.EndpointAction) int {
	if a.Status.Children == nil {
		return 0
	}
	return max(0, int(a.Status.Children.Total)-len(children))
}

// draining tells whether an action with a selector wants no more of its children.
func draining(a *v1alpha1.EndpointAction) bool {
	waits := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionReconciling)
	return a.Spec.Cancel || waits != nil && waits.Reason == decide.ReasonTooManyFailures
}

// parent is the parent of a child, and the child's turn; nil for others. ok is false until the parent has given the child its turn.
func (r *reconciler) parent(ctx context.Context, a *v1alpha1.EndpointAction) (parent *v1alpha1.EndpointAction, turn int, ok bool, err error) {
	owner := parentOf(a)
	if owner == nil {
		return nil, 0, true, nil
	}
	parent = &v1alpha1.EndpointAction{}
	err = r.client.Get(ctx, client.ObjectKey{Namespace: a.Namespace, Name: owner.Name}, parent, client.UnsafeDisableDeepCopy)
	if err != nil || parent.UID != owner.UID { // it is about to be deleted with its parent
		return nil, 0, false, client.IgnoreNotFound(err)
	}
	turn, ok = r.turns.of(parent.UID, a.Name)
	return parent, turn, ok || decide.Ended(&parent.Status), nil
}

// children are those that an action with a selector has made, in the order of their names, and strays those of a deleted one of its name.
// They are shared with the cache: not to be changed.
func (r *reconciler) children(ctx context.Context, a *v1alpha1.EndpointAction) (children, strays []*v1alpha1.EndpointAction, err error) {
	all, err := r.childrenOf(ctx, client.ObjectKeyFromObject(a))
	if err != nil {
		return nil, nil, err
	}
	for _, child := range all {
		if parentOf(child).UID == a.UID {
			children = append(children, child)
		} else {
			strays = append(strays, child)
		}
	}
	sortByName(children)
	return children, strays, nil
}

func (r *reconciler) childrenOf(ctx context.Context, parent client.ObjectKey) ([]*v1alpha1.EndpointAction, error) {
	var list v1alpha1.EndpointActionList
	err := r.client.List(ctx, &list, client.InNamespace(parent.Namespace), client.MatchingFields{byParent: parent.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("list the children of EndpointAction %s: %w", parent, err)
	}
	all := make([]*v1alpha1.EndpointAction, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	return all, nil
}

func sortByName(actions []*v1alpha1.EndpointAction) {
	slices.SortFunc(actions, func(a, b *v1alpha1.EndpointAction) int { return cmp.Compare(a.Name, b.Name) })
}

// turns are those of the children of actions with a selector, by the parent's UID and the child's name. Until a parent has been judged by this
// process its children have none.
type turns struct {
	mu       sync.Mutex
	byParent map[types.UID]map[string]int
}

func newTurns() *turns { return &turns{byParent: map[types.UID]map[string]int{}} }

// arrange gives children their turns from first on, in the order that they are in.
func (t *turns) arrange(parent types.UID, first int, children []*v1alpha1.EndpointAction) {
	turns := make(map[string]int, len(children))
	for turn, child := range children {
		turns[child.Name] = first + turn
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byParent[parent] = turns
}

func (t *turns) of(parent types.UID, child string) (turn int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	turn, ok = t.byParent[parent][child]
	return turn, ok
}

func (t *turns) forget(parent types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byParent, parent)
}
