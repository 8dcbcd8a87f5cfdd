package session

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// maxPushers is how many sessions orders are written to at once. Agents that do not read keep each of them for as long as a write may take.
const maxPushers = 64

// pushes are the sessions that may lack orders.
type pushes struct {
	waiting []*Session
	pushers int
}

// Changed judges the session of an identity anew, or all of them for "": whether its agent may have one, whether another has taken over, and
// whether it lacks orders. It is for store.OnChange and OnConnection.
func (h *Hub) Changed(identityID string) {
	if identityID == "" {
		now := time.Now()
		for _, s := range h.list() {
			h.review(s, now)
		}
	} else if !h.Heard(identityID) {
		h.orphan(identityID, time.Now())
	}
}

// Heard judges the session of an identity anew after something was heard of its agent in another way. It tells whether there is one.
func (h *Hub) Heard(identityID string) bool {
	h.mu.Lock()
	s := h.sessions[identityID]
	h.mu.Unlock()
	if s != nil {
		h.review(s, time.Now())
	}
	return s != nil
}

// PolicyChanged has all agents on sessions get the orders that they lack.
func (h *Hub) PolicyChanged() {
	for _, s := range h.list() {
		h.push(s)
	}
}

func (h *Hub) list() []*Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*Session(nil), h.all...)
}

func (h *Hub) review(s *Session, now time.Time) {
	if _, p := h.config.Auth.Check(s.credentials, now); p != nil {
		h.end(s, p)
		return
	}
	if !s.is(up) {
		return
	}
	if p := h.config.Beats.Review(s.agent, s.instance, s.via(), h.lastMessage(s, now), now); p != nil {
		h.end(s, p)
		return
	}
	h.push(s)
}

// orphan finds a session that is recorded as up here and is not: what said that it is down was lost, or the API server was set back.
func (h *Hub) orphan(identityID string, now time.Time) {
	e, ok := h.config.Beats.Recorded(identityID)
	if !ok {
		return
	}
	agent := h.config.Beats.Agent(e, now)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[identityID] == nil && h.ended[identityID].instance != e.Connection.Instance {
		h.leave(ending{agent, e.Connection.Instance, e.LastSeen, h.since(now)})
	}
}

// push has a session looked at soon whether it lacks orders.
func (h *Hub) push(s *Session) {
	if !s.is(up) || s.queued.Swap(true) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.index < 0 || h.draining {
		return
	}
	h.pushes.waiting = append(h.pushes.waiting, s)
	if h.pushes.pushers < maxPushers {
		h.pushes.pushers++
		h.running.Add(1)
		go h.pusher()
	}
}

// pusher works until nobody waits.
func (h *Hub) pusher() {
	defer h.running.Done()
	for {
		h.mu.Lock()
		if len(h.pushes.waiting) == 0 {
			h.pushes.waiting = nil
			h.pushes.pushers--
			h.mu.Unlock()
			return
		}
		s := h.pushes.waiting[0]
		h.pushes.waiting = h.pushes.waiting[1:]
		h.mu.Unlock()
		s.queued.Store(false)
		s.push(time.Now())
	}
}

// push sends the orders that the agent lacks. If they do not arrive, its next heartbeat brings them.
func (s *Session) push(now time.Time) {
	orders, beacon := s.hub.config.Beats.Orders(s.agent)
	if len(orders) == 0 {
		return
	}
	s.listen()
	buffer := buffers.Get().(*[]byte) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer keep(buffer)
	message, p := encode(&agentv1.ServerMessage{Body: &agentv1.ServerMessage_Orders{
		Orders: &agentv1.Orders{Orders: orders, Beacon: beacon, ServerTime: timestamppb.New(now)},
	}}, (*buffer)[:0], s.conn.JSON())
	if p != nil {
		s.hub.end(s, p)
		return
	}
	*buffer = message
	if s.conn.Write(message) == nil { // one that failed is found out by the reader
		s.hub.metrics.orders.Inc()
	}
}
