// Package heartbeat answers agents' heartbeats: with the time, the newest beacon and the orders that they lack. What an agent says of itself is
// written only where it has changed, and that it was there only every so often.
package heartbeat

import (
	"encoding/json"
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unique"

	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/utils/ptr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/gateway/instance"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Source is what there is to know, and where what changed goes. *store.Store is one.
type Source interface {
	EndpointByIdentity(id string) (store.Endpoint, bool)
	Policy(namespace, name string) (store.Policy, bool)
	Beacon() (*agentv1.Envelope, bool)
	Write(r store.Report)
}

// Config of a Service.
type Config struct {
	Source Source
	// Gateway is the name of this process, for people.
	Gateway string
	// MinInterval is how often an endpoint may beat when half its interval is longer than that; Burst how often at once.
	MinInterval time.Duration
	Burst       int
	// Grace is how long after a takeover an agent's earlier start may still be heard of.
	Grace time.Duration
}

// Service answers heartbeats. It remembers of each endpoint that beats here what was reported last, in some 150 bytes, and nothing that matters:
// what is forgotten is asked for again.
type Service struct {
	config Config
	seed   maphash.Seed

	mu     sync.Mutex
	agents map[string]*agent // by identity
}

// agent is what is remembered of one.
type agent struct {
	mu sync.Mutex

	pace limit.State
	// reported and inventory are digests of what was reported last; 0: nothing yet.
	reported, inventory uint64
	// capabilities and their tag, and the inventory's, once they were sent.
	capabilities                  unique.Handle[string]
	capabilitiesTag, inventoryTag uint64
	skew                          int32
	hurried                       bool // it was asked to send its sections at once, which is done once
}

// New makes a service.
func New(config Config) *Service {
	return &Service{config: config, seed: maphash.MakeSeed(), agents: map[string]*agent{}}
}

// Forget lets go of an identity that no endpoint has any more. It is for store.OnChange, and does nothing for one that some endpoint has.
func (s *Service) Forget(identityID string) {
	if _, there := s.config.Source.EndpointByIdentity(identityID); there {
		return
	}
	s.mu.Lock()
	delete(s.agents, identityID)
	s.mu.Unlock()
}

// Remembered is how many agents are.
func (s *Service) Remembered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.agents)
}

func (s *Service) agent(identityID string) *agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[identityID]
	if a == nil {
		a = &agent{}
		s.agents[identityID] = a
	}
	return a
}

// Admit counts a heartbeat of an endpoint, before its body is read, or says when it may come again.
func (s *Service) Admit(e store.Endpoint, now time.Time) *wire.Problem {
	interval := store.DefaultInterval
	if p, ok := s.policy(e); ok {
		interval = p.Interval
	}
	a := s.agent(e.IdentityID)
	a.mu.Lock()
	defer a.mu.Unlock()
	wait, ok := a.pace.Take(limit.Rate{Every: min(interval/2, s.config.MinInterval), Burst: s.config.Burst}, now)
	if ok {
		return nil
	}
	return &wire.Problem{Name: wire.Throttled, Detail: "The endpoint sends too many heartbeats.", RetryAfter: wait}
}

func (s *Service) policy(e store.Endpoint) (store.Policy, bool) {
	if e.PolicyName == "" {
		return store.Policy{}, false
	}
	return s.config.Source.Policy(e.Namespace, e.PolicyName)
}

// Beat answers a heartbeat that keeps to its bounds, of an agent that was authenticated with this identity.
func (s *Service) Beat(identityID string, m *agentv1.Heartbeat, from netip.Addr, now time.Time) (*agentv1.HeartbeatReply, *wire.Problem) {
	a := s.agent(identityID)
	a.mu.Lock()
	defer a.mu.Unlock()
	e, there := s.config.Source.EndpointByIdentity(identityID)
	if !there { // gone since it was authenticated, a moment ago
		s.Forget(identityID)
		return nil, &wire.Problem{Name: wire.EndpointUnknown, Detail: "The Endpoint was deleted."}
	}
	contact := instance.Contact{Instance: instanceOf(m), At: now}
	verdict, next := instance.Judge(e, contact, s.config.Grace)
	switch verdict {
	case instance.Late:
		return nil, &wire.Problem{Name: wire.SessionReplaced, Detail: "A newer start of this agent, or a newer session, has taken over."}
	case instance.Conflicting:
		if next != e.Connection {
			s.config.Source.Write(store.Report{Ref: e.Ref, Replaces: e.Connection, Connection: &next})
		}
		return nil, &wire.Problem{
			Name: wire.IdentityConflict, RetryAfter: 5 * time.Minute,
			Detail: "Another machine uses this identity: enrol one of the two again, or name the true instance in the annotation rollcall.dev/accept-instance of the Endpoint. This one is " + contact.ID + ".",
		}
	}
	s.report(a, e, next, m, from, now)
	return s.reply(a, e, next, m, now), nil
}

