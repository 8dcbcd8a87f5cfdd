package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// patience is how long an answer on a session may take.
const patience = 20 * time.Second

// session is one attempt of the agent, in JSON.
type session struct {
	*socket
	agent  *agent
	number number
	id     number
}

// session opens one. Nothing was sent on it yet.
func (a *agent) session(ctx context.Context) (*session, error) {
	a.attempts++
	s := &session{agent: a, number: a.attempts}
	socket, answer, err := a.mine.open(ctx, upgrade(nil))
	if err == nil && socket == nil {
		err = fmt.Errorf("the upgrade was answered with %s", answer)
	}
	if err != nil {
		a.over = s.number
		return nil, err
	}
	s.socket = socket
	return s, nil
}

// end gives the session up, from the agent's side.
func (s *session) end() {
	_ = s.conn.Close() // nothing is expected of it any more
	s.agent.over = max(s.agent.over, s.number)
}

// message encodes the next one.
func (s *session) message(m agentMessage) []byte {
	s.id++
	m.ID = s.id
	return encode(m)
}

func (s *session) send(m agentMessage) error {
	return s.write(frame(fin|opText, s.message(m)))
}

// receive waits for the next message, whatever it is.
func (s *session) receive() (*serverMessage, error) { return s.receiveWithin(patience) }

func (s *session) receiveWithin(limit time.Duration) (*serverMessage, error) {
	op, b, err := s.next(limit)
	if err != nil {
		return nil, err
	}
	if op != opText {
		return nil, fmt.Errorf("frame %#x with %q came", op, b)
	}
	var m serverMessage
	return &m, json.Unmarshal(b, &m)
}

// answer waits for the answer to the last message, and obeys what else comes.
func (s *session) answer(ctx context.Context) (*serverMessage, error) {
	for {
		m, err := s.receive()
		switch {
		case err != nil:
			return nil, err
		case m.Orders != nil && m.Re == 0:
			if err := s.agent.obey(ctx, m.Orders); err != nil {
				return nil, err
			}
		case m.Re != s.id:
			return nil, fmt.Errorf("an answer to %d came, want one to %d", m.Re, s.id)
		default:
			return m, nil
		}
	}
}

// beat is the heartbeat that is due, with the session's number.
func (s *session) beat() *heartbeat {
	h := s.agent.beat()
	h.Agent.Session = s.number
	return &h
}

// heartbeat sends the one that is due and obeys the answer. It returns the orders that came.
func (s *session) heartbeat(ctx context.Context) (orders int, err error) {
	return s.exchange(ctx, func(*heartbeat) {})
}

// exchange sends a heartbeat and obeys the answer; one too early is repeated when the server says.
func (s *session) exchange(ctx context.Context, change func(*heartbeat)) (orders int, err error) {
	for {
		h := s.beat()
		change(h)
		if err := s.send(agentMessage{Heartbeat: h}); err != nil {
			return 0, err
		}
		m, err := s.answer(ctx)
		switch {
		case err != nil:
			return 0, err
		case m.Problem != nil && m.Problem.Status == http.StatusTooManyRequests:
			if err := wait(ctx, time.Duration(m.Problem.RetryAfter)*time.Second); err != nil {
				return 0, err
			}
			continue
		case m.HeartbeatReply == nil:
			return 0, fmt.Errorf("no reply to a heartbeat: %+v", m)
		}
		return len(m.HeartbeatReply.Orders), s.agent.obey(ctx, m.HeartbeatReply)
	}
}

// ping sends one, and waits for its pong.
func (s *session) ping(ctx context.Context) error {
	if err := s.send(agentMessage{Ping: &struct{}{}}); err != nil {
		return err
	}
	m, err := s.answer(ctx)
	if err == nil && m.Pong == nil {
		err = fmt.Errorf("no pong: %+v", m)
	}
	return err
}

// begin opens a session and has its first heartbeat answered.
func (a *agent) begin(ctx context.Context) (*session, error) {
	s, err := a.session(ctx)
	if err != nil {
		return nil, err
	}
	if _, err = s.heartbeat(ctx); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// closedWith checks how the server ended a session.
func (s *session) closedWith(code uint16, reason string) error {
	got, why, err := s.ended(patience)
	s.end()
	if err == nil && (got != code || why != reason) {
		err = errors.New("closed")
	}
	if err != nil {
		err = fmt.Errorf("want %d %q, got %d %q: %w", code, reason, got, why, err)
	}
	return err
}
