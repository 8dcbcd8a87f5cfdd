package action

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/utils/keymutex"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
)

// topics has the actions on one topic of an endpoint, isolate and release for instance, admitted one after another: the later one counts. It
// remembers the newest until the cache shows it.
type topics struct {
	locks keymutex.KeyMutex
	mu    sync.Mutex
	last  map[string]*v1alpha1.EndpointAction
}

func newTopics() *topics {
	return &topics{locks: keymutex.NewHashed(0), last: map[string]*v1alpha1.EndpointAction{}}
}

// topicKey names the topic of an action on an endpoint; "" if it has none.
func topicKey(a *v1alpha1.EndpointAction) string {
	topic := decide.TopicOf(a.Spec.Type)
	if topic == "" || a.Spec.EndpointName == "" {
		return ""
	}
	return string(a.Spec.EndpointName) + "/" + topic
}

// lock keeps others of the same topic out until unlock is called.
func (t *topics) lock(a *v1alpha1.EndpointAction) (unlock func()) {
	key := topicKey(a)
	if key == "" {
		return func() {}
	}
	key = a.Namespace + "/" + key
	t.locks.LockKey(key)
	return func() { _ = t.locks.UnlockKey(key) }
}

// remember keeps an action that may just have been admitted. The caller holds the topic's lock.
func (t *topics) remember(a *v1alpha1.EndpointAction) {
	if key := topicKey(a); key != "" && a.Status.Admission != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		if last := t.last[a.Namespace+"/"+key]; last == nil || last.Status.Admission.Time.Before(&a.Status.Admission.Time) {
			t.last[a.Namespace+"/"+key] = a
		}
	}
}

// newest is the remembered one; nil if there is none. It is forgotten once the cache shows it.
func (t *topics) newest(namespace, key string, cached []v1alpha1.EndpointAction) *v1alpha1.EndpointAction {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.last[namespace+"/"+key]
	for i := range cached {
		if last != nil && cached[i].UID == last.UID {
			delete(t.last, namespace+"/"+key)
		}
	}
	return last
}

// admittedAt is what an action is found by once it was admitted on a topic.
func admittedAt(a *v1alpha1.EndpointAction) []string {
	if key := topicKey(a); key != "" && a.Status.Admission != nil {
		return []string{key}
	}
	return nil
}

// newestOfTopic is when the newest action on the same topic was admitted, zero if none was, and whether it is newer than a. Of two that were
// admitted the later one is; before a is admitted, one that was created after it.
func (r *reconciler) newestOfTopic(ctx context.Context, a *v1alpha1.EndpointAction) (newest time.Time, newer bool, err error) {
	key := topicKey(a)
	if key == "" {
		return time.Time{}, false, nil
	}
	var list v1alpha1.EndpointActionList
	err = r.client.List(ctx, &list, client.InNamespace(a.Namespace), client.MatchingFields{byTopic: key}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return time.Time{}, false, fmt.Errorf("list the actions on %s in namespace %s: %w", key, a.Namespace, err)
	}
	others := list.Items
	if last := r.topics.newest(a.Namespace, key, others); last != nil {
		others = append(others, *last)
	}
	for i := range others {
		other := &others[i]
		if other.UID == a.UID {
			continue
		}
		if at := other.Status.Admission.Time.Time; at.After(newest) {
			newest = at
		}
		newer = newer || supersedes(other, a)
	}
	return newest, newer, nil
}

// supersedes tells whether other, which was admitted, is the newer word on a topic.
func supersedes(other, a *v1alpha1.EndpointAction) bool {
	if a.Status.Admission != nil {
		return other.Status.Admission.Time.After(a.Status.Admission.Time.Time)
	}
	return other.CreationTimestamp.After(a.CreationTimestamp.Time)
}
