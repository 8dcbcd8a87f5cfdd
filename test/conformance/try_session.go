package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
)

// trySession keeps one.
func (s *suite) trySession(ctx context.Context) error {
	one, err := s.session(ctx)
	if err := s.must("the upgrade is answered with 101, the key's answer and the subprotocol, and no extension", err); err != nil {
		return err
	}
	defer one.end()
	_, err = one.heartbeat(ctx)
	if err := s.must("the first message is a heartbeat, its beacon verifies", err); err != nil {
		return err
	}
	s.check("a ping is answered by a pong", one.ping(ctx))
	s.check("a websocket ping is answered, too, with the same payload", one.websocketPing([]byte("are you there?")))
	s.check("a message in three fragments, an empty one among them, and a websocket ping between", one.inFragments(ctx))
	s.check("a message of a kind that nobody knows yet is not answered, and the session goes on", one.ofTheFuture(ctx))
	s.check("eight pings at once are answered, each by its own pong", one.pings(8))
	if err := wait(ctx, min(s.interval(), s.pace)); err != nil {
		return err
	}
	orders, err := one.heartbeat(ctx)
	if err == nil && orders > 0 && s.obeysAll() {
		err = fmt.Errorf("%d orders came that the agent has", orders)
	}
	s.check("a heartbeat after the interval; nothing comes that the agent has", err)
	h := one.beat()
	h.AssignmentIssuedAt, h.PolicyID, h.PolicyRevision = "", "", 0
	s.check("one that has no orders gets them", one.lacksOrders(ctx, h))
	s.check("a heartbeat too many is answered by the problem throttled, and the session goes on", one.tooManyHeartbeats(ctx))
	err = one.write(frame(fin|opClose, closing(1000, "")))
	if err == nil {
		err = one.closedWith(1000, "")
	}
	s.check("a close is answered with its code, and the connection closed", err)
	s.check("the same in protobuf, encoded by hand", s.sessionInProtobuf(ctx))
	return nil
}

func (s *session) websocketPing(payload []byte) error {
	if err := s.write(frame(fin|opPing, payload)); err != nil {
		return err
	}
	op, got, err := s.next(patience)
	if err == nil && (op != opPong || !bytes.Equal(got, payload)) {
		err = fmt.Errorf("frame %#x with %q came", op, got)
	}
	return err
}

func (s *session) inFragments(ctx context.Context) error {
	m := s.message(agentMessage{Ping: &struct{}{}})
	if err := s.write(frame(opText, m[:5]), frame(opContinuation, nil), frame(fin|opPing, nil), frame(fin|opContinuation, m[5:])); err != nil {
		return err
	}
	if op, _, err := s.next(patience); err != nil || op != opPong {
		return fmt.Errorf("no pong: frame %#x, %w", op, err)
	}
	answer, err := s.answer(ctx)
	if err == nil && answer.Pong == nil {
		err = fmt.Errorf("no pong: %+v", answer)
	}
	return err
}

func (s *session) ofTheFuture(ctx context.Context) error {
	s.id++
	if err := s.write(frame(fin|opText, fmt.Appendf(nil, `{"id":"%d","later":{"a":[1,null]}}`, s.id))); err != nil {
		return err
	}
	return s.ping(ctx) // whose pong is the next thing that comes
}

func (s *session) pings(n number) error {
	for range n {
		if err := s.send(agentMessage{Ping: &struct{}{}}); err != nil {
			return err
		}
	}
	for id := s.id - n + 1; id <= s.id; id++ {
		m, err := s.receive()
		if err != nil || m.Pong == nil || m.Re != id {
			return fmt.Errorf("want the pong to %d, got %+v: %w", id, m, err)
		}
	}
	return nil
}

func (s *session) lacksOrders(ctx context.Context, h *heartbeat) error {
	for n := 0; ; n++ {
		if err := s.send(agentMessage{Heartbeat: h}); err != nil {
			return err
		}
		m, err := s.answer(ctx)
		switch {
		case err != nil:
			return err
		case m.HeartbeatReply != nil && len(m.HeartbeatReply.Orders) == 0:
			return errors.New("no order came")
		case m.HeartbeatReply != nil:
			return nil
		}
		if err := wait(ctx, backoff(n)); err != nil {
			return err
		}
	}
}

func (s *session) tooManyHeartbeats(ctx context.Context) error {
	for range 20 {
		if err := s.send(agentMessage{Heartbeat: s.beat()}); err != nil {
			return err
		}
		m, err := s.answer(ctx)
		switch {
		case err != nil:
			return err
		case m.Problem == nil:
			continue
		case m.Problem.Type != "https://rollcall.dev/problems/throttled" || m.Problem.RetryAfter == 0:
			return fmt.Errorf("%+v", m.Problem)
		}
		return s.ping(ctx)
	}
	return errors.New("20 heartbeats in a row were answered")
}

// sessionInProtobuf exchanges a heartbeat and a ping. Of both subprotocols the gateway takes this one.
func (s *suite) sessionInProtobuf(ctx context.Context) error {
	s.attempts++
	defer func() { s.over = s.attempts }()
	one, a, err := s.mine.open(ctx, upgrade(func(h http.Header) { h.Set("Sec-WebSocket-Protocol", jsonSubprotocol+", "+protobufSubprotocol) }))
	if err != nil || one == nil || one.kind != opBinary {
		return fmt.Errorf("the upgrade was answered with %v: %w", a, err)
	}
	defer one.conn.Close() // nothing is expected of it any more
	h := s.beat()
	info := appendBytes(nil, 1, []byte(h.Agent.Version))
	info = appendBytes(info, 2, []byte(h.Agent.Platform))
	info = appendBytes(info, 3, []byte(h.Agent.InstanceID))
	info = appendUint(appendUint(info, 4, uint64(h.Agent.Epoch)), 5, uint64(s.attempts))
	beat := appendUint(appendBytes(nil, 1, info), 3, s.trust.version)
	for id, body := range [][]byte{appendBytes(nil, 2, beat), appendBytes(nil, 6, nil)} { // heartbeat, ping
		if err := one.write(frame(fin|opBinary, append(appendUint(nil, 1, uint64(id)+1), body...))); err != nil {
			return err
		}
	}
	op, b, err := one.next(patience)
	if err != nil || op != opBinary {
		return fmt.Errorf("frame %#x came: %w", op, err)
	}
	fields, err := fieldsOf(b)
	if err != nil || len(fields[2]) != 1 {
		return fmt.Errorf("no heartbeat_reply: %q, %w", b, err)
	}
	reply, err := fieldsOf(fields[2][0])
	if err != nil || len(reply[2]) != 1 {
		return fmt.Errorf("the reply has %d beacons: %w", len(reply[2]), err)
	}
	e, err := envelopeOf(reply[2][0])
	if err == nil {
		err = open(&e, "beacon", &beacon{}, s.trust.orders)
	}
	if err != nil {
		return err
	}
	op, b, err = one.next(patience)
	if want := appendBytes(binary.AppendUvarint([]byte{1 << 3}, 2), 6, nil); err == nil && (op != opBinary || !bytes.Equal(b, want)) {
		err = fmt.Errorf("want a pong to 2, got %q", b)
	}
	return err
}
