// Package session has the agents' sessions at this gateway. A Session is a struct and a function that is called with one complete message: it
// owns no goroutine, never blocks, and knows nothing of how messages are read. The Hub has one session for each identity, one sweeper for all
// times of all sessions, and ends them, each for a reason with a name.
package session

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/heartbeat"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Conn is what carries a session. *transport.Conn is one.
type Conn interface {
	// JSON tells that messages are JSON, and not protobuf.
	JSON() bool
	// Read waits for a message, which is good until the next Read.
	Read() ([]byte, error)
	// Write may be called by any goroutine. It gives up after some time, and drops the connection.
	Write(message []byte) error
	// Close says why and ends the connection, within a second. The first call counts.
	Close(code wire.CloseCode, reason string)
	// CloseNow drops the connection.
	CloseNow()
}

type state int32

const (
	fresh state = iota // no message has come yet
	up                 // the agent is here
	over
)

// Session is one websocket of an agent.
type Session struct {
	hub         *Hub
	conn        Conn
	credentials auth.Credentials
	agent       *heartbeat.Agent
	address     netip.Addr

	instance   store.Instance // of the first message, which sets it before the session is up
	pace       limit.State
	unanswered atomic.Int32
	state      atomic.Int32
	last       atomic.Int64 // when the last message came; see Hub.since
	silence    atomic.Int64 // after which the session is over, in nanoseconds
	heard      atomic.Bool  // its first heartbeat was
	out        outbox

	// Under the hub's lock.
	queued  bool // a pusher will see to it
	pushing bool // one is at it

	index int           // in Hub.all; -1: not there any more
	due   time.Duration // when its record is refreshed and its certificate judged anew; see Hub.since
}

func (s *Session) is(x state) bool { return state(s.state.Load()) == x }

// Handle takes one complete message and appends the answer to out; there may be none, or it comes later and is written by a pusher. A problem ends
// the session. Messages are handed over one at a time. When the answer was written, Answered is to be called.
func (s *Session) Handle(now time.Time, message, out []byte) ([]byte, *wire.Problem) {
	if s.is(over) {
		return nil, nil
	}
	if _, ok := s.pace.Take(s.hub.config.Messages, now); !ok {
		return nil, &wire.Problem{Name: wire.Throttled, Detail: "The agent sends too many messages."}
	}
	if s.unanswered.Add(1) > int32(s.hub.config.Unanswered) { //nolint:gosec // a handful
		return nil, &wire.Problem{Name: wire.Throttled, Detail: fmt.Sprintf("More than %d messages wait for an answer.", s.hub.config.Unanswered)}
	}
	s.last.Store(int64(s.hub.since(now)))
	w := works.Get().(*work) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer w.release()
	if !s.conn.JSON() {
		w.peek(message)
	}
	if !s.again(now, w) {
		if p := w.decode(message, s.conn.JSON()); p != nil {
			return nil, p
		}
		if p := s.answer(now, w); p != nil {
			return nil, p
		}
	}
	if w.reply.Body == nil {
		if !w.later {
			s.unanswered.Add(-1)
		}
		return nil, nil
	}
	return w.encode(out, s.conn.JSON())
}

// Answered notes that the answer of one message was written.
func (s *Session) Answered() { s.unanswered.Add(-1) }

// again answers the heartbeat that says what the one before said, before it is decoded.
func (s *Session) again(now time.Time, w *work) bool {
	if w.raw == nil || !s.is(up) || !s.hub.config.Beats.Again(s.agent, w.raw, now, w.beat()) {
		w.reply.Body = nil
		return false
	}
	s.hub.metrics.heartbeats.Inc()
	return true
}

func (s *Session) answer(now time.Time, w *work) *wire.Problem {
	switch body := w.message.GetBody().(type) {
	case *agentv1.AgentMessage_Heartbeat:
		s.hub.metrics.heartbeats.Inc()
		if s.is(fresh) {
			return s.begin(now, body.Heartbeat, w)
		}
		return s.beat(now, body.Heartbeat, w)
	case *agentv1.AgentMessage_ActionUpdate:
		s.hub.metrics.updates.Inc()
		if s.is(up) {
			s.update(now, body.ActionUpdate, w)
		}
	case *agentv1.AgentMessage_Ping:
		s.hub.metrics.pings.Inc()
		w.pong()
	default:
		s.hub.metrics.unknown.Inc()
	}
	if s.is(fresh) {
		return malformed("the first message must be a heartbeat")
	}
	return nil
}

// begin takes the first heartbeat, which says whose session this is.
func (s *Session) begin(now time.Time, m *agentv1.Heartbeat, w *work) *wire.Problem {
	a := m.GetAgent()
	if a.GetSessionNumber() == 0 {
		return malformed("agent.session_number must be this session's, from 1")
	}
	if _, p := s.hub.config.Auth.Check(s.credentials, now); p != nil { // revoked since the upgrade
		return p
	}
	s.instance = heartbeat.InstanceOf(a)
	via := s.via()
	via.Accepted = func() *wire.Problem { return s.hub.up(s) }
	return s.judged(now, m, via, w)
}

func (s *Session) beat(now time.Time, m *agentv1.Heartbeat, w *work) *wire.Problem {
	if heartbeat.InstanceOf(m.GetAgent()) != s.instance {
		return malformed("agent.epoch, instance_id and session_number stay the same within a session")
	}
	if p := s.hub.config.Beats.Admit(s.agent, now); p != nil {
		w.problem(p)
		return nil
	}
	return s.judged(now, m, s.via(), w)
}

// update takes what the agent says of an action. A result is answered once it is durable.
func (s *Session) update(now time.Time, says *agentv1.ActionUpdate, w *work) {
	re := w.reply.Re
	p, done := s.hub.config.Actions.Update(s.agent.Actions(), s.credentials.Certificate.SPKI, says, now, func(p *wire.Problem) { s.reply(re, p) })
	switch {
	case !done:
		w.later = true
	case p != nil:
		w.problem(p)
	default:
		w.reply.Body = acknowledged
	}
}

func (s *Session) judged(now time.Time, m *agentv1.Heartbeat, via heartbeat.Via, w *work) *wire.Problem {
	if p := s.hub.config.Beats.Beat(s.agent, m, w.raw, via, now, w.beat()); p != nil {
		return p
	}
	s.listen()
	s.heard.Store(true)
	return nil
}

// listen sets how long the session may be silent.
func (s *Session) listen() {
	s.silence.Store(int64(2*s.agent.PingInterval() + s.hub.config.Slack))
}

func (s *Session) via() heartbeat.Via {
	return heartbeat.Via{Session: true, Line: s, Address: s.address}
}

func malformed(detail string) *wire.Problem {
	return &wire.Problem{Name: wire.Malformed, Detail: "The message is not acceptable: " + detail + "."}
}

// step waits for a message and answers it. It tells whether the session goes on.
func (s *Session) step() (more bool) {
	defer func() {
		if !more {
			s.conn.CloseNow()
			s.hub.running.Done()
		}
	}()
	message, err := s.conn.Read()
	if err != nil {
		s.hub.lost(s, err)
		return false
	}
	if p := s.take(message); p != nil {
		s.hub.refuse(s, p)
		return false
	}
	return true
}

func (s *Session) take(message []byte) *wire.Problem {
	buffer := buffers.Get().(*[]byte) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer keep(buffer)
	reply, p := s.Handle(time.Now(), message, (*buffer)[:0])
	if p != nil || len(reply) == 0 {
		return p
	}
	*buffer = reply
	if s.conn.Write(reply) == nil { // a connection that failed is found out by the next Read
		s.Answered()
	}
	return nil
}
