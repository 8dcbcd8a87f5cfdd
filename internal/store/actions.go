package store

import (
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// openActions selects the actions that have not ended and are for one endpoint.
func openActions() fields.Selector {
	return fields.AndSelectors(fields.OneTermEqualSelector("status.finishTime", ""), fields.OneTermNotEqualSelector("spec.endpointName", ""))
}

// actions are the open actions that the manager has admitted, as they are stored, some 2.5 KB each. Others are not kept: a selector's children come
// by the thousand, and are admitted so many at a time.
type actions struct {
	// changed is called without the lock, with the identity that an action was admitted for.
	changed func(identityID string)

	mu         sync.RWMutex
	byUID      map[string]*v1alpha1.EndpointAction
	byIdentity map[string][]*v1alpha1.EndpointAction // oldest first; a slice is never changed
	departed   departed
}

func newActions(changed func(identityID string)) *actions {
	x := &actions{changed: changed, departed: departed{byUID: map[string]departure{}}}
	x.reset()
	return x
}

func (x *actions) reset() {
	x.byUID, x.byIdentity = map[string]*v1alpha1.EndpointAction{}, map[string][]*v1alpha1.EndpointAction{}
}

// isKept tells whether an action is open, single and admitted.
func isKept(a *v1alpha1.EndpointAction) bool {
	return a.Spec.EndpointName != "" && a.Status.Admission != nil && a.Status.FinishTime == nil
}

// trim lets go of what nobody here needs and the API server does not miss when the status is written.
func trim(a *v1alpha1.EndpointAction) {
	a.ManagedFields = nil
	delete(a.Annotations, corev1.LastAppliedConfigAnnotation)
}

func identityOf(a *v1alpha1.EndpointAction) string { return a.Status.Admission.IdentityID }

func (x *actions) uid(uid string) *v1alpha1.EndpointAction {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byUID[uid]
}

func (x *actions) identity(id string) []*v1alpha1.EndpointAction {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byIdentity[id]
}

func (x *actions) count() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.byUID)
}

// whereabouts is the name of an action, if it is or was kept.
func (x *actions) whereabouts(uid string) (Ref, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if a := x.byUID[uid]; a != nil {
		return refOf(a), true
	}
	d, ok := x.departed.byUID[uid]
	return Ref{Namespace: d.namespace, Name: d.name, UID: uid}, ok
}

// event takes over what a watch says of one action.
func (x *actions) event(a *v1alpha1.EndpointAction) { x.take(a, false) }

// answered takes over an action as a request returned it, unless the watch has brought a newer one, or none yet.
func (x *actions) answered(a *v1alpha1.EndpointAction) { x.take(a, true) }

func (x *actions) take(a *v1alpha1.EndpointAction, known bool) {
	trim(a)
	x.mu.Lock()
	uid, version := string(a.UID), versionOf(a)
	old := x.byUID[uid]
	stale := old != nil && version <= versionOf(old) || old == nil && version <= x.departed.byUID[uid].version
	switch {
	case stale:
		old, a = nil, nil
	case isKept(a) && (old != nil || !known):
		x.remove(old)
		x.insert(a)
	default:
		if a.Status.FinishTime != nil {
			x.departed.add(uid, departure{a.Namespace, a.Name, version})
		}
		x.remove(old)
		a = nil
	}
	x.mu.Unlock()
	x.tell(old, a)
}

// drop takes note that an action is not in the selection any more: it has ended, or was deleted. Which of the two only a live read tells: a shows
// it as it was before, with the resourceVersion of the change.
func (x *actions) drop(a *v1alpha1.EndpointAction) {
	x.mu.Lock()
	old := x.byUID[string(a.UID)]
	if old != nil {
		x.depart(old, max(versionOf(a), versionOf(old)))
	}
	x.mu.Unlock()
	x.tell(old, nil)
}

func (x *actions) depart(old *v1alpha1.EndpointAction, version uint64) {
	x.departed.add(string(old.UID), departure{old.Namespace, old.Name, version})
	x.remove(old)
}

// lost takes note that the API server does not have an action.
func (x *actions) lost(uid string) {
	if a := x.uid(uid); a != nil {
		x.drop(a)
	}
}

