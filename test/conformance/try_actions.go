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

const (
	pathActions = "/agent/v1/actions"
	// someUID is no action's.
	someUID = "00000000-0000-4000-8000-000000000000"
	// errand is how long whoever runs this has for what it wants.
	errand = time.Minute
)

// report posts updates of actions.
func (s *suite) report(ctx context.Context, q call) (*answer, error) {
	q.method, q.path = http.MethodPost, pathActions
	return s.mine.do(ctx, q, 256<<10)
}

// tryBadUpdates needs no action.
func (s *suite) tryBadUpdates(ctx context.Context) error {
	result := seal(s.key, "result", struct{}{})
	twice, order := result, seal(s.key, "action", struct{}{})
	twice.Signatures = append(twice.Signatures, result.Signatures[0])
	one := func(u actionUpdate) []byte { return encode(actionUpdates{[]actionUpdate{u}}) }
	runs := actionUpdate{ActionUID: someUID, Phase: running}
	for _, r := range []struct {
		what, says string
		body       []byte
		name       string
	}{
		{"garbage", "", []byte("{{"), "malformed"},
		{"no updates", "updates", []byte("{}"), "malformed"},
		{"33 updates", "updates", encode(actionUpdates{repeated(runs, 33)}), "malformed"},
		{"a UID that is none", "updates[0].action_uid", one(actionUpdate{ActionUID: "x", Phase: acknowledged}), "malformed"},
		{"101 percent", "updates[0].percent", one(actionUpdate{ActionUID: someUID, Phase: running, Percent: 101}), "malformed"},
		{"the end without a result", "updates[0].result", one(actionUpdate{ActionUID: someUID, Phase: finished}), "malformed"},
		{"a result before the end", "updates[0].result", one(actionUpdate{ActionUID: someUID, Phase: running, Result: &result}), "malformed"},
		{"a result with two signatures", "updates[0].result", one(actionUpdate{ActionUID: someUID, Phase: finished, Result: &twice}), "malformed"},
		{"an order for a result", "updates[0].result", one(actionUpdate{ActionUID: someUID, Phase: finished, Result: &order}), "malformed"},
		{"a body of more than 256 KiB", "", bytes.Repeat([]byte(" "), 256<<10+1), "payload-too-large"},
	} {
		a, err := s.report(ctx, call{body: r.body})
		if err == nil && !bytes.Contains(a.body, []byte(r.says)) {
			err = fmt.Errorf("the problem does not name %s: %s", r.says, a)
		}
		s.expect(r.what, a, err, r.name)
	}
	gone := &record{uid: someUID, digest: digestOf(nil)}
	s.finish(gone, "OUTCOME_SUCCEEDED", "Done", "")
	s.check("32 updates of an action that there is not are acknowledged", s.acknowledges(ctx, repeated(runs, 32)...))
	s.check("so is its result: nobody waits for it", s.acknowledges(ctx, s.update(gone)))
	return nil
}

func repeated(u actionUpdate, n int) []actionUpdate {
	all := make([]actionUpdate, n)
	for i := range all {
		all[i] = u
	}
	return all
}

// acknowledges posts updates that are all good.
func (s *suite) acknowledges(ctx context.Context, updates ...actionUpdate) error {
	a, err := s.report(ctx, call{body: encode(actionUpdates{updates})})
	if err != nil {
		return err
	}
	var got acks
	if err := a.read(&got); err != nil {
		return err
	}
	for i, one := range got.Acks {
		if one.Problem != nil {
			return fmt.Errorf("update %d is answered with %+v", i, *one.Problem)
		}
	}
	if len(got.Acks) != len(updates) {
		err = fmt.Errorf("%d acks for %d updates", len(got.Acks), len(updates))
	}
	return err
}

