package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Config of a Store.
type Config struct {
	// REST reaches the API server. A BearerTokenFile need not exist yet, and is read again when it changes.
	REST *rest.Config
	// Namespace of the manager's ConfigMaps and the gateways' Leases.
	Namespace string
	// Gateway is this process' own name, gw-..., and that of its Lease.
	Gateway string
	// Log names the gateway already.
	Log logr.Logger
	// WriteRate is how many status writes a second are made on average. Up to a second's worth may come at once.
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
	cfg     Config
	clients *clients

	endpoints *endpoints
	tokens    *table[*v1alpha1.EnrollmentToken, Token]
	policies  *table[*v1alpha1.EndpointPolicy, Policy]
	releases  *releases
	actions   *actions
	searches  *rate.Limiter
	trust     *published[Trust]
	beacon    *published[agentv1.Envelope]
	slots     *slots
	readings  []*reading

	pacer *pacer
	lease *lease

	onChange, onConnection, onAction []func(identityID string)
	onPolicy                         []func(namespace, name string)
	onRelease                        []func()
}

// New makes a store. It reaches for nothing before Run.
func New(cfg Config) (*Store, error) {
	if cfg.WriteRate <= 0 || cfg.LeaseRenew <= 0 || cfg.LeaseDuration <= cfg.LeaseRenew {
		return nil, fmt.Errorf("the write rate (%g) must be positive, and the Lease (%s) longer than the time until it is renewed (%s)",
			cfg.WriteRate, cfg.LeaseDuration, cfg.LeaseRenew)
	}
	c, err := newClients(cfg.REST)
	if err != nil {
		return nil, err
	}
	m := newMetrics()
	s := &Store{cfg: cfg, clients: c, tokens: newTokens(), slots: newSlots(), searches: rate.NewLimiter(searchRate, searchBurst)}
	s.policies = newPolicies(s.policyChanged)
	s.releases = newReleases(s.releaseChanged)
	s.endpoints = newEndpoints(cfg.Log, s.changed, s.connectionChanged)
	s.actions = newActions(s.actionChanged)
	s.trust = &published[Trust]{log: cfg.Log, parse: parseTrust, changed: func() { s.changed("") }}
	s.beacon = &published[agentv1.Envelope]{log: cfg.Log, parse: parseBeacon, changed: func() {}}
	s.pacer = newPacer(cfg.Log, c, s.endpoints, cfg.WriteRate, m)
	s.lease = &lease{
		log: cfg.Log, api: leases{c.coordination, cfg.Namespace}, name: cfg.Gateway,
		duration: cfg.LeaseDuration, renew: cfg.LeaseRenew, renewed: m.renewed.SetToCurrentTime,
	}
	s.readings = s.allReadings()
	m.pacer, m.actions = s.pacer, s.actions
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(m); err != nil {
			return nil, fmt.Errorf("register the store's metrics: %w", err)
		}
	}
	return s, nil
}

func (s *Store) allReadings() []*reading {
	c, log, own := s.clients, s.cfg.Log, s.cfg.Namespace
	all, everywhere := fields.Everything(), metav1.NamespaceAll
	named := func(name string) fields.Selector { return fields.OneTermEqualSelector(metav1.ObjectNameField, name) }
	return []*reading{
		newEndpointReading(log, c.rollcall, s.endpoints),
		newActionReading(log, c.rollcall, s.actions),
		newReading[*v1alpha1.EnrollmentToken]("EnrollmentTokens", log, listWatch(c.rollcall, tokensResource, everywhere, all), s.tokens, &v1alpha1.EnrollmentToken{}),
		newReading[*v1alpha1.EndpointPolicy]("EndpointPolicies", log, listWatch(c.rollcall, policiesResource, everywhere, all), s.policies, &v1alpha1.EndpointPolicy{}),
		newReading[*v1alpha1.ContentRelease]("ContentReleases", log, listWatch(c.rollcall, releasesResource, everywhere, all), s.releases.table, &v1alpha1.ContentRelease{}),
		newReading[*certv1.CertificateSigningRequest]("CertificateSigningRequests", log,
			listWatch(c.certificates, requestsResource, everywhere, fields.OneTermEqualSelector("spec.signerName", agentSigner)),
			s.slots, &certv1.CertificateSigningRequest{}),
		newReading[*corev1.ConfigMap]("ConfigMap "+trustConfigMap, log, listWatch(c.core, configMapsResource, own, named(trustConfigMap)), s.trust, &corev1.ConfigMap{}),
		newReading[*corev1.ConfigMap]("ConfigMap "+beaconConfigMap, log, listWatch(c.core, configMapsResource, own, named(beaconConfigMap)), s.beacon, &corev1.ConfigMap{}),
	}
}

// Run watches, writes and keeps the Lease until ctx ends, then writes what waits, for DrainTimeout at most, and deletes the Lease. End
// ctx when nothing calls Write any more. Run may be called once.
func (s *Store) Run(ctx context.Context) error {
	after, cancel := context.WithCancel(context.WithoutCancel(ctx)) // for what goes on while the pacer drains
	var others sync.WaitGroup
	for _, r := range s.readings {
		others.Go(func() { r.run(after) })
	}
	others.Go(func() { s.lease.run(after) })
	s.pacer.run(ctx, s.cfg.DrainTimeout)
	cancel()
	others.Wait()
	return nil
}

