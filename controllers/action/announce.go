package action

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
)

// sighting is what this process has seen of an action that may still change: whoever writes a transition, the leader tells of it, once.
type sighting struct {
	uid      types.UID
	kind     v1alpha1.ActionType
	endpoint v1alpha1.LocalName
	child    bool
	since    time.Time // it was seen first

	admitted, sent, ended, reported bool
}

func sight(a *v1alpha1.EndpointAction, now time.Time) sighting {
	s := &a.Status
	return sighting{
		uid: a.UID, kind: a.Spec.Type, endpoint: a.Spec.EndpointName, child: parentOf(a) != nil, since: now,
		admitted: s.Admission != nil, sent: s.Delivery != nil, ended: decide.Ended(s), reported: s.Result != nil,
	}
}

// over tells whether nothing can happen any more that anybody is told of. A result may come even of what was never sent: then a gateway has done
// so all the same.
func (s sighting) over() bool { return s.ended && s.reported }

type sightings struct {
	mu sync.Mutex
	of map[client.ObjectKey]sighting
}

func newSightings() *sightings { return &sightings{of: map[client.ObjectKey]sighting{}} }

// note takes an action as it is now, and returns how it was when it was seen last; known is false if it was not.
func (all *sightings) note(a *v1alpha1.EndpointAction, now time.Time) (was sighting, known bool) {
	key, is := client.ObjectKeyFromObject(a), sight(a, now)
	all.mu.Lock()
	defer all.mu.Unlock()
	was, known = all.of[key]
	if known && was.uid != is.uid {
		all.remove(key)
		was, known = sighting{}, false
	}
	if known {
		is.since = was.since
	}
	switch {
	case !known && !is.ended:
		open.WithLabelValues(string(is.kind)).Inc()
	case known && !was.ended && is.ended:
		open.WithLabelValues(string(is.kind)).Dec()
	}
	if all.of[key] = is; is.over() {
		delete(all.of, key)
	}
	return was, known
}

// awaited tells whether an action's result was not there when it was seen last.
func (all *sightings) awaited(a *v1alpha1.EndpointAction) bool {
	all.mu.Lock()
	defer all.mu.Unlock()
	was, known := all.of[client.ObjectKeyFromObject(a)]
	return known && was.uid == a.UID && !was.reported
}

// drop forgets an action that is no longer there.
func (all *sightings) drop(key client.ObjectKey) (was sighting, known bool) {
	all.mu.Lock()
	defer all.mu.Unlock()
	was, known = all.of[key]
	if known {
		all.remove(key)
	}
	return was, known
}

func (all *sightings) remove(key client.ObjectKey) {
	if was := all.of[key]; !was.ended {
		open.WithLabelValues(string(was.kind)).Dec()
	}
	delete(all.of, key)
}

// observe tells of what has happened to an action since it was seen last. Of children it tells nothing: their parent ends.
func (r *reconciler) observe(ctx context.Context, a *v1alpha1.EndpointAction, now time.Time) {
	was, known := r.seen.note(a, now)
	if !known {
		return
	}
	if !was.admitted && a.Status.Admission != nil {
		admissions.Observe(now.Sub(was.since).Seconds())
	}
	switch {
	case was.child:
	case !was.ended && decide.Ended(&a.Status):
		r.announceEnd(ctx, a)
	case was.ended && !was.reported && a.Status.Result != nil:
		r.events.Eventf(a, r.related(ctx, a), corev1.EventTypeWarning, decide.ReasonLateResult, string(a.Spec.Type), "%s", a.Status.Message)
	}
}

// announceEnd tells of every bad end, and of the good ones of what people asked for. Of a result that is not to be believed it was told already.
func (r *reconciler) announceEnd(ctx context.Context, a *v1alpha1.EndpointAction) {
	kind, complete := corev1.EventTypeWarning, meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionComplete)
	if complete != nil && complete.Reason != decide.ReasonNoMatch || a.Status.Phase == v1alpha1.ActionCancelled {
		kind = corev1.EventTypeNormal
	}
	ours := metav1.GetControllerOfNoCopy(a) != nil
	if ours && kind == corev1.EventTypeNormal || !decide.Verified(&a.Status) {
		return
	}
	r.events.Eventf(a, r.related(ctx, a), kind, string(a.Status.Phase), string(a.Spec.Type), "%s", a.Status.Message)
}

// miss tells of an action that was deleted when its agent had it already: it may have happened all the same.
func (r *reconciler) miss(ctx context.Context, key client.ObjectKey) {
	was, known := r.seen.drop(key)
	r.turns.forget(was.uid)
	if !known || !was.sent || was.ended || was.child {
		return
	}
	ep := &v1alpha1.Endpoint{}
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: string(was.endpoint)}, ep); err != nil {
		return // it is gone too
	}
	r.events.Eventf(ep, nil, corev1.EventTypeWarning, decide.ReasonActionDeleted, string(was.kind),
		"EndpointAction %s (%s) was deleted after it was sent: it may still happen, and nobody will be told", key.Name, was.kind)
}

// related is the Endpoint of an action, for its Events; nil if it has none.
func (r *reconciler) related(ctx context.Context, a *v1alpha1.EndpointAction) runtime.Object {
	if a.Spec.EndpointName == "" {
		return nil
	}
	if ep, err := getEndpoint(ctx, r.client, a); err == nil && ep != nil {
		return ep
	}
	return nil
}