func instanceOf(m *agentv1.Heartbeat) store.Instance {
	a := m.GetAgent()
	return store.Instance{Epoch: number(a.GetEpoch()), ID: a.GetInstanceId(), Session: number(a.GetSessionNumber())}
}

// report writes what has changed, and now and then that the endpoint was there.
func (s *Service) report(a *agent, e store.Endpoint, next store.Connection, m *agentv1.Heartbeat, from netip.Addr, now time.Time) {
	if next.Channel != v1alpha1.ChannelHeartbeat {
		next.Channel, next.Gateway, next.Since = v1alpha1.ChannelHeartbeat, "", now
	}
	next.Error, next.RemoteAddress = wire.CutText(m.GetSessionError(), maxMessage), from.String()
	r := store.Report{Ref: e.Ref, Seen: now, Replaces: e.Connection}
	r.Agent, r.Inventory = s.changedBlocks(a, e, m)
	if r.Agent == nil && r.Inventory == nil && now.Sub(e.LastSeen) < refreshAfter(e) && !material(e.Connection, next) {
		return
	}
	if next != e.Connection {
		r.Connection = &next
	}
	s.config.Source.Write(r)
}

// material tells whether a connection is worth a write. A laptop's address changes by itself, and an agent counts its sessions: both are only
// written with something else.
func material(before, after store.Connection) bool {
	before.Session, before.RemoteAddress = after.Session, after.RemoteAddress
	return before != after
}

func refreshAfter(e store.Endpoint) time.Duration {
	if e.OfflineAfter == 0 {
		return liveness.RefreshAfter(store.DefaultInterval, store.DefaultMissed)
	}
	return e.OfflineAfter / 4
}

// changedBlocks are the blocks that differ from what was reported last. Nothing is said of an agent before its capabilities are known: the
// block is written whole, and would take them away.
func (s *Service) changedBlocks(a *agent, e store.Endpoint, m *agentv1.Heartbeat) (block *v1alpha1.EndpointAgent, inventory *v1alpha1.EndpointInventory) {
	if c := m.GetCapabilities(); c != nil {
		a.capabilities, a.capabilitiesTag = join(capabilityNames(c)), s.tag(m.GetCapabilitiesTag())
	}
	if a.capabilitiesTag != 0 {
		block = agentBlock(m, split(a.capabilities), a.skew)
		if d := s.digest(block); d == a.reported && e.AgentWritten {
			block = nil
		} else {
			a.reported, a.skew = d, ptr.Deref(block.ClockSkewSeconds, 0)
		}
	}
	if m.GetInventory() != nil {
		inventory, a.inventoryTag = inventoryBlock(m), s.tag(m.GetInventoryTag())
		if d := s.digest(inventory); d == a.inventory && e.InventoryWritten {
			inventory = nil
		} else {
			a.inventory = d
		}
	}
	return block, inventory
}

// reply has the orders that the agent lacks, unless two machines use the identity: then nobody gets any.
func (s *Service) reply(a *agent, e store.Endpoint, next store.Connection, m *agentv1.Heartbeat, now time.Time) *agentv1.HeartbeatReply {
	out := &agentv1.HeartbeatReply{ServerTime: timestamppb.New(now), Gateway: s.config.Gateway}
	out.Beacon, _ = s.config.Source.Beacon()
	if next.ConflictInstance == "" {
		policy, applies := s.policy(e)
		out.Orders = lacking(m, assigned{e.AssignmentIssuedAt, e.Assignment, policy, applies})
	}
	if a.capabilitiesTag != s.tag(m.GetCapabilitiesTag()) {
		out.Send = append(out.Send, agentv1.Section_SECTION_CAPABILITIES)
	}
	if a.inventoryTag != s.tag(m.GetInventoryTag()) || !e.InventoryWritten && m.GetInventory() == nil {
		out.Send = append(out.Send, agentv1.Section_SECTION_INVENTORY)
	}
	if len(out.Send) > 0 && !a.hurried {
		a.hurried, out.More = true, true // once, so that an agent that cannot send them does not beat on and on
	}
	return out
}

func (s *Service) tag(text string) uint64 { return maphash.String(s.seed, text) | 1 }

func (s *Service) digest(block any) uint64 {
	b, err := json.Marshal(block)
	if err != nil {
		return 0 // these blocks always encode; 0 is what nothing has
	}
	return maphash.Bytes(s.seed, b) | 1
}

// join shares one text among all agents that can do the same.
func join(names []v1alpha1.Text) unique.Handle[string] {
	var b strings.Builder
	for _, n := range names {
		b.WriteString(string(n))
		b.WriteByte('\n')
	}
	return unique.Make(b.String())
}

func split(h unique.Handle[string]) (names []v1alpha1.Text) {
	for n := range strings.Lines(h.Value()) {
		names = append(names, v1alpha1.Text(strings.TrimSuffix(n, "\n")))
	}
	return names
}
