package session

import "time"

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
	h.look(s)
}

// ActionsChanged has the actions of an identity looked at that is on a session. It is for store.OnAction.
func (h *Hub) ActionsChanged(identityID string) {
	h.mu.Lock()
	s := h.sessions[identityID]
	h.mu.Unlock()
	if s != nil {
		h.look(s)
	}
}

// look has the actions looked at of an agent whose first heartbeat was heard whole: what it says of its journal matters.
func (h *Hub) look(s *Session) {
	if s.heard.Load() {
		h.config.Actions.Look(s.agent.Actions(), s)
	}
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

// push has a session looked at soon whether it lacks orders, or something waits to be written. No two pushers are at one session: an agent that
// does not read keeps one.
func (h *Hub) push(s *Session) {
	if !s.is(up) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.queued || s.index < 0 || h.draining {
		return
	}
	s.queued = true
	if s.pushing { // its pusher sees that
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
	for s := h.pushed(nil); s != nil; s = h.pushed(s) {
		s.push(time.Now())
	}
}

// pushed gives a pusher the next session, after the one that it was at.
func (h *Hub) pushed(before *Session) *Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	if before != nil {
		before.pushing = false
		if before.queued {
			h.pushes.waiting = append(h.pushes.waiting, before)
		}
	}
	if len(h.pushes.waiting) == 0 {
		h.pushes.waiting = nil
		h.pushes.pushers--
		return nil
	}
	s := h.pushes.waiting[0]
	h.pushes.waiting = h.pushes.waiting[1:]
	s.queued, s.pushing = false, true
	return s
}

// push sends the orders that the agent lacks, and what else waits. If orders do not arrive, its next heartbeat brings them.
func (s *Session) push(now time.Time) {
	if orders, beacon := s.hub.config.Beats.Orders(s.agent); len(orders) > 0 {
		s.listen()
		if s.write(ordersMessage(orders, beacon, now)) {
			s.hub.metrics.orders.Inc()
		}
	}
	s.flush(now)
}
