// Package heartbeat judges agents' heartbeats, over HTTPS and on sessions alike, and answers them: with the time, the newest beacon and the
// orders that they lack. What an agent says of itself is written only where it has changed; that it was there only every so often.
package heartbeat

import (
	"cmp"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/gateway/dispatch"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Source is what there is to know, and where what changed goes. *store.Store is one.
type Source interface {
	EndpointByIdentity(id string) (store.Endpoint, bool)
	Policy(namespace, name string) (store.Policy, bool)
	Release(e store.Endpoint) (store.Release, bool)
	Beacon() (*agentv1.Envelope, bool)
	Write(r store.Report)
}

// Actions brings open actions to agents. *dispatch.Dispatcher does.
type Actions interface {
	Heard(a *dispatch.Agent, m *agentv1.Heartbeat, line dispatch.Line, now time.Time) (open bool)
}

// Config of a Service.
type Config struct {
	Source  Source
	Actions Actions
	// Gateway is the name of this process: for people, and recorded with each session.
	Gateway string
	// MinInterval is how often an endpoint may beat when half its interval is longer than that; Burst how often at once.
	MinInterval time.Duration
	Burst       int
	// Grace is how long after a takeover an agent's earlier start may still be heard of.
	Grace time.Duration
	// PingInterval is that of an agent on a session whose policy says nothing.
	PingInterval time.Duration
}

// Service answers heartbeats. It remembers of each endpoint that beats here what it said last, in some 250 bytes, and nothing that matters:
// what is forgotten is asked for again.
type Service struct {
	config Config
	seed   maphash.Seed

	mu     sync.Mutex
	agents map[string]*Agent // by identity
}

// Agent is what is remembered of one.
type Agent struct {
	actions dispatch.Agent
	// fresh says that nothing has changed in the store since it was last asked about this agent.
	fresh atomic.Bool
	// gone says that nobody is told any more when something changes: no endpoint had the identity for a moment.
	gone atomic.Bool

	mu   sync.Mutex
	pace limit.State
	// spacing is the average time between heartbeats; ping that between signs of life on a session.
	spacing, ping time.Duration
	// settled is a digest of the last heartbeat that left nothing to be done; refresh is when the next one over HTTPS does.
	settled uint64
	refresh time.Time
	// capabilities and their tag, and the inventory's, once they were sent.
	capabilities                  unique.Handle[string]
	capabilitiesTag, inventoryTag uint64
	// held are the orders that the agent had, offered those that it was last sent or did not need.
	held, offered orders
	skew          int32
	hurried       bool // it was asked to send its sections at once, which is done once
}

// New makes a service.
func New(config Config) *Service {
	return &Service{config: config, seed: maphash.MakeSeed(), agents: map[string]*Agent{}}
}

// Forget lets go of an identity that no endpoint has any more. It is for store.OnChange, and does nothing for one that some endpoint has.
func (s *Service) Forget(identityID string) {
	if _, there := s.config.Source.EndpointByIdentity(identityID); there {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.agents[identityID]; a != nil {
		a.gone.Store(true)
		delete(s.agents, identityID)
	}
}

// Changed notes that something is new in the store about an identity. It is for store.OnChange, OnConnection and OnAction.
func (s *Service) Changed(identityID string) {
	s.mu.Lock()
	a := s.agents[identityID]
	s.mu.Unlock()
	if a != nil {
		a.fresh.Store(false)
	}
}

// AnyChanged notes that something is new in the store about a policy or a release, which may be anybody's.
func (s *Service) AnyChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.agents {
		a.fresh.Store(false)
	}
}

// Remembered is how many agents are.
func (s *Service) Remembered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.agents)
}

// Agent is what is remembered of an endpoint's agent, once that was authenticated.
func (s *Service) Agent(e store.Endpoint, now time.Time) *Agent {
	s.mu.Lock()
	a := s.agents[e.IdentityID]
	if a == nil {
		a = &Agent{actions: dispatch.Agent{ID: e.IdentityID}, ping: s.config.PingInterval}
		s.agents[e.IdentityID] = a
	}
	s.mu.Unlock()
	policy, _ := s.policy(e)
	a.mu.Lock()
	defer a.mu.Unlock()
	s.space(a, policy, now)
	return a
}

// IdentityID is whose agent it is.
func (a *Agent) IdentityID() string { return a.actions.ID }

// Actions is what is remembered of its actions.
func (a *Agent) Actions() *dispatch.Agent { return &a.actions }

// PingInterval is how often the agent gives a sign of life on a session, as far as is known.
func (a *Agent) PingInterval() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ping
}

// Admit counts a heartbeat of an agent, before its body is read, or says when it may come again.
func (s *Service) Admit(a *Agent, now time.Time) *wire.Problem {
	a.mu.Lock()
	defer a.mu.Unlock()
	return s.admit(a, now)
}

func (s *Service) admit(a *Agent, now time.Time) *wire.Problem {
	wait, ok := a.pace.Take(limit.Rate{Every: a.spacing, Burst: s.config.Burst}, now)
	if ok {
		return nil
	}
	return &wire.Problem{Name: wire.Throttled, Detail: "The endpoint sends too many heartbeats.", RetryAfter: wait}
}

// space sets how often an agent may beat. One that is to do so more often from now on does not make up for having done so before.
func (s *Service) space(a *Agent, policy store.Policy, now time.Time) {
	every := min(cmp.Or(policy.Interval, store.DefaultInterval)/2, s.config.MinInterval)
	if every < a.spacing {
		a.pace = min(a.pace, limit.State(now.Add(every).UnixNano()))
	}
	a.spacing = every
}

func (s *Service) policy(e store.Endpoint) (store.Policy, bool) {
	if e.PolicyName == "" {
		return store.Policy{}, false
	}
	return s.config.Source.Policy(e.Namespace, e.PolicyName)
}
