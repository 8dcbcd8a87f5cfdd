package session

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/go-logr/logr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/dispatch"
	"github.com/rollcall-dev/rollcall/internal/gateway/heartbeat"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Authenticator judges credentials. *auth.Authenticator is one.
type Authenticator interface {
	Check(cr auth.Credentials, now time.Time) (store.Endpoint, *wire.Problem)
}

// Actions brings open actions to agents, and takes what they say of them. *dispatch.Dispatcher does.
type Actions interface {
	Look(a *dispatch.Agent, line dispatch.Line)
	Update(a *dispatch.Agent, key []byte, says *agentv1.ActionUpdate, now time.Time, answer func(*wire.Problem)) (p *wire.Problem, done bool)
}

// Config of a Hub.
type Config struct {
	Beats   *heartbeat.Service
	Actions Actions
	Auth    Authenticator
	Metrics *Metrics
	Log     logr.Logger

	// FirstMessage is how long an agent has for its first message. Afterwards a session may be silent for twice its ping interval and Slack.
	FirstMessage, Slack time.Duration
	// DownAfter is how long after its end a session is recorded as down, if none has followed.
	DownAfter time.Duration
	// Refresh is how often it is recorded when an agent on a session was last heard of.
	Refresh time.Duration
	// Sweep is how often all sessions' times are looked at.
	Sweep time.Duration
	// Messages is how often an agent may send one; Unanswered how many of them may wait for an answer.
	Messages   limit.Rate
	Unanswered int
	// Upgrades is how often a session may begin, of all agents together.
	Upgrades limit.Rate
	// Spread is the time over which the sessions of many agents are closed when the gateway stops.
	Spread time.Duration
}

// Hub has the sessions of a gateway.
type Hub struct {
	config  Config
	metrics *Metrics
	start   time.Time
	running sync.WaitGroup // readers, and who closes or pushes; added to under the lock, while a reader of the session runs

	mu       sync.Mutex
	draining bool
	all      []*Session
	sessions map[string]*Session // those that are up, by identity
	// ended are sessions that were up, the last of each identity; endings are all by the time of their end. If they are still recorded as up
	// some time later, that is corrected.
	ended   map[string]ending
	endings []ending
	gate    limit.Queue
	pushes  pushes
}

// ending is a session that was up.
type ending struct {
	agent    *heartbeat.Agent
	instance store.Instance
	last     time.Time     // of its last message
	at       time.Duration // of its end; see Hub.since
}

// New makes a hub. Run it.
func New(config Config) *Hub {
	return &Hub{config: config, metrics: config.Metrics, start: time.Now(), sessions: map[string]*Session{}, ended: map[string]ending{}}
}

// since is a time by the monotonic clock, which does not jump.
func (h *Hub) since(now time.Time) time.Duration { return now.Sub(h.start) }

// Open begins a session on a connection of an agent that was authenticated with these credentials. The agent's first message says which of its
// sessions it is. step waits for a message and answers it, and must be called until it returns false: then the session is over.
func (h *Hub) Open(conn Conn, credentials auth.Credentials, agent *heartbeat.Agent, address netip.Addr, now time.Time) (step func() (more bool)) {
	s := &Session{hub: h, conn: conn, credentials: credentials, agent: agent, address: address}
	s.due = h.due(s, now)
	s.last.Store(int64(h.since(now)))
	s.silence.Store(int64(h.config.FirstMessage))
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return func() bool {
			defer conn.CloseNow()
			conn.Close(draining(time.Second).Close())
			return false
		}
	}
	s.index = len(h.all)
	h.all = append(h.all, s)
	h.running.Add(1)
	h.metrics.opened.Inc()
	return s.step
}

// up registers a session whose first heartbeat was accepted. It has won over any other of the same agent.
func (h *Hub) up(s *Session) *wire.Problem {
	id := s.agent.IdentityID()
	h.mu.Lock()
	if h.draining || s.index < 0 { // it is about to end, or has
		h.mu.Unlock()
		return draining(time.Second)
	}
	before := h.sessions[id]
	s.state.Store(int32(up))
	h.sessions[id] = s
	h.mu.Unlock()
	h.metrics.up.Inc()
	if before != nil {
		h.end(before, &wire.Problem{Name: wire.SessionReplaced, Detail: "A newer session of this agent has taken over."})
	}
	h.config.Log.V(1).Info("A session is up.", "identity", id, "remoteAddress", s.address.String(), "session", s.instance.Session)
	return nil
}

// end closes a session from outside, for the first reason that there is, and keeps nobody waiting.
func (h *Hub) end(s *Session, p *wire.Problem) {
	code, reason := p.Close()
	h.mu.Lock()
	there := h.remove(s)
	if there {
		h.running.Add(1)
	}
	h.mu.Unlock()
	if !there {
		return
	}
	h.ending(s, code, reason)
	h.shutOut(s, p)
	go func() {
		defer h.running.Done()
		s.conn.Close(code, reason)
	}()
}

// refuse ends a session by whoever reads it.
func (h *Hub) refuse(s *Session, p *wire.Problem) {
	code, reason := p.Close()
	h.mu.Lock()
	there := h.remove(s)
	h.mu.Unlock()
	if there {
		h.ending(s, code, reason+": "+p.Detail)
		h.shutOut(s, p)
		s.conn.Close(code, reason)
	}
}

// shutOut records at once that a session is down which a person has ended: none will follow soon.
func (h *Hub) shutOut(s *Session, p *wire.Problem) {
	switch p.Name {
	case wire.EndpointSuspended, wire.EndpointBlocked, wire.EndpointDecommissioned:
		now := time.Now()
		h.config.Beats.Down(s.agent, s.instance, h.lastMessage(s, now), now)
	}
}

// lost takes note of a connection that is over.
func (h *Hub) lost(s *Session, err error) {
	code := wire.CloseAbnormal
	var closed *transport.CloseError
	if errors.As(err, &closed) {
		code = closed.Code
	}
	h.mu.Lock()
	there := h.remove(s)
	h.mu.Unlock()
	if there {
		h.ending(s, code, err.Error())
	}
}

// ending tells of an end.
func (h *Hub) ending(s *Session, code wire.CloseCode, reason string) {
	h.metrics.closed(code)
	h.config.Log.V(1).Info("A session has ended.", "identity", s.agent.IdentityID(), "remoteAddress", s.address.String(), "code", int(code), "reason", reason)
}

// remove takes a session out, under the lock. It tells whether it was there.
func (h *Hub) remove(s *Session) bool {
	if s.index < 0 {
		return false
	}
	last := len(h.all) - 1
	h.all[s.index] = h.all[last]
	h.all[s.index].index = s.index
	h.all[last] = nil
	h.all = h.all[:last]
	s.index = -1
	if s.is(up) {
		h.metrics.up.Dec()
	}
	s.state.Store(int32(over))
	if id := s.agent.IdentityID(); h.sessions[id] == s {
		delete(h.sessions, id)
		now := time.Now()
		h.leave(ending{s.agent, s.instance, h.lastMessage(s, now), h.since(now)})
	}
	return true
}

// leave remembers a session that may be recorded as up and is not, under the lock.
func (h *Hub) leave(e ending) {
	h.ended[e.agent.IdentityID()] = e
	h.endings = append(h.endings, e)
}

// lastMessage is when a session's last message came.
func (h *Hub) lastMessage(s *Session, now time.Time) time.Time {
	return now.Add(time.Duration(s.last.Load()) - h.since(now))
}
