package main

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

const (
	testFleet    = "0f8fad5b-d9cb-469f-a165-70867728950e"
	testIdentity = "7d444840-9dc0-41d1-b245-5ffdce74fad2"
	testAction   = "e58ed763-928c-4155-bee9-fdbaaadc15f3"
)

var manager = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// agentAt has enrolled, knows the time, and made its journal an hour ago.
func agentAt(now time.Time) *agent {
	return &agent{
		trust: &trust{fleetID: testFleet, orders: []crypto.PublicKey{manager.Public()}}, identity: testIdentity, key: newKey(),
		clock: clock{now, time.Now()}, journal: journal{id: randomHex(16), created: stamp(now.Add(-time.Hour))},
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func ordered(now time.Time) action {
	return action{
		FleetID: testFleet, IdentityID: testIdentity, ActionUID: testAction, IssuedAt: stamp(now), ExpiresAt: stamp(now.Add(time.Minute)),
		ActiveDeadline: "60s", PerformHeartbeat: &struct{}{},
	}
}

func resultOf(t *testing.T, r *record) (m actionResult) {
	t.Helper()
	if r == nil || r.phase != finished {
		t.Fatalf("no result: %+v", r)
	}
	if err := json.Unmarshal(r.result, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestWhatBecomesOfAnAction(t *testing.T) {
	now := time.Now()
	for name, tc := range map[string]struct {
		order   func(*action)
		agent   func(*agent)
		key     ed25519.PrivateKey
		refused string // the result's reason
		ignored bool   // no record
	}{
		"a good one":                       {},
		"one that needs what there is":     {order: func(m *action) { m.Requires = []string{"PerformHeartbeat"} }},
		"one that has expired":             {order: func(m *action) { m.ExpiresAt = stamp(now.Add(-time.Second)) }, refused: "PastDeadline"},
		"one that needs what there is not": {order: func(m *action) { m.Requires = []string{"Teleport"} }, refused: "Unsupported"},
		"one to do what nobody knows":      {order: func(m *action) { m.PerformHeartbeat = nil }, refused: "Unsupported"},
		"one that may run for ever":        {order: func(m *action) { m.ActiveDeadline = "" }, refused: "Unsupported"},
		"one that the policy forbids":      {agent: func(a *agent) { a.policy.DisabledActions = []string{"PerformHeartbeat"} }, refused: "DisabledByPolicy"},
		"another fleet's":                  {order: func(m *action) { m.FleetID = testAction }, ignored: true},
		"another identity's":               {order: func(m *action) { m.IdentityID = testAction }, ignored: true},
		"one without a UID":                {order: func(m *action) { m.ActionUID = "" }, ignored: true},
		"one without a time":               {order: func(m *action) { m.IssuedAt = "" }, ignored: true},
		"one from before the journal":      {order: func(m *action) { m.IssuedAt = stamp(now.Add(-2 * time.Hour)) }, ignored: true},
		"one before the first beacon":      {agent: func(a *agent) { a.journal.created = "" }, ignored: true},
		"one that nobody may sign":         {key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)), ignored: true},
		"one that finds a full journal":    {agent: func(a *agent) { a.journal.records = fullJournal() }, ignored: true},
	} {
		t.Run(name, func(t *testing.T) {
			a, m, key := agentAt(now), ordered(now), manager
			if tc.order != nil {
				tc.order(&m)
			}
			if tc.agent != nil {
				tc.agent(a)
			}
			if tc.key != nil {
				key = tc.key
			}
			order := seal(key, "action", m)
			err := a.takeAction(&order)
			r := a.journal.find(m.ActionUID)
			if tc.ignored {
				if err == nil || r != nil {
					t.Fatalf("%v, %+v", err, r)
				}
				return
			}
			if err != nil || r == nil || r.digest != digestOf(order.Payload) {
				t.Fatalf("%v, %+v", err, r)
			}
			if tc.refused == "" {
				if r.phase != acknowledged || len(a.beat().OpenActions) != 1 {
					t.Fatalf("%+v", r)
				}
				return
			}
			if got := resultOf(t, r); got.Outcome != "OUTCOME_REFUSED" || got.Reason != tc.refused || got.StartedAt != "" || got.FinishedAt == "" || got.ActionDigest != r.digest {
				t.Fatalf("%+v", got)
			}
		})
	}
}

func fullJournal() (all []*record) {
	for range maxOpen {
		all = append(all, &record{uid: randomHex(16), phase: acknowledged})
	}
	return all
}

func TestAnActionIsTakenOnce(t *testing.T) {
	now := time.Now()
	a, m := agentAt(now), ordered(now)
	order := seal(manager, "action", m)
	for range 2 {
		if err := a.takeAction(&order); err != nil {
			t.Fatal(err)
		}
	}
	r := a.journal.find(testAction)
	if len(a.journal.records) != 1 || r.came != 2 {
		t.Fatalf("%+v", a.journal)
	}
	a.begins(r)
	a.finish(r, "OUTCOME_SUCCEEDED", "Done", "")
	r.phase = "" // acknowledged
	if err := a.takeAction(&order); err != nil || r.phase != "" || len(a.beat().OpenActions) != 0 {
		t.Errorf("what was settled comes again: %v, %+v", err, r)
	}
	other := seal(manager, "action", action{
		FleetID: m.FleetID, IdentityID: m.IdentityID, ActionUID: m.ActionUID, IssuedAt: m.IssuedAt, ExpiresAt: stamp(now.Add(time.Hour)), PerformHeartbeat: &struct{}{},
	})
	if err := a.takeAction(&other); err == nil || len(a.journal.records) != 1 {
		t.Errorf("another order of that name: %v, %+v", err, a.journal)
	}
}

func TestCancel(t *testing.T) {
	now := time.Now()
	order := seal(manager, "action", ordered(now))
	canceled := func(change func(*cancel)) *envelope {
		m := cancel{FleetID: testFleet, IdentityID: testIdentity, ActionUID: testAction, ActionDigest: digestOf(order.Payload), ActionIssuedAt: stamp(now)}
		change(&m)
		e := seal(manager, "cancel", m)
		return &e
	}
	good := canceled(func(*cancel) {})

	a := agentAt(now)
	if err := a.takeAction(&order); err != nil {
		t.Fatal(err)
	}
	if err := a.takeCancel(good); err != nil {
		t.Fatal(err)
	}
	if got := resultOf(t, a.journal.find(testAction)); got.Outcome != "OUTCOME_CANCELLED" || got.Reason != "Cancelled" {
		t.Errorf("cancelled before it began: %+v", got)
	}

	a = agentAt(now)
	if err := a.takeCancel(good); err != nil {
		t.Fatal(err)
	}
	if err := a.takeAction(&order); err != nil {
		t.Fatal(err)
	}
	if got := resultOf(t, a.journal.find(testAction)); got.Outcome != "OUTCOME_CANCELLED" || got.ActionDigest != digestOf(order.Payload) || len(a.journal.records) != 1 {
		t.Errorf("cancelled before it came: %+v", got)
	}

	a = agentAt(now)
	if err := a.takeAction(&order); err != nil {
		t.Fatal(err)
	}
	r := a.journal.find(testAction)
	a.begins(r)
	if err := a.takeCancel(good); err != nil || r.phase != running {
		t.Errorf("cancelled while it runs: %v, %+v", err, r)
	}
	a.finish(r, "OUTCOME_SUCCEEDED", "Done", "")
	if err := a.takeCancel(good); err != nil || resultOf(t, r).Outcome != "OUTCOME_SUCCEEDED" {
		t.Errorf("cancelled after its end: %v, %+v", err, r)
	}

	for name, bad := range map[string]*envelope{
		"another fleet's":                         canceled(func(m *cancel) { m.FleetID = testAction }),
		"another identity's":                      canceled(func(m *cancel) { m.IdentityID = testAction }),
		"of an action from before the journal":    canceled(func(m *cancel) { m.ActionIssuedAt = stamp(now.Add(-2 * time.Hour)) }),
		"of an action of which nobody knows when": canceled(func(m *cancel) { m.ActionIssuedAt = "" }),
	} {
		a = agentAt(now)
		if err := a.takeCancel(bad); err == nil || len(a.journal.records) > 0 {
			t.Errorf("a cancel %s: %v, %+v", name, err, a.journal)
		}
	}
}

// A result is signed with the key of the moment, and its payload stays what it was.
func TestResultsAreSignedWhenTheyAreSent(t *testing.T) {
	now := time.Now()
	a := agentAt(now)
	order := seal(manager, "action", ordered(now))
	if err := a.takeAction(&order); err != nil {
		t.Fatal(err)
	}
	r := a.journal.find(testAction)
	if u := a.update(r); u.Result != nil || u.Phase != acknowledged {
		t.Fatalf("%+v", u)
	}
	a.finish(r, "OUTCOME_SUCCEEDED", "Done", "")
	before := a.update(r)
	a.key = newKey()
	after := a.update(r)
	var m actionResult
	if err := open(after.Result, "result", &m, []crypto.PublicKey{a.key.Public()}); err != nil || !bytes.Equal(before.Result.Payload, after.Result.Payload) {
		t.Errorf("%v, %+v", err, m)
	}
	if err := open(before.Result, "result", &m, []crypto.PublicKey{a.key.Public()}); err == nil {
		t.Error("the key from before made the signature of now")
	}
}

// The document's example is an action that this agent refuses.
func TestActionOfTheDocument(t *testing.T) {
	find := finder(t)
	var order, result envelope
	for name, e := range map[string]*envelope{"action": &order, "result": &result} {
		if err := json.Unmarshal(find("(?s)```json "+name+" envelope\n(.*?)\n```"), e); err != nil {
			t.Fatal(err)
		}
		if payload := find("(?s)```json " + name + " payload\n(.*?)\n```"); !bytes.Equal(payload, e.Payload) {
			t.Errorf("the envelope of the %s has another payload", name)
		}
		if got, want := pae(payloadType(name), e.Payload), find("(?s)```text "+name+" pae\n(.*?)\n```"); !bytes.Equal(got, want) {
			t.Errorf("PAE of the %s is %q, in the document %q", name, got, want)
		}
	}
	noon, err := parseTime("2026-11-24T12:00:02Z")
	if err != nil {
		t.Fatal(err)
	}
	a := agentAt(noon)
	a.trust.orders = []crypto.PublicKey{mustKey(t, find("RFC 8032.*?SubjectPublicKeyInfo `([^`]+)`"))}
	if err := a.takeAction(&order); err != nil {
		t.Fatal(err)
	}
	ours := resultOf(t, a.journal.find(testAction))
	var theirs actionResult
	agentKey := mustKey(t, find("RFC 6979.*?SubjectPublicKeyInfo `([^`]+)`"))
	if err := open(&result, "result", &theirs, []crypto.PublicKey{agentKey}); err != nil {
		t.Fatal(err)
	}
	if ours.Reason != "Unsupported" || theirs.Reason != "Done" || theirs.ActionDigest != ours.ActionDigest || !strings.HasPrefix(ours.FinishedAt, "2026-11-24T12:00:0") {
		t.Errorf("the document has %+v, we say %+v", theirs, ours)
	}
}
