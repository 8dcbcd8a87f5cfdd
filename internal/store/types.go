package store

import (
	"crypto/ed25519"
	"crypto/sha256"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/release"
)

// KeyHash is the SHA-256 of a public key's SubjectPublicKeyInfo (DER).
type KeyHash = [sha256.Size]byte

// Ref names one object; one that was deleted and made again is another. That of an Endpoint stands for one enrolment of it, too: what is
// reported of a machine is not written once another has taken its place.
type Ref struct {
	Namespace, Name, UID string

	identity string // "" for any
}

// Endpoint is an enrolled endpoint: what the API server holds, and over it what this gateway has reported and not written yet. It is the
// caller's to keep.
type Endpoint struct {
	Ref
	// IdentityID is status.identity.id, never empty.
	IdentityID string
	// Keys are those of the identity, newest first, at most two; the second is good until PreviousKeyExpires (zero: it is not).
	Keys               []KeyHash
	PreviousKeyExpires time.Time
	EnrolledTime       time.Time
	// Lifecycle is never empty.
	Lifecycle v1alpha1.EndpointLifecycle
	// AcceptInstance is the annotation rollcall.dev/accept-instance.
	AcceptInstance string
	// PolicyName of the EndpointPolicy that applies; empty: the defaults.
	PolicyName string
	// OfflineAfter is the silence after which the manager calls the endpoint offline; zero until it has assigned a policy. A heartbeat that
	// finds LastSeen older than a quarter of it is to be reported (liveness.RefreshAfter).
	OfflineAfter time.Duration
	// AssignmentIssuedAt is zero until the manager has made an assignment.
	AssignmentIssuedAt time.Time

	// Connection is zero until there was one.
	Connection Connection
	// LastSeen is zero if it was never written.
	LastSeen time.Time
	// Agent and Inventory are digests of these blocks of the status, zero where there is none.
	Agent, Inventory Digest

	record *record
}

// Assignment is the signed order that names the policy; nil until the manager has made one. It is made anew at each call: ask for it when
// the agent lacks it.
func (e Endpoint) Assignment() *agentv1.Envelope {
	if e.record == nil {
		return nil
	}
	return e.record.assignment()
}

// Labels of the Endpoint. They are made anew at each call.
func (e Endpoint) Labels() labels.Set {
	if e.record == nil {
		return nil
	}
	set, err := labels.ConvertSelectorToLabelsMap(e.record.labels.Value())
	if err != nil { // as it was written
		return nil
	}
	return set
}

// Instance tells one start of an agent, and one session of it, from all others.
type Instance struct {
	Epoch   int64
	ID      string
	Session int64
}

// Connection is status.connection. Times have whole seconds.
type Connection struct {
	Instance
	Channel          v1alpha1.Channel
	Gateway          string
	Since            time.Time
	InstanceTime     time.Time
	PreviousInstance string
	ConflictInstance string
	ConflictReason   v1alpha1.ConflictReason
	Error            string
	RemoteAddress    string
}

// Token is an EnrollmentToken.
type Token struct {
	Ref
	// Key is nil until the manager has made it.
	Key ed25519.PublicKey
	// Expires is zero for never.
	Expires time.Time
	// Exhausted: it was used as often as it may be.
	Exhausted bool
	// Claims are the keys of enrolments under way.
	Claims []KeyHash
}

// Policy is an EndpointPolicy, its defaults resolved. Its envelope is shared and must not be changed.
type Policy struct {
	Ref
	// Revision is 0 and Order nil until the manager has signed it.
	Revision          int64
	Order             *agentv1.Envelope
	Interval          time.Duration
	Missed            int
	WebsocketDisabled bool
	// PingInterval is 0 where the policy leaves it to the default.
	PingInterval time.Duration
	// ContentPin is the version that its endpoints stay on; empty: none.
	ContentPin string
}

// Release is a ContentRelease that is offered. Its envelope is shared and must not be changed.
type Release struct {
	release.Release
	// Offer as the manager signed it.
	Offer *agentv1.Envelope
	// Pinned says that the endpoint's policy pins it.
	Pinned bool

	digests []string
}

// Defaults of an endpoint that no policy selects, and of what a policy does not set.
const (
	DefaultInterval = 5 * time.Minute
	DefaultMissed   = 3
)

// Trust is what the manager publishes of a fleet. It is never changed: a newer one is another pointer.
type Trust struct {
	// Trust is the newest bundle.
	*identity.Trust
	// Bundles are all that are published, ascending by version. They are shared and must not be changed.
	Bundles []*agentv1.Envelope
	// Versions of the bundles.
	Versions []uint64
}

// Report is what a gateway wants written about an endpoint. Blocks that are nil stay as they are.
type Report struct {
	Ref
	// Seen is when it was last heard of.
	Seen time.Time
	// Replaces is the Endpoint.Connection by which all this was decided. If an instance that is newer than this report's has taken its
	// place by the time it is written, the report is dropped.
	Replaces Connection
	// Connection with the channel None says that the session of Replaces is down. It is written only while that session is the one that is
	// stored, at the same gateway.
	Connection *Connection
	Agent      *v1alpha1.EndpointAgent
	Inventory  *v1alpha1.EndpointInventory
}
