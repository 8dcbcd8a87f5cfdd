package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// trySessions has more than one of the same start.
func (s *suite) trySessions(ctx context.Context) error {
	const replaced = "session-replaced"
	first, err := s.begin(ctx)
	if err := s.must("a session", err); err != nil {
		return err
	}
	defer first.end()
	second, err := s.begin(ctx)
	if err := s.must("another, with the next number, while the first is up", err); err != nil {
		return err
	}
	defer second.end()
	s.check("the first is closed with 4409", first.closedWith(4409, replaced))
	s.check("the second is not", second.ping(ctx))

	late, err := s.session(ctx)
	if err == nil {
		late.number = first.number
		if err = late.send(agentMessage{Heartbeat: late.beat()}); err == nil {
			err = late.closedWith(4409, replaced)
		}
	}
	s.check("a session with a number from before is closed with 4409", err)
	s.over = first.number
	a, err := s.post(ctx, call{body: encode(s.beat())})
	s.expect("a heartbeat over HTTPS that is from before this session", a, err, replaced)
	s.check("the session goes on", second.ping(ctx))

	s.over = second.number
	_, err = s.heartbeat(ctx)
	s.check("a heartbeat over HTTPS that says that this session is over", err)
	s.check("the session is closed with 4409", second.closedWith(4409, replaced))
	s.over = s.attempts
	return nil
}

func (s *suite) tryBadUpgrades(ctx context.Context) error {
	header := func(name string, values ...string) call {
		return upgrade(func(h http.Header) { h[http.CanonicalHeaderKey(name)] = values })
	}
	for _, r := range []struct {
		what string
		q    call
		name string
	}{
		{"an agent below 6.1", header("Rollcall-Agent-Version", "6.0.4"), "agent-version-unsupported"},
		{"no subprotocol", header("Sec-WebSocket-Protocol"), "subprotocol-unsupported"},
		{"subprotocols that there are not", header("Sec-WebSocket-Protocol", "chat, v2.agent.rollcall.dev"), "subprotocol-unsupported"},
		{"a request that is no upgrade", call{method: http.MethodGet, path: "/agent/v1/session"}, "malformed"},
		{"an upgrade to something else", header("Upgrade", "h2c"), "malformed"},
		{"another version of websockets", header("Sec-WebSocket-Version", "8"), "malformed"},
		{"no key", header("Sec-WebSocket-Key"), "malformed"},
		{"a key of 15 bytes", header("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAA"), "malformed"},
		{"a request from a web page", header("Origin", "https://example.com"), "malformed"},
		{"another method", call{method: http.MethodPost, path: "/agent/v1/session", body: []byte("{}")}, "method-not-allowed"},
	} {
		one, a, err := s.mine.open(ctx, r.q)
		if one != nil {
			_ = one.conn.Close() // it should not be there
		}
		if r.name == "agent-version-unsupported" && err == nil && !bytes.Contains(a.body, []byte(`"minimum":"6.1"`)) {
			err = fmt.Errorf("the problem does not name the version: %s", a)
		}
		if r.name == "subprotocol-unsupported" && err == nil && !bytes.Contains(a.body, []byte(protobufSubprotocol)) {
			err = fmt.Errorf("the problem does not name the subprotocols: %s", a)
		}
		s.expect(r.what, a, err, r.name)
	}
	one, _, err := s.mine.open(ctx, upgrade(func(h http.Header) { h.Set("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits") }))
	if one != nil {
		_ = one.conn.Close() // it was not for use
	}
	s.check("an extension that is offered is not agreed", err)
	return nil
}

