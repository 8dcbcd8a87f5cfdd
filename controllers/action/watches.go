package action

import (
	"context"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
)

// gather is how long what happens to children is gathered before their parent is judged again: it looks at all of them each time.
const gather = 100 * time.Millisecond

// onActions has those judged again that an action's move concerns: its parent, and the others on the same topic of its endpoint.
func (r *reconciler) onActions() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { enqueueParent(q, e.Object) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { enqueueParent(q, e.Object) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			before, okBefore := e.ObjectOld.(*v1alpha1.EndpointAction)
			after, okAfter := e.ObjectNew.(*v1alpha1.EndpointAction)
			if okBefore && okAfter && moved(before, after) {
				enqueueParent(q, after)
				r.enqueueTopic(ctx, q, after)
			}
		},
	}
}

// moved tells whether anybody else has to know of a change.
func moved(before, after *v1alpha1.EndpointAction) bool {
	a, b := &before.Status, &after.Status
	return a.Phase != b.Phase || (a.Admission == nil) != (b.Admission == nil) || decide.Ended(a) != decide.Ended(b) ||
		decide.Verified(a) != decide.Verified(b)
}

func enqueueParent(q queue, o client.Object) {
	if a, ok := o.(*v1alpha1.EndpointAction); ok {
		if owner := parentOf(a); owner != nil {
			q.AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: a.Namespace, Name: owner.Name}}, gather)
		}
	}
}

func (r *reconciler) enqueueTopic(ctx context.Context, q queue, a *v1alpha1.EndpointAction) {
	topic := decide.TopicOf(a.Spec.Type)
	if topic == "" || a.Status.Admission == nil {
		return
	}
	r.enqueueOpen(ctx, q, a.Namespace, string(a.Spec.EndpointName), func(other *v1alpha1.EndpointAction) bool {
		return other.UID != a.UID && decide.TopicOf(other.Spec.Type) == topic
	})
}

// onEndpoints has the open actions of an endpoint judged again when something changes that they may wait for or end by.
func (r *reconciler) onEndpoints() handler.EventHandler {
	all := func(*v1alpha1.EndpointAction) bool { return true }
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			r.enqueueOpen(ctx, q, e.Object.GetNamespace(), e.Object.GetName(), all)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			r.enqueueOpen(ctx, q, e.Object.GetNamespace(), e.Object.GetName(), all)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			before, okBefore := e.ObjectOld.(*v1alpha1.Endpoint)
			after, okAfter := e.ObjectNew.(*v1alpha1.Endpoint)
			if okBefore && okAfter && !reflect.DeepEqual(matters(before), matters(after)) {
				r.enqueueOpen(ctx, q, after.Namespace, after.Name, all)
			}
		},
	}
}

// onPolicies has the actions judged again that have not been sent: the policy of their endpoint may refuse them now, or no longer.
func (r *reconciler) onPolicies() handler.EventHandler {
	pending := func(a *v1alpha1.EndpointAction) bool { return a.Status.Delivery == nil }
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			r.enqueueOpen(ctx, q, e.Object.GetNamespace(), anyEndpoint, pending)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			r.enqueueOpen(ctx, q, e.Object.GetNamespace(), anyEndpoint, pending)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			before, okBefore := e.ObjectOld.(*v1alpha1.EndpointPolicy)
			after, okAfter := e.ObjectNew.(*v1alpha1.EndpointPolicy)
			if okBefore && okAfter && (before.Generation != after.Generation || (before.Status.Order == nil) != (after.Status.Order == nil)) {
				r.enqueueOpen(ctx, q, after.Namespace, anyEndpoint, pending)
			}
		},
	}
}

func (r *reconciler) enqueueOpen(ctx context.Context, q queue, namespace, endpoint string, which func(*v1alpha1.EndpointAction) bool) {
	var list v1alpha1.EndpointActionList
	err := r.client.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{byOpen: endpoint}, client.UnsafeDisableDeepCopy)
	if err != nil {
		log.FromContext(ctx).Error(err, "The open actions of an endpoint cannot be listed.", "namespace", namespace, "endpoint", endpoint)
		return
	}
	for i := range list.Items {
		if which(&list.Items[i]) {
			q.Add(requestFor(&list.Items[i]))
		}
	}
}

func requestFor(a *v1alpha1.EndpointAction) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKeyFromObject(a)}
}