// Ready is nil once everything was read and trust and beacon are there; otherwise it says what is missing. It stays nil while the API server
// is away: the store answers from what it has read.
func (s *Store) Ready() error {
	var missing []error
	for _, r := range s.readings {
		missing = append(missing, r.missing())
	}
	if errors.Join(missing...) == nil {
		missing = append(missing, s.trust.missing(s.cfg.Namespace, trustConfigMap), s.beacon.missing(s.cfg.Namespace, beaconConfigMap))
	}
	return errors.Join(missing...)
}

// OnChange has f called, soon after the change, with the identity of an endpoint whose identity, keys, lifecycle, policy, assignment or
// accepted instance changed, or which is gone; and with "" after trust changed. What gateways write calls nothing. f must be quick. Call
// OnChange before Run.
func (s *Store) OnChange(f func(identityID string)) { s.onChange = append(s.onChange, f) }

func (s *Store) changed(identityID string) {
	for _, f := range s.onChange {
		f(identityID)
	}
}

// OnConnection has f called, soon after the change, with the identity of an endpoint whose stored connection changed, whoever wrote it, or whose
// agent or inventory appeared or disappeared. f must be quick. Call OnConnection before Run.
func (s *Store) OnConnection(f func(identityID string)) { s.onConnection = append(s.onConnection, f) }

func (s *Store) connectionChanged(identityID string) {
	for _, f := range s.onConnection {
		f(identityID)
	}
}

// OnPolicy has f called, soon after the change, with the name of an EndpointPolicy that is new or changed. f must be quick. Call OnPolicy before
// Run.
func (s *Store) OnPolicy(f func(namespace, name string)) { s.onPolicy = append(s.onPolicy, f) }

func (s *Store) policyChanged(namespace, name string) {
	for _, f := range s.onPolicy {
		f(namespace, name)
	}
}

// OnRelease has f called, soon after the change, when what is offered has changed. f must be quick. Call OnRelease before Run.
func (s *Store) OnRelease(f func()) { s.onRelease = append(s.onRelease, f) }

func (s *Store) releaseChanged() {
	for _, f := range s.onRelease {
		f()
	}
}

// OnAction has f called, soon after the change, with the identity that an action was admitted for which is open, and new or changed, or is not
// open any more. f must be quick. Call OnAction before Run.
func (s *Store) OnAction(f func(identityID string)) { s.onAction = append(s.onAction, f) }

func (s *Store) actionChanged(identityID string) {
	for _, f := range s.onAction {
		f(identityID)
	}
}

// EndpointByIdentity finds an endpoint by status.identity.id.
func (s *Store) EndpointByIdentity(id string) (Endpoint, bool) {
	return s.endpoint(s.endpoints.identity(id))
}

// EndpointByKey finds an endpoint by the hash of its identity's newest key.
func (s *Store) EndpointByKey(spki KeyHash) (Endpoint, bool) {
	return s.endpoint(s.endpoints.key(spki))
}

func (s *Store) endpoint(r *record) (Endpoint, bool) {
	if r == nil {
		return Endpoint{}, false
	}
	e := r.endpoint()
	if c, ok := s.pacer.waiting(r.uid, r.id); ok {
		now := c.over(r.state())
		e.Connection, e.LastSeen, e.Agent, e.Inventory = now.connection, now.seen, now.agent, now.inventory
	}
	return e, true
}

// Token finds an EnrollmentToken by its UID.
func (s *Store) Token(uid string) (Token, bool) { return s.tokens.get(uid) }

// Policy finds an EndpointPolicy.
func (s *Store) Policy(namespace, name string) (Policy, bool) {
	return s.policies.get(policyKey(namespace, name))
}

// Release finds what an endpoint should have of the content that is offered in its namespace.
func (s *Store) Release(e Endpoint) (Release, bool) { return s.releases.of(e, s.pin(e)) }

// Offers tells whether an artifact is of content that an endpoint may have, whatever it should have now: it may have been offered a moment ago.
func (s *Store) Offers(e Endpoint, sha256 string) bool { return s.releases.offers(e, sha256) }

// pin is the version of content that the endpoint's policy pins.
func (s *Store) pin(e Endpoint) string {
	if e.PolicyName == "" {
		return ""
	}
	p, _ := s.Policy(e.Namespace, e.PolicyName)
	return p.ContentPin
}

// Trust is the newest that was published.
func (s *Store) Trust() (*Trust, bool) {
	t := s.trust.now.Load()
	return t, t != nil
}

// Beacon is the newest that was published. It must not be changed.
func (s *Store) Beacon() (*agentv1.Envelope, bool) {
	b := s.beacon.now.Load()
	return b, b != nil
}

// Write takes note of a report, and never blocks. Reports of one endpoint are merged: only the newest state of each block is written.
func (s *Store) Write(r Report) { s.pacer.write(r) }
