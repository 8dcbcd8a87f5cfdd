package store

import (
	"sync"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// endpoints is the index of the enrolled Endpoints.
type endpoints struct {
	log logr.Logger
	// Called without the lock with the identity of what changed: changed for what gateways do not write, connected for what they do.
	changed, connected func(identityID string)

	mu         sync.RWMutex
	byUID      map[uuid.UUID]*record
	byIdentity map[uuid.UUID]*record
	byKey      map[KeyHash]*record // the newest key
	// shadowed are those whose identity or key an older Endpoint has too: a backup was restored beside the original.
	shadowed map[uuid.UUID]*record
}

func newEndpoints(log logr.Logger, changed, connected func(string)) *endpoints {
	x := &endpoints{log: log, changed: changed, connected: connected}
	x.reset()
	return x
}

func (x *endpoints) reset() {
	x.byUID, x.byIdentity, x.byKey = map[uuid.UUID]*record{}, map[uuid.UUID]*record{}, map[KeyHash]*record{}
	x.shadowed = map[uuid.UUID]*record{}
}

func (x *endpoints) identity(id string) *record {
	if !identity.IsUUID(id) {
		return nil
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byIdentity[uuid.MustParse(id)]
}

func (x *endpoints) key(h KeyHash) *record {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byKey[h]
}

func (x *endpoints) uid(uid uuid.UUID) *record {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byUID[uid]
}

// event takes over what a watch says of one Endpoint.
func (x *endpoints) event(e *v1alpha1.Endpoint) { x.take(e, false) }

// answered takes over an Endpoint as a request returned it, unless the watch has brought a newer one, or has seen it go.
func (x *endpoints) answered(e *v1alpha1.Endpoint) { x.take(e, true) }

func (x *endpoints) take(e *v1alpha1.Endpoint, known bool) {
	r := newRecord(e)
	if r == nil { // not enrolled, or no longer
		x.drop(e)
		return
	}
	x.mu.Lock()
	old := x.byUID[r.uid]
	fresh := old != nil && r.version >= old.version || old == nil && !known
	if fresh {
		x.put(r)
	}
	x.mu.Unlock()
	if fresh {
		x.tell(old, r)
	}
}

// drop forgets an Endpoint that was deleted.
func (x *endpoints) drop(e *v1alpha1.Endpoint) {
	uid, err := uuid.Parse(string(e.UID))
	if err != nil {
		return
	}
	x.mu.Lock()
	old := x.byUID[uid]
	x.remove(old)
	x.mu.Unlock()
	x.tell(old, nil)
}

// replace takes over all there is. An older state than one has is believed: etcd may have been restored from a backup.
func (x *endpoints) replace(all []*record) {
	x.mu.Lock()
	before := x.byUID
	x.reset()
	for _, r := range all {
		x.put(r)
	}
	x.mu.Unlock()
	for _, r := range all {
		x.tell(before[r.uid], r)
		delete(before, r.uid)
	}
	for _, gone := range before {
		x.tell(gone, nil)
	}
}

func (x *endpoints) put(r *record) {
	old := x.byUID[r.uid]
	if old == nil || old.id != r.id || old.keys[0] != r.keys[0] {
		x.remove(old)
		x.insert(r)
		return
	}
	x.byUID[r.uid] = r
	if x.byIdentity[r.id] == old {
		x.byIdentity[r.id] = r
	}
	if x.byKey[r.keys[0]] == old {
		x.byKey[r.keys[0]] = r
	}
	if x.shadowed[r.uid] == old {
		x.shadowed[r.uid] = r
	}
}

// insert indexes r, or, where two have one identity, the older of them.
func (x *endpoints) insert(r *record) {
	x.byUID[r.uid] = r
	holder := x.byIdentity[r.id]
	if holder == nil && r.keyCount > 0 {
		holder = x.byKey[r.keys[0]]
	}
	if holder != nil {
		first, second := holder, r
		if r.older(holder) {
			first, second = r, holder
		}
		x.unindex(holder)
		x.shadowed[second.uid] = second
		x.log.Info("Two Endpoints have the same identity: the older one counts. Delete the one that is a copy.", "identity", r.id.String(),
			"namespace", first.namespace.Value(), "endpoint", first.name(), "copy", second.namespace.Value()+"/"+second.name())
		r = first
	}
	x.byIdentity[r.id] = r
	if r.keyCount > 0 {
		x.byKey[r.keys[0]] = r
	}
}

func (x *endpoints) remove(r *record) {
	if r == nil {
		return
	}
	delete(x.byUID, r.uid)
	delete(x.shadowed, r.uid)
	if !x.unindex(r) || len(x.shadowed) == 0 {
		return
	}
	waiting := x.shadowed
	x.shadowed = map[uuid.UUID]*record{}
	for _, s := range waiting {
		x.insert(s)
	}
}

// unindex reports whether r was what its identity led to.
func (x *endpoints) unindex(r *record) bool {
	if x.byKey[r.keys[0]] == r {
		delete(x.byKey, r.keys[0])
	}
	if x.byIdentity[r.id] != r {
		return false
	}
	delete(x.byIdentity, r.id)
	return true
}

// older decides between two Endpoints with one identity, the same way in every gateway.
func (r *record) older(o *record) bool {
	if r.enrolled != o.enrolled {
		return r.enrolled < o.enrolled
	}
	return r.uid.String() < o.uid.String()
}

// tell reports a change.
func (x *endpoints) tell(old, now *record) {
	if now != nil && (old == nil || !old.sameConnection(now)) {
		x.connected(now.id.String())
	}
	switch {
	case old == nil && now == nil, old != nil && now != nil && old.sameButWritten(now):
		return
	case old != nil && now != nil && old.id != now.id:
		x.changed(old.id.String())
	}
	if now == nil {
		now = old
	}
	x.changed(now.id.String())
}