// tryActions needs actions, and somebody who creates them.
func (s *suite) tryActions(ctx context.Context) error {
	if !s.actions {
		s.say("        not tried: it takes -actions, and somebody who does what it wants")
		return nil
	}
	one, err := s.begin(ctx)
	if err := s.must("a session", err); err != nil {
		return err
	}
	defer one.end()
	if err := s.tryWholeAction(ctx, one); err != nil {
		return err
	}
	r, err := s.pushed(ctx, one, terminateProcess)
	if err == nil {
		err = one.tells(ctx, s.update(r))
	}
	s.settles(r, err)
	s.check("an action that the agent refuses: its result is acknowledged", err)
	if err := s.tryCancel(ctx, one); err != nil {
		return err
	}
	one.end()
	s.tryActionWithoutSession(ctx)
	return nil
}

// wants says what whoever runs this has to do now.
func (s *suite) wants(what string) { s.say("  wants %s for identity %s", what, s.identity) }

// settles a record whose result was acknowledged.
func (s *suite) settles(r *record, err error) {
	if r != nil && err == nil {
		r.phase = ""
	}
}

// pushed wants an action, and waits until it comes on the session.
func (s *suite) pushed(ctx context.Context, one *session, what string) (*record, error) {
	had := len(s.journal.records)
	s.wants(what)
	err := one.await(ctx, func() bool { return len(s.journal.records) > had })
	if err != nil {
		return nil, err
	}
	return s.journal.records[had], nil
}

// await obeys what comes unasked until something is so.
func (s *session) await(ctx context.Context, so func() bool) error {
	for until := time.Now().Add(errand); !so(); {
		m, err := s.receiveWithin(time.Until(until))
		switch {
		case err != nil:
			return fmt.Errorf("it did not come: %w", err)
		case m.Orders == nil || m.Re != 0:
			return fmt.Errorf("want orders, got %+v", m)
		}
		if err := s.agent.obey(ctx, m.Orders); err != nil {
			return err
		}
	}
	return nil
}

// tells sends an update and waits for its ack.
func (s *session) tells(ctx context.Context, u actionUpdate) error {
	m, err := s.updates(ctx, u)
	if err == nil && (m.Ack == nil || m.Ack.Problem != nil) {
		err = fmt.Errorf("no ack: %+v, %+v", m, m.Problem)
	}
	return err
}

func (s *session) updates(ctx context.Context, u actionUpdate) (*serverMessage, error) {
	if err := s.send(agentMessage{ActionUpdate: &u}); err != nil {
		return nil, err
	}
	return s.answer(ctx)
}

func (s *suite) tryWholeAction(ctx context.Context, one *session) error {
	r, err := s.pushed(ctx, one, performHeartbeat)
	if err == nil && r.phase != acknowledged {
		err = fmt.Errorf("it is refused: %s", r.result)
	}
	if err := s.must("an action comes on the session; it verifies, is for this identity, and may be begun", err); err != nil {
		return err
	}
	s.check("it comes again, byte for byte, after a heartbeat of an agent that has not said that it has it", s.comesAgain(ctx, one, r))
	s.check("the update that it has it is acknowledged", one.tells(ctx, s.update(r)))
	s.check("it does not come again", s.staysAway(ctx, one, r))
	s.begins(r)
	s.check("the update that it runs is acknowledged", one.tells(ctx, s.update(r)))
	s.send = []string{"SECTION_CAPABILITIES", "SECTION_INVENTORY"}
	_, err = one.heartbeat(ctx)
	s.check("what was asked for, a whole heartbeat", err)
	s.finish(r, "OUTCOME_SUCCEEDED", "Done", "a whole heartbeat was answered")
	s.tryBadResults(ctx, one, r)
	good := one.tells(ctx, s.update(r))
	s.check("its result is acknowledged", good)
	s.check("so is the same result once more", one.tells(ctx, s.update(r)))
	s.check("so is the same result over HTTPS", s.acknowledges(ctx, s.update(r)))
	s.settles(r, good)
	s.check("it does not come again after that", s.staysAway(ctx, one, r))
	return nil
}

// onTheWay is longer than an order may take to an agent that sends a heartbeat meanwhile, which does not list it yet.
const onTheWay = 5 * time.Second