// tryBadSessions does what ends a session, each time another.
func (s *suite) tryBadSessions(ctx context.Context) error {
	silent, silentErr := s.session(ctx) // which takes its time
	text := func(b string) []byte { return frame(fin|opText, []byte(b)) }
	const size = 256 << 10
	for _, r := range []struct {
		what   string
		after  bool // the first heartbeat
		send   func(*session) []byte
		code   uint16
		reason string
	}{
		{"no mask", false, func(*session) []byte { return frameOf(fin|opText, false, 2, []byte("{}")) }, 1002, "malformed"},
		{"a reserved bit", false, func(*session) []byte { return frame(fin|0x40|opText, []byte("{}")) }, 1002, "malformed"},
		{"a reserved opcode", true, func(*session) []byte { return frame(fin|0x3, nil) }, 1002, "malformed"},
		{"a continuation of nothing", true, func(*session) []byte { return frame(fin|opContinuation, []byte("{}")) }, 1002, "malformed"},
		{"a message in a message", true, func(*session) []byte { return append(frame(opText, []byte("{")), text("{}")...) }, 1002, "malformed"},
		{"a fragmented control frame", true, func(*session) []byte { return frame(opPing, nil) }, 1002, "malformed"},
		{"a control frame of 126 bytes", true, func(*session) []byte { return frame(fin|opPing, make([]byte, 126)) }, 1002, "malformed"},
		{"half a close code", true, func(*session) []byte { return frame(fin|opClose, []byte{3}) }, 1002, "malformed"},
		{"a close code that is never sent", true, func(*session) []byte { return frame(fin|opClose, closing(1005, "")) }, 1002, "malformed"},
		{"a close reason that is not UTF-8", true, func(*session) []byte { return frame(fin|opClose, closing(1000, "\xff")) }, 1007, "malformed"},
		{"a length of 2^63", true, func(*session) []byte { return frameOf(fin|opText, true, 1<<63, nil) }, 1002, "malformed"},
		{"a length that goes to the gigabytes", true, func(*session) []byte { return frameOf(fin|opText, true, 1<<40, nil) }, 1009, "payload-too-large"},
		{"one byte too many", true, func(*session) []byte { return frame(fin|opText, make([]byte, size+1)) }, 1009, "payload-too-large"},
		{"binary where text was agreed", true, func(*session) []byte { return frame(fin|opBinary, []byte("{}")) }, 1003, "media-type-unsupported"},
		{"text that is not UTF-8", true, func(*session) []byte { return text("\xff") }, 1007, "malformed"},
		{"garbage", true, func(*session) []byte { return text("{{") }, 1007, "malformed"},
		{"a message without id", true, func(*session) []byte { return text(`{"ping":{}}`) }, 1007, "malformed"},
		{"a heartbeat out of bounds", true, func(one *session) []byte {
			h := one.beat()
			h.Inventory = &inventory{Hostname: strings.Repeat("h", 254)}
			return frame(fin|opText, one.message(agentMessage{Heartbeat: h}))
		}, 1007, "malformed"},
		{"an update out of bounds", true, func(one *session) []byte {
			return frame(fin|opText, one.message(agentMessage{ActionUpdate: &actionUpdate{ActionUID: someUID, Phase: finished}}))
		}, 1007, "malformed"},
		{"a heartbeat of another start", true, func(one *session) []byte {
			h := one.beat()
			h.Agent.InstanceID = randomHex(16)
			return frame(fin|opText, one.message(agentMessage{Heartbeat: h}))
		}, 1007, "malformed"},
		{"a ping first", false, func(one *session) []byte { return frame(fin|opText, one.message(agentMessage{Ping: &struct{}{}})) }, 1007, "malformed"},
		{"a message of a kind that nobody knows first", false, func(*session) []byte { return text(`{"id":"1"}`) }, 1007, "malformed"},
		{"a first heartbeat without the session's number", false, func(one *session) []byte {
			h := one.beat()
			h.Agent.Session = 0
			return frame(fin|opText, one.message(agentMessage{Heartbeat: h}))
		}, 1007, "malformed"},
		{"200 messages at once", true, func(one *session) (all []byte) {
			for range 200 {
				all = append(all, frame(fin|opText, one.message(agentMessage{Ping: &struct{}{}}))...)
			}
			return all
		}, 1008, "throttled"},
		{"200 websocket pings at once", true, func(*session) []byte { return bytes.Repeat(frame(fin|opPing, nil), 200) }, 1008, "throttled"},
	} {
		s.check(fmt.Sprintf("%s → %d", r.what, r.code), s.provokes(ctx, r.after, r.send, r.code, r.reason))
	}
	if silentErr == nil {
		silentErr = silent.closedWith(4408, "message-timeout")
	}
	s.check("nothing at all, for the first 10 s → 4408", silentErr)
	one, err := s.begin(ctx)
	if err == nil {
		one.end()
	}
	s.check("after all that the agent keeps a session", err)
	return nil
}

func (s *suite) provokes(ctx context.Context, after bool, send func(*session) []byte, code uint16, reason string) error {
	start := s.session
	if after {
		start = s.begin
	}
	one, err := start(ctx)
	if err != nil {
		return err
	}
	defer one.end()
	sent := make(chan error, 1)
	go func() { sent <- one.write(send(one)) }() // the server may end it before it has read everything
	err = one.closedWith(code, reason)
	<-sent
	return err
}

// tryClonesOnSessions does so while the two are in conflict.
func (s *suite) tryClonesOnSessions(ctx context.Context) error {
	one, err := s.begin(ctx)
	if err == nil {
		err = one.ping(ctx)
	}
	s.check("it may keep a session, too", err)
	if err != nil {
		return nil
	}
	defer one.end()
	h := one.beat()
	h.AssignmentIssuedAt, h.PolicyID, h.PolicyRevision = "", "", 0
	if err = one.lacksOrders(ctx, h); err == nil {
		err = errors.New("orders came")
	} else if err.Error() == "no order came" {
		err = nil
	}
	s.check("which brings no orders either", err)
	clone, err := s.session(ctx)
	if err != nil {
		s.check("a session of the other instance", err)
		return nil
	}
	other := clone.beat()
	other.Agent.InstanceID = randomHex(16)
	if err = clone.send(agentMessage{Heartbeat: other}); err == nil {
		err = clone.closedWith(4409, "identity-conflict; retry=300")
	}
	s.check("a session of the other instance is closed with 4409", err)
	s.check("the session of the first goes on", one.ping(ctx))
	return nil
}
