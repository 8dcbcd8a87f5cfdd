package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash/maphash"
	"strconv"
	"time"
	"unique"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// record is what is kept of an Endpoint. There is one for each machine of a fleet, so every byte counts: identifiers are kept as bytes, what
// many have in common once, times as seconds, and blocks that are only compared as digests.
type record struct {
	uid, id          uuid.UUID
	keys             [2]KeyHash
	instance, before instanceID // of the connection: this start of the agent, and the one before
	version          uint64     // the resourceVersion
	epoch, session   int64
	agent, inventory Digest // of the blocks; 0: there are none
	namespace        unique.Handle[string]
	policy           unique.Handle[string]
	gateway          unique.Handle[string]
	failure          unique.Handle[string] // connection.error
	labels           unique.Handle[string] // as labels.Set writes them
	order            assignmentHead
	assigned         int64  // nanoseconds
	rare             *rare  // nil: nothing of it is set
	text             string // name, remote address and the rest of the assignment, one after the other
	offlineAfter     uint32 // seconds
	enrolled         stamp
	previousUntil    stamp
	seen             stamp
	since, started   stamp
	nameLen          uint8
	remoteLen        uint8
	keyCount         uint8
	lifecycle        uint8
	channel          uint8
}

// rare is what few endpoints have.
type rare struct {
	accept   string // the annotation
	conflict string
	reason   v1alpha1.ConflictReason
}

// newRecord is what is kept of e; nil if it is not enrolled.
func newRecord(e *v1alpha1.Endpoint) *record {
	st := &e.Status
	if st.Identity == nil || !identity.IsUUID(st.Identity.ID) || !identity.IsUUID(string(e.UID)) || len(e.Name) > 63 {
		return nil
	}
	r := &record{
		uid: uuid.MustParse(string(e.UID)), id: uuid.MustParse(st.Identity.ID), version: versionOf(e),
		namespace: unique.Make(e.Namespace), labels: unique.Make(labels.Set(e.Labels).String()), lifecycle: indexOf(lifecycles, e.Spec.Lifecycle),
		enrolled: stampOf(&st.Identity.EnrolledTime), previousUntil: stampOf(st.Identity.PreviousKeyExpirationTime), seen: stampOf(st.LastSeenTime),
		agent: DigestOf(st.Agent), inventory: DigestOf(st.Inventory),
		nameLen: uint8(len(e.Name)), //nolint:gosec // at most 63
	}
	for _, spki := range st.Identity.PublicKeys[:min(2, len(st.Identity.PublicKeys))] {
		r.keys[r.keyCount] = sha256.Sum256(spki)
		r.keyCount++
	}
	var policy, assignment string
	if st.Policy != nil {
		policy = string(st.Policy.Name)
		assignment = r.setAssignment(&st.Policy.Assignment)
		r.offlineAfter = uint32(max(0, st.Policy.OfflineAfterSeconds))
	}
	r.policy = unique.Make(policy)
	c := connectionOf(st.Connection)
	r.setConnection(c)
	if extra := (rare{e.Annotations[v1alpha1.AnnotationAcceptInstance], c.ConflictInstance, c.ConflictReason}); extra != (rare{}) {
		r.rare = &extra
	}
	r.text = e.Name + c.RemoteAddress + assignment
	return r
}

func (r *record) setConnection(c Connection) {
	r.instance, r.before = packInstance(c.ID), packInstance(c.PreviousInstance)
	r.epoch, r.session = c.Epoch, c.Session
	r.channel = indexOf(channels, c.Channel)
	r.gateway, r.failure = unique.Make(c.Gateway), unique.Make(c.Error)
	r.since, r.started = stampAt(c.Since), stampAt(c.InstanceTime)
	r.remoteLen = uint8(len(c.RemoteAddress)) //nolint:gosec // the API bounds it to 128
}

func (r *record) name() string { return r.text[:r.nameLen] }

// seldom is what few endpoints have, or nothing.
func (r *record) seldom() rare {
	if r.rare == nil {
		return rare{}
	}
	return *r.rare
}

func (r *record) accept() string { return r.seldom().accept }

func (r *record) connection() Connection {
	return Connection{
		Instance: Instance{Epoch: r.epoch, ID: r.instance.String(), Session: r.session},
		Channel:  channels[r.channel], Gateway: r.gateway.Value(), Error: r.failure.Value(),
		Since: r.since.time(), InstanceTime: r.started.time(),
		PreviousInstance: r.before.String(), ConflictInstance: r.seldom().conflict, ConflictReason: r.seldom().reason,
		RemoteAddress: r.text[r.nameLen : int(r.nameLen)+int(r.remoteLen)],
	}
}

