package heartbeat

import (
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/gateway/instance"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Review tells why a session that was accepted is not the agent's any more, by its last message, which came at a time. If it still is and the
// record has lost that, it is written again.
func (s *Service) Review(a *Agent, session store.Instance, via Via, last, now time.Time) *wire.Problem {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, there := s.config.Source.EndpointByIdentity(a.IdentityID())
	if !there {
		return unknown()
	}
	next, p := s.judge(e, instance.Contact{Instance: session, Gateway: s.gateway(via), At: last})
	if p != nil {
		return p
	}
	if next = s.through(next, via, now); material(e.Connection, next) {
		s.config.Source.Write(store.Report{Ref: e.Ref, Seen: last, Replaces: e.Connection, Connection: &next})
	}
	return nil
}

// Orders are those that an agent on a session lacks and was not sent yet, and the newest beacon.
func (s *Service) Orders(a *Agent) (lacks []*agentv1.Envelope, beacon *agentv1.Envelope) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, there := s.config.Source.EndpointByIdentity(a.IdentityID())
	if !there || e.Connection.ConflictInstance != "" {
		return nil, nil
	}
	of := s.assigned(e)
	now := of.orders()
	if now == a.offered {
		return nil, nil
	}
	a.offered = now
	a.ping = max(a.ping, of.pingInterval(a.held, s.config.PingInterval, wire.MaxPingInterval)) // until the agent says that it has it
	beacon, _ = s.config.Source.Beacon()
	return lacking(a.held, of), beacon
}

// Beacon is the newest; nil if there is none.
func (s *Service) Beacon() *agentv1.Envelope {
	beacon, _ := s.config.Source.Beacon()
	return beacon
}

// Refresh reports when an agent on a session was last heard of, if what is stored is older than age before that.
func (s *Service) Refresh(a *Agent, last time.Time, age time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, there := s.config.Source.EndpointByIdentity(a.IdentityID())
	if there && last.Sub(e.LastSeen) >= age {
		s.config.Source.Write(store.Report{Ref: e.Ref, Seen: last, Replaces: e.Connection})
	}
}

// Recorded tells whether a session of an identity is recorded as up at this gateway.
func (s *Service) Recorded(identityID string) (e store.Endpoint, ok bool) {
	e, there := s.config.Source.EndpointByIdentity(identityID)
	return e, there && s.upHere(e.Connection)
}

func (s *Service) upHere(c store.Connection) bool {
	return c.Channel == v1alpha1.ChannelWebSocket && c.Gateway == s.config.Gateway
}

// Down records that a session is down, whose last message came at a time, unless something else was heard of the agent since.
func (s *Service) Down(a *Agent, session store.Instance, last, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, there := s.config.Source.EndpointByIdentity(a.IdentityID())
	if !there || e.Connection.Instance != session || !s.upHere(e.Connection) {
		return
	}
	next := e.Connection
	next.Channel, next.Gateway, next.Since = v1alpha1.ChannelNone, "", now
	s.config.Source.Write(store.Report{Ref: e.Ref, Seen: last, Replaces: e.Connection, Connection: &next})
}
