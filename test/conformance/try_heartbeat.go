package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

func (s *suite) tryHeartbeats(ctx context.Context) error {
	s.start()
	for n := 0; ; n++ {
		_, err := s.heartbeat(ctx)
		if n == 0 || err != nil {
			if err := s.must("the first heartbeat; its beacon and orders verify", err); err != nil {
				return err
			}
		}
		if s.obeysAll() && (s.policy.PolicyID != "" || !s.needPolicy) {
			break
		}
		if err := wait(ctx, backoff(n+4)); err != nil {
			return s.must("an assignment, and the policy that it names, come", err)
		}
	}
	s.check("an assignment, and the policy that it names, come and verify", nil)
	s.say("        namespace %s, policy %q revision %d, heartbeat every %s", s.assigned.Namespace, s.policy.PolicyID, s.policy.Revision, s.interval())

	for n := range 3 {
		if err := wait(ctx, min(s.interval(), s.pace)); err != nil {
			return err
		}
		before := s.clock.issued
		orders, err := s.heartbeat(ctx)
		switch {
		case err == nil && orders > 0 && s.obeysAll():
			err = fmt.Errorf("%d orders came that the agent has", orders)
		case err == nil && s.clock.issued.Before(before):
			err = errors.New("the beacon went back")
		}
		s.check(fmt.Sprintf("heartbeat %d of 3 after the interval; nothing comes that the agent has", n+1), err)
	}
	if age := time.Since(s.clock.came); age > 3*time.Minute {
		s.check("a beacon of the last minutes", fmt.Errorf("the newest came %s ago", age))
	}
	s.check("a heartbeat in protobuf, encoded by hand", s.beatInProtobuf(ctx))
	s.check("fields, enum values and sections of a later version are ignored", s.beatOfTheFuture(ctx))
	return nil
}

func (s *suite) post(ctx context.Context, q call) (*answer, error) {
	q.method, q.path = http.MethodPost, "/agent/v1/heartbeat"
	return s.mine.do(ctx, q, 1<<20)
}

func (s *suite) beatInProtobuf(ctx context.Context) error {
	h := s.beat()
	info := appendBytes(nil, 1, []byte(h.Agent.Version))
	info = appendBytes(info, 2, []byte(h.Agent.Platform))
	info = appendBytes(info, 3, []byte(h.Agent.InstanceID))
	info = appendUint(info, 4, uint64(h.Agent.Epoch))
	a, err := s.post(ctx, call{body: appendUint(appendBytes(nil, 1, info), 3, s.trust.version), contentType: typeProtobuf})
	if err != nil {
		return err
	}
	if a.status != http.StatusOK || a.header.Get("Content-Type") != typeProtobuf {
		return fmt.Errorf("%s as %q", a, a.header.Get("Content-Type"))
	}
	reply, err := fieldsOf(a.body)
	if err != nil || len(reply[2]) != 1 {
		return fmt.Errorf("the answer has %d beacons: %w", len(reply[2]), err)
	}
	e, err := envelopeOf(reply[2][0])
	if err != nil {
		return err
	}
	return open(&e, "beacon", &beacon{}, s.trust.orders)
}

func (s *suite) beatOfTheFuture(ctx context.Context) error {
	h := s.beat()
	h.Content = nil
	body := bytes.Replace(encode(h), []byte("{"), []byte(`{"later":{"a":[1,null]},"content":{"phase":"RELEASE_PHASE_LATER"},`), 1)
	a, err := s.post(ctx, call{body: body})
	if err != nil {
		return err
	}
	return a.read(&heartbeatReply{})
}

func (s *suite) tryBadHeartbeats(ctx context.Context) error {
	with := func(change func(*heartbeat)) []byte {
		h := s.beat()
		change(&h)
		return encode(h)
	}
	padded := with(func(*heartbeat) {})
	padded = append(padded, bytes.Repeat([]byte(" "), 64<<10+1-len(padded))...)
	for _, r := range []struct {
		what, says string
		body       []byte
		name       string
	}{
		{"garbage", "", []byte("{{"), "malformed"},
		{"a body of more than 64 KiB", "", padded, "payload-too-large"},
		{"no agent", "agent", with(func(h *heartbeat) { h.Agent = nil }), "malformed"},
		{"no epoch", "agent.epoch", with(func(h *heartbeat) { h.Agent.Epoch = 0 }), "malformed"},
		{"an instance that is not 32 digits", "agent.instance_id", with(func(h *heartbeat) { h.Agent.InstanceID = h.Agent.InstanceID[1:] }), "malformed"},
		{"a host name with a control character", "inventory.hostname", with(func(h *heartbeat) { h.Inventory = &inventory{Hostname: "a\x1b[2J"} }), "malformed"},
		{"33 interfaces", "inventory.interfaces", with(func(h *heartbeat) {
			h.Inventory = &inventory{Interfaces: make([]networkInterface, 33)}
			for i := range h.Inventory.Interfaces {
				h.Inventory.Interfaces[i].Name = "e"
			}
		}), "malformed"},
		{"33 capabilities", "capabilities.names", with(func(h *heartbeat) {
			h.Capabilities = &capabilities{Names: strings.Split(strings.Repeat("C ", 32)+"C", " ")}
		}), "malformed"},
	} {
		a, err := s.post(ctx, call{body: r.body})
		if err == nil && !bytes.Contains(a.body, []byte(r.says)) {
			err = fmt.Errorf("the problem does not name %s: %s", r.says, a)
		}
		s.expect(r.what, a, err, r.name)
	}
	cert, key, err := s.selfSigned()
	if err != nil {
		return err
	}
	return s.beatWithout(ctx, s.as(cert, key))
}

func (s *suite) beatWithout(ctx context.Context, c *client) error {
	defer c.close()
	a, err := c.do(ctx, call{method: http.MethodPost, path: "/agent/v1/heartbeat", body: encode(s.beat())}, 1<<20)
	s.expect("a certificate that no CA of the fleet issued", a, err, "certificate-unknown")
	_, err = s.heartbeat(ctx)
	s.check("after all that the agent beats on", err)
	return nil
}
