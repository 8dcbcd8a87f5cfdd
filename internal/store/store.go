package store

import (
	"context"
	"crypto/tls"
	"errors"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Config of a Store.
type Config struct {
	// REST reaches the API server. A BearerTokenFile need not exist yet, and is read again when it changes.
	REST *rest.Config
	// Namespace of the manager's ConfigMaps and the gateways' Leases.
	Namespace string
	// Gateway is this process' own name, gw-..., and that of its Lease.
	Gateway string
	Log     logr.Logger
	// WriteRate is how many status writes a second are made on average.
	WriteRate float64
	// LeaseDuration and LeaseRenew: how long the Lease is good, and how often it is renewed.
	LeaseDuration, LeaseRenew time.Duration
	// DrainTimeout bounds how long Run goes on writing after its context has ended.
	DrainTimeout time.Duration
	// Registerer gets the metrics; nil: none.
	Registerer prometheus.Registerer
}

// Store is one gateway's view of the API server.
type Store struct {
	cfg Config
}

// New makes a store. It reaches for nothing before Run.
func New(cfg Config) (*Store, error) { return &Store{cfg: cfg}, nil }

// Run watches, writes and keeps the Lease until ctx ends, then writes what waits, for DrainTimeout at most, and deletes the Lease. End
// ctx when nothing calls Write any more.
func (s *Store) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Ready is nil once everything was read and trust and beacon are there; otherwise it says what is missing.
func (s *Store) Ready() error { return errors.New("not yet") }

// OnChange has f called, soon after the change, with the identity of an endpoint whose identity, keys, lifecycle, policy, assignment or
// accepted instance changed, or which is gone; and with "" after trust changed. What gateways write calls nothing. f must be quick. Call
// OnChange before Run.
func (s *Store) OnChange(f func(identityID string)) {}

// EndpointByIdentity finds an endpoint by status.identity.id.
func (s *Store) EndpointByIdentity(id string) (Endpoint, bool) { return Endpoint{}, false }

// EndpointByKey finds an endpoint by the hash of one of its identity's keys.
func (s *Store) EndpointByKey(spki KeyHash) (Endpoint, bool) { return Endpoint{}, false }

// Token finds an EnrollmentToken by its UID.
func (s *Store) Token(uid string) (Token, bool) { return Token{}, false }

// Policy finds an EndpointPolicy.
func (s *Store) Policy(namespace, name string) (Policy, bool) { return Policy{}, false }

// Trust is the newest that was published.
func (s *Store) Trust() (*Trust, bool) { return nil, false }

// Beacon is the newest that was published. It must not be changed.
func (s *Store) Beacon() (*agentv1.Envelope, bool) { return nil, false }

// Write takes note of a report, and never blocks. Reports of one endpoint are merged: only the newest state of each block is written.
func (s *Store) Write(r Report) {}

// Errors of Certify and ServingCertificate; both may fail with others while the API server is away.
var (
	// ErrPending: ctx ended before the request was answered. Asking again joins it.
	ErrPending = errors.New("the certificate request is not answered yet")
	// ErrSlotTaken: another request is in this one's place, for some seconds.
	ErrSlotTaken = errors.New("another certificate request is in the way")
)

// Denied is the manager's refusal, for good, of a certificate request.
type Denied struct {
	// Reason is the name of a problem in CamelCase, such as TokenExpired; something else if a person denied it.
	Reason string
	// Message says why, for people.
	Message string
}

func (d *Denied) Error() string { return d.Reason + ": " + d.Message }

// Certify has the manager sign an agent's certificate request (DER; spki is its key) that proof vouches for, and returns the certificate
// (DER). It joins a request that is under way with the same key and proof. It waits until ctx ends: ErrPending, ErrSlotTaken or *Denied.
func (s *Store) Certify(ctx context.Context, spki, csrDER []byte, proof *agentv1.Envelope) (certDER []byte, err error) {
	return nil, ErrPending
}

// ServingCertificate makes a key and has the manager sign a serving certificate with these names (DNS names and IP addresses) for it.
func (s *Store) ServingCertificate(ctx context.Context, names []string) (tls.Certificate, error) {
	return tls.Certificate{}, ErrPending
}