func (s *suite) comesAgain(ctx context.Context, one *session, r *record) error {
	if err := wait(ctx, onTheWay); err != nil {
		return err
	}
	before := r.came
	if _, err := one.exchange(ctx, func(h *heartbeat) { h.OpenActions = nil }); err != nil {
		return err
	}
	return one.await(ctx, func() bool { return r.came > before })
}

// staysAway has two heartbeats answered, and takes what comes meanwhile.
func (s *suite) staysAway(ctx context.Context, one *session, r *record) error {
	before := r.came
	for range 2 {
		if err := wait(ctx, onTheWay); err != nil {
			return err
		}
		if _, err := one.heartbeat(ctx); err != nil {
			return err
		}
	}
	if r.came > before {
		return errors.New("it came")
	}
	return nil
}

// tryBadResults of an action that is open and has a result.
func (s *suite) tryBadResults(ctx context.Context, one *session, r *record) {
	with := func(old, changed string) envelope {
		return sealBytes(s.key, payloadType("result"), []byte(strings.Replace(string(r.result), old, changed, 1)))
	}
	for _, bad := range []struct {
		what   string
		result envelope
		name   string
	}{
		{"a result by another key than the certificate's", sealBytes(newKey(), payloadType("result"), r.result), "proof-invalid"},
		{"a result of another identity", with(s.identity, someUID), "proof-invalid"},
		{"a result of another fleet", with(s.trust.fleetID, someUID), "proof-invalid"},
		{"a result of another action", with(r.uid, someUID), "proof-invalid"},
		{"a result whose reason is no word", with("Done", "done, I think"), "malformed"},
	} {
		m, err := one.updates(ctx, actionUpdate{ActionUID: r.uid, Phase: finished, Result: &bad.result})
		if err == nil && (m.Problem == nil || m.Problem.Type != "https://rollcall.dev/problems/"+bad.name) {
			err = fmt.Errorf("got %+v, %+v", m, m.Problem)
		}
		s.check(bad.what+" → "+bad.name, err)
	}
}

func (s *suite) tryCancel(ctx context.Context, one *session) error {
	r, err := s.pushed(ctx, one, performHeartbeat)
	if err == nil {
		err = one.tells(ctx, s.update(r))
	}
	if err := s.must("another action, which is not begun", err); err != nil {
		return err
	}
	s.wants("cancel " + r.uid)
	err = one.await(ctx, func() bool { return r.phase == finished })
	s.check("its cancel comes on the session; it verifies, and names the digest of the action", err)
	if err == nil {
		err = one.tells(ctx, s.update(r))
		s.settles(r, err)
		s.check("the result that it was cancelled is acknowledged", err)
	}
	return nil
}

func (s *suite) tryActionWithoutSession(ctx context.Context) {
	r, err := s.fetched(ctx, performHeartbeat)
	s.check("without a session an action comes with a heartbeat", err)
	if err == nil {
		s.check("that the agent has it, and its result, are acknowledged in one request", s.doAndReport(ctx, r))
	}
}

// fetched wants an action, and sends heartbeats over HTTPS until it comes.
func (s *suite) fetched(ctx context.Context, what string) (*record, error) {
	had := len(s.journal.records)
	s.wants(what)
	for until := time.Now().Add(errand); ; {
		if _, err := s.heartbeat(ctx); err != nil {
			return nil, err
		}
		if len(s.journal.records) > had {
			return s.journal.records[had], nil
		}
		if time.Now().After(until) {
			return nil, errors.New("it did not come")
		}
		if err := wait(ctx, min(s.interval(), s.pace)); err != nil {
			return nil, err
		}
	}
}

func (s *suite) doAndReport(ctx context.Context, r *record) error {
	first := s.update(r)
	s.begins(r)
	s.send = []string{"SECTION_CAPABILITIES", "SECTION_INVENTORY"}
	if _, err := s.heartbeat(ctx); err != nil {
		return err
	}
	s.finish(r, "OUTCOME_SUCCEEDED", "Done", "a whole heartbeat was answered")
	err := s.acknowledges(ctx, first, s.update(r))
	s.settles(r, err)
	return err
}