func (r *record) endpoint() Endpoint {
	id := r.id.String()
	e := Endpoint{
		Ref:        Ref{Namespace: r.namespace.Value(), Name: r.name(), UID: r.uid.String(), identity: id},
		IdentityID: id, Keys: append([]KeyHash(nil), r.keys[:r.keyCount]...),
		PreviousKeyExpires: r.previousUntil.time(), EnrolledTime: r.enrolled.time(),
		Lifecycle: lifecycles[r.lifecycle], AcceptInstance: r.accept(), PolicyName: r.policy.Value(),
		OfflineAfter: time.Duration(r.offlineAfter) * time.Second,
		Connection:   r.connection(), LastSeen: r.seen.time(), Agent: r.agent, Inventory: r.inventory,
		record: r,
	}
	if r.assigned != 0 {
		e.AssignmentIssuedAt = time.Unix(0, r.assigned).UTC()
	}
	return e
}

// sameConnection tells whether two records of an Endpoint are alike in what gateways write and other gateways act by, and in which blocks are
// there at all.
func (r *record) sameConnection(o *record) bool {
	return r.instance == o.instance && r.epoch == o.epoch && r.session == o.session && r.channel == o.channel && r.gateway == o.gateway &&
		r.before == o.before && r.started == o.started && r.seldom() == o.seldom() && (r.agent == 0) == (o.agent == 0) && (r.inventory == 0) == (o.inventory == 0)
}

// sameButWritten tells whether two records of an Endpoint are alike in all that gateways do not write.
func (r *record) sameButWritten(o *record) bool {
	return r.uid == o.uid && r.id == o.id && r.keys == o.keys && r.keyCount == o.keyCount && r.previousUntil == o.previousUntil &&
		r.enrolled == o.enrolled && r.labels == o.labels && r.lifecycle == o.lifecycle && r.accept() == o.accept() && r.policy == o.policy && r.offlineAfter == o.offlineAfter &&
		r.assigned == o.assigned && r.order == o.order && r.packedAssignment() == o.packedAssignment()
}

var (
	lifecycles = []v1alpha1.EndpointLifecycle{
		v1alpha1.LifecycleActive, v1alpha1.LifecycleSuspended, v1alpha1.LifecycleBlocked, v1alpha1.LifecycleDecommissioned,
	}
	channels = []v1alpha1.Channel{"", v1alpha1.ChannelWebSocket, v1alpha1.ChannelHeartbeat, v1alpha1.ChannelNone}
)

// indexOf finds v; what is absent or unknown is the first, which is the default.
func indexOf[T comparable](all []T, v T) uint8 {
	for i, x := range all {
		if x == v {
			return uint8(i)
		}
	}
	return 0
}

// instanceID is 32 hexadecimal digits. Zero stands for none, and for what the protocol does not allow.
type instanceID [16]byte

func packInstance(s string) (id instanceID) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == len(id) {
		copy(id[:], b)
	}
	return id
}

func (id instanceID) String() string {
	if id == (instanceID{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}

// stamp is a time in seconds since 1970, as the API has them; 0 is none.
type stamp uint32

func stampAt(t time.Time) stamp {
	if s := t.Unix(); s > 0 && s <= int64(^stamp(0)) {
		return stamp(s)
	}
	return 0
}

func stampOf(t *metav1.Time) stamp {
	if t == nil {
		return 0
	}
	return stampAt(t.Time)
}

func (s stamp) time() time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0).UTC()
}

// Digest of a block of the status, to see whether another is equal; zero for none. It is keyed anew in each process: agents cannot make two
// that collide.
type Digest uint64

var digestSeed = maphash.MakeSeed()

// DigestOf a block.
func DigestOf[T any](block *T) Digest {
	if block == nil {
		return 0
	}
	_, d := encode(block)
	return d
}

// encode is a block as it is written, and its digest.
func encode[T any](block *T) ([]byte, Digest) {
	b, err := json.Marshal(block)
	if err != nil { // these types cannot fail; what is not comparable is written
		return nil, 1
	}
	return b, Digest(max(maphash.Bytes(digestSeed, b), 1))
}

// versionOf is a resourceVersion as a number, which clients may compare since Kubernetes 1.35 (KEP-5504); 0 if it is none.
func versionOf(o metav1.Object) uint64 {
	v, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return v
}