// replace takes over all there is. An older state than one has is believed: etcd may have been restored from a backup.
func (x *actions) replace(all []*v1alpha1.EndpointAction) {
	x.mu.Lock()
	before := x.byUID
	x.reset()
	for _, a := range all {
		if isKept(a) {
			trim(a)
			x.departed.forget(string(a.UID))
			x.insert(a)
		}
	}
	changes := map[string]bool{}
	for uid, old := range before {
		if x.byUID[uid] == nil {
			x.depart(old, versionOf(old))
			changes[identityOf(old)] = true
		}
	}
	for uid, a := range x.byUID {
		if old := before[uid]; old == nil || old.ResourceVersion != a.ResourceVersion {
			changes[identityOf(a)] = true
		}
	}
	x.mu.Unlock()
	for id := range changes {
		x.changed(id)
	}
}

func (x *actions) insert(a *v1alpha1.EndpointAction) {
	id := identityOf(a)
	at, _ := slices.BinarySearchFunc(x.byIdentity[id], a, byAdmission)
	x.byUID[string(a.UID)] = a
	x.byIdentity[id] = slices.Insert(slices.Clone(x.byIdentity[id]), at, a)
}

// byAdmission is the order in which actions were admitted.
func byAdmission(a, b *v1alpha1.EndpointAction) int {
	if n := a.Status.Admission.Time.Compare(b.Status.Admission.Time.Time); n != 0 {
		return n
	}
	return strings.Compare(string(a.UID), string(b.UID))
}

func (x *actions) remove(a *v1alpha1.EndpointAction) {
	if a == nil {
		return
	}
	delete(x.byUID, string(a.UID))
	id := identityOf(a)
	if left := slices.DeleteFunc(slices.Clone(x.byIdentity[id]), func(o *v1alpha1.EndpointAction) bool { return o == a }); len(left) > 0 {
		x.byIdentity[id] = left
	} else {
		delete(x.byIdentity, id)
	}
}

func (x *actions) tell(old, now *v1alpha1.EndpointAction) {
	if old != nil && (now == nil || identityOf(old) != identityOf(now)) {
		x.changed(identityOf(old))
	}
	if now != nil {
		x.changed(identityOf(now))
	}
}

// maxDeparted is how many actions that were kept once are remembered by name, at some 400 bytes each.
const maxDeparted = 8192

// departed are actions that were kept until lately: a result of one may still come, and names it by its UID alone.
type departed struct {
	byUID map[string]departure
	uids  []string // a ring
	next  int
}

// departure of an action.
type departure struct {
	namespace, name string
	version         uint64 // from which on it is not open any more
}

func (l *departed) add(uid string, d departure) {
	_, again := l.byUID[uid]
	l.byUID[uid] = d
	if again {
		return
	}
	if len(l.uids) < maxDeparted {
		l.uids = append(l.uids, uid)
		return
	}
	delete(l.byUID, l.uids[l.next])
	l.uids[l.next] = uid
	l.next = (l.next + 1) % maxDeparted
}

// forget is for one that is open after all. Its place in the ring stays.
func (l *departed) forget(uid string) { delete(l.byUID, uid) }

// actionSink lets go at once of what is not kept, so that the first state is never held as it came.
type actionSink struct{ sink[*v1alpha1.EndpointAction] }

func newActionReading(log logr.Logger, c cache.Getter, to *actions) *reading {
	r := &reading{what: "EndpointActions", log: log, lw: listWatch(c, actionsResource, metav1.NamespaceAll, openActions()), kind: &v1alpha1.EndpointAction{}}
	r.sink = &actionSink{sink[*v1alpha1.EndpointAction]{to: to, synced: r.isSynced}}
	return r
}

// other stands for an action that is not kept.
type other struct{}

// Transformer is what the reflector applies to the objects that it collects.
func (s *actionSink) Transformer() cache.TransformFunc {
	return func(o any) (any, error) {
		a, ok := o.(*v1alpha1.EndpointAction)
		if !ok {
			return o, nil
		}
		if !isKept(a) {
			return other{}, nil
		}
		trim(a)
		return a, nil
	}
}

// Replace implements cache.ReflectorStore.
func (s *actionSink) Replace(all []any, version string) error {
	return s.sink.Replace(slices.DeleteFunc(all, func(o any) bool { return o == other{} }), version)
}
