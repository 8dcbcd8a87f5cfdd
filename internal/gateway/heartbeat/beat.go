package heartbeat

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"time"
	"unique"

	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/utils/ptr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/gateway/dispatch"
	"github.com/rollcall-dev/rollcall/internal/gateway/instance"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Via is how a heartbeat came.
type Via struct {
	// Session: on a websocket of this gateway, and not over HTTPS.
	Session bool
	// Line is what actions are sent by; nil: they wait.
	Line dispatch.Line
	// Address of the agent, as it is seen here.
	Address netip.Addr
	// Accepted, if there is one, is called once the heartbeat is, before anything is reported and while no other contact of the same agent is
	// judged. A problem refuses it after all.
	Accepted func() *wire.Problem
}

func (v Via) accepted() *wire.Problem {
	if v.Accepted == nil {
		return nil
	}
	return v.Accepted()
}

func (s *Service) gateway(v Via) string {
	if v.Session {
		return s.config.Gateway
	}
	return ""
}

// Beat answers a heartbeat that keeps to its bounds. raw is m in protobuf as it came; nil if it came otherwise. reply must be empty but for a
// ServerTime, which is used if there is one.
func (s *Service) Beat(a *Agent, m *agentv1.Heartbeat, raw []byte, via Via, now time.Time, reply *agentv1.HeartbeatReply) *wire.Problem {
	says, ok := s.read(m, raw)
	if !ok {
		return &wire.Problem{Name: wire.Malformed, Detail: "The heartbeat cannot be read."}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.nothingNew(says, via, now) {
		if p := s.consider(a, says.mark(via), m, via, now, reply); p != nil {
			return p
		}
	}
	s.greet(reply, now)
	return nil
}

// Again answers a heartbeat on a session without decoding it, if it says what the one before said and does not come too soon. Almost all are
// answered so: there is nothing to look up, to write or to order, as long as the store has told of no change. It counts as admitted.
func (s *Service) Again(a *Agent, raw []byte, now time.Time, reply *agentv1.HeartbeatReply) bool {
	via := Via{Session: true}
	says, ok := scan(s.seed, raw)
	if !ok {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.nothingNew(says, via, now) || s.admit(a, now) != nil {
		return false
	}
	s.greet(reply, now)
	return true
}

// greet puts into a reply what is in every one.
func (s *Service) greet(reply *agentv1.HeartbeatReply, now time.Time) {
	if reply.ServerTime == nil {
		reply.ServerTime = &timestamppb.Timestamp{}
	}
	reply.ServerTime.Seconds, reply.ServerTime.Nanos = now.Unix(), int32(now.Nanosecond()) //nolint:gosec // below 10^9
	reply.Gateway = s.config.Gateway
	reply.Beacon, _ = s.config.Source.Beacon()
}

// nothingNew tells whether a heartbeat leaves everything as it is.
func (a *Agent) nothingNew(says saying, via Via, now time.Time) bool {
	return via.Accepted == nil && a.fresh.Load() && !a.gone.Load() && says.mark(via) == a.settled && !says.sections &&
		roundSkew(says.skew, a.skew) == a.skew && (via.Session || now.Before(a.refresh))
}

// consider judges a heartbeat by what the store knows, reports what is new, and puts into the reply what the agent lacks.
func (s *Service) consider(a *Agent, mark uint64, m *agentv1.Heartbeat, via Via, now time.Time, reply *agentv1.HeartbeatReply) *wire.Problem {
	a.settled = 0
	a.fresh.Store(true) // before the store is asked: what changes from here on makes it false again
	e, there := s.config.Source.EndpointByIdentity(a.IdentityID())
	if !there { // gone since it was authenticated, a moment ago
		s.Forget(a.IdentityID())
		return unknown()
	}
	next, p := s.judge(e, instance.Contact{Instance: InstanceOf(m.GetAgent()), Gateway: s.gateway(via), At: now})
	if p != nil {
		return p
	}
	if p := via.accepted(); p != nil {
		return p
	}
	s.report(a, e, next, m, via, now)
	s.fill(a, e, next, m, now, reply)
	open := s.config.Actions.Heard(&a.actions, m, via.Line, now)
	if len(reply.Orders) == 0 && len(reply.Send) == 0 && !open {
		a.settled = mark
	}
	return nil
}

// judge decides whether a contact counts, and what is to be recorded of it. A conflict is recorded here.
func (s *Service) judge(e store.Endpoint, in instance.Contact) (next store.Connection, p *wire.Problem) {
	verdict, next := instance.Judge(e, in, s.config.Grace)
	switch verdict {
	case instance.Late:
		return next, &wire.Problem{Name: wire.SessionReplaced, Detail: "A newer start of this agent, or a newer session, has taken over."}
	case instance.Conflicting:
		if next != e.Connection {
			s.config.Source.Write(store.Report{Ref: e.Ref, Replaces: e.Connection, Connection: &next})
		}
		return next, &wire.Problem{
			Name: wire.IdentityConflict, RetryAfter: 5 * time.Minute,
			Detail: "Another machine uses this identity: enrol one of the two again, or name the true instance in the annotation rollcall.dev/accept-instance of the Endpoint. This one is " + in.ID + ".",
		}
	}
	return next, nil
}

func unknown() *wire.Problem {
	return &wire.Problem{Name: wire.EndpointUnknown, Detail: "The Endpoint was deleted."}
}

// InstanceOf an agent, and which of its sessions, as it says of itself.
func InstanceOf(a *agentv1.AgentInfo) store.Instance {
	return store.Instance{Epoch: number(a.GetEpoch()), ID: a.GetInstanceId(), Session: number(a.GetSessionNumber())}
}

// report writes what has changed, and now and then that the endpoint was there. A session is refreshed by Refresh instead.
func (s *Service) report(a *Agent, e store.Endpoint, next store.Connection, m *agentv1.Heartbeat, via Via, now time.Time) {
	next = s.through(next, via, now)
	next.Error = wire.CutText(m.GetSessionError(), maxMessage)
	r := store.Report{Ref: e.Ref, Seen: now, Replaces: e.Connection}
	r.Agent, r.Inventory = s.changedBlocks(a, e, m)
	a.refresh = e.LastSeen.Add(refreshAfter(e))
	if r.Agent == nil && r.Inventory == nil && (via.Session || now.Before(a.refresh)) && !material(e.Connection, next) {
		return
	}
	if next != e.Connection {
		r.Connection = &next
	}
	a.refresh = now.Add(refreshAfter(e))
	s.config.Source.Write(r)
}

// through records how the agent is connected.
func (s *Service) through(next store.Connection, via Via, now time.Time) store.Connection {
	channel := v1alpha1.ChannelHeartbeat
	if via.Session {
		channel = v1alpha1.ChannelWebSocket
	}
	if next.Channel != channel { // and what was wrong with the one before is over
		next.Channel, next.Since, next.Error = channel, now, ""
	}
	next.Gateway, next.RemoteAddress = s.gateway(via), via.Address.String()
	return next
}

// material tells whether a connection is worth a write. A laptop's address changes by itself, and without a session an agent counts its
// attempts at one: both are only written with something else.
func material(before, after store.Connection) bool {
	before.RemoteAddress = after.RemoteAddress
	if after.Channel != v1alpha1.ChannelWebSocket {
		before.Session = after.Session
	}
	return before != after
}

func refreshAfter(e store.Endpoint) time.Duration {
	if e.OfflineAfter == 0 {
		return liveness.RefreshAfter(store.DefaultInterval, store.DefaultMissed)
	}
	return e.OfflineAfter / 4
}

// changedBlocks are the blocks that differ from what is stored. Nothing is said of an agent before its capabilities are known: the block is
// written whole, and would take them away.
func (s *Service) changedBlocks(a *Agent, e store.Endpoint, m *agentv1.Heartbeat) (block *v1alpha1.EndpointAgent, inventory *v1alpha1.EndpointInventory) {
	if c := m.GetCapabilities(); c != nil {
		a.capabilities, a.capabilitiesTag = join(capabilityNames(c)), s.tag(m.GetCapabilitiesTag())
	}
	if a.capabilitiesTag != 0 {
		block = agentBlock(m, split(a.capabilities), a.skew)
		a.skew = ptr.Deref(block.ClockSkewSeconds, 0)
		if store.DigestOf(block) == e.Agent {
			block = nil
		}
	}
	if m.GetInventory() != nil {
		inventory, a.inventoryTag = inventoryBlock(m), s.tag(m.GetInventoryTag())
		if store.DigestOf(inventory) == e.Inventory {
			inventory = nil
		}
	}
	return block, inventory
}

// fill puts into a reply the orders that the agent lacks, unless two machines use the identity: then nobody gets any.
func (s *Service) fill(a *Agent, e store.Endpoint, next store.Connection, m *agentv1.Heartbeat, now time.Time, reply *agentv1.HeartbeatReply) {
	of := s.assigned(e)
	a.held, a.offered = heldBy(m), orders{}
	s.space(a, of.policy, now)
	a.ping = of.pingInterval(a.held, s.config.PingInterval, wire.MaxPingInterval)
	if next.ConflictInstance == "" {
		a.offered = of.orders()
		reply.Orders = lacking(a.held, of)
		if r, ok := s.config.Source.Release(e); ok && r.Offers(r.Pinned, m.GetContent().GetVersion(), number(m.GetContent().GetSequence())) {
			reply.Orders = append(reply.Orders, r.Offer)
		}
	}
	if a.capabilitiesTag != s.tag(m.GetCapabilitiesTag()) {
		reply.Send = append(reply.Send, agentv1.Section_SECTION_CAPABILITIES)
	}
	if a.inventoryTag != s.tag(m.GetInventoryTag()) || e.Inventory == 0 && m.GetInventory() == nil {
		reply.Send = append(reply.Send, agentv1.Section_SECTION_INVENTORY)
	}
	if len(reply.Send) > 0 && !a.hurried {
		a.hurried, reply.More = true, true // once, so that an agent that cannot send them does not beat on and on
	}
}

func (s *Service) tag(text string) uint64 { return maphash.String(s.seed, text) | 1 }

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
