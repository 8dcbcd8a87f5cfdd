package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Phases of an action, as updates and heartbeats say them.
const (
	acknowledged = "ACTION_PHASE_ACKNOWLEDGED"
	running      = "ACTION_PHASE_RUNNING"
	finished     = "ACTION_PHASE_FINISHED"
)

// What this agent can do, and what it says that it can but refuses.
const (
	performHeartbeat = "PerformHeartbeat"
	terminateProcess = "TerminateProcess"
)

// maxOpen is how many records that are not settled make a journal full.
const maxOpen = 256

// journal is what the agent knows of actions. This agent keeps it in memory: that a real one survives a crash is not tried here.
type journal struct {
	id      string
	created string    // when, as it was signed; empty before the first beacon
	records []*record // in the order in which they came
}

// record of an action.
type record struct {
	uid    string
	digest string
	order  []byte // the payload; empty where only the cancel came
	came   int    // how often
	begun  string // when, by the signed time
	phase  string // empty once it is settled
	result []byte // the payload
}

func (j *journal) find(uid string) *record {
	i := slices.IndexFunc(j.records, func(r *record) bool { return r.uid == uid })
	if i < 0 {
		return nil
	}
	return j.records[i]
}

// open are the records that are not settled.
func (j *journal) open() (all []actionState) {
	for _, r := range j.records {
		if r.phase != "" {
			all = append(all, actionState{r.uid, r.phase})
		}
	}
	return all
}

// takes tells why nothing that was issued then can be recorded.
func (j *journal) takes(issued time.Time) error {
	created, err := parseTime(j.created)
	switch {
	case err != nil || issued.Before(created):
		return fmt.Errorf("issued at %s, before the journal was made: %q", issued, j.created)
	case len(j.open()) >= maxOpen:
		return errors.New("the journal is full")
	}
	return nil
}

func digestOf(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:])
}

func (a *agent) signedNow() string { return a.clock.now().UTC().Format(time.RFC3339Nano) }

// takeAction judges an action. An error is why there is no record of it.
func (a *agent) takeAction(e *envelope) error {
	var m action
	if err := open(e, "action", &m, a.trust.orders); err != nil {
		return err
	}
	issued, err1 := parseTime(m.IssuedAt)
	expires, err2 := parseTime(m.ExpiresAt)
	if err := errors.Join(err1, err2, a.isForUs(m.FleetID, m.IdentityID, m.ActionUID)); err != nil {
		return err
	}
	if r := a.journal.find(m.ActionUID); r != nil {
		r.came++
		if len(r.order) > 0 && !bytes.Equal(r.order, e.Payload) {
			return fmt.Errorf("action %s came again with other bytes", r.uid)
		}
		return nil // whoever waits for it says again what the record says
	}
	if err := a.journal.takes(issued); err != nil {
		return err
	}
	r := &record{uid: m.ActionUID, digest: digestOf(e.Payload), order: e.Payload, came: 1, phase: acknowledged}
	a.journal.records = append(a.journal.records, r)
	if reason := a.refusal(m, expires); reason != "" {
		a.finish(r, "OUTCOME_REFUSED", reason, "this agent does not do that")
	}
	return nil
}

func (a *agent) isForUs(fleetID, identityID, actionUID string) error {
	if fleetID != a.trust.fleetID || identityID != a.identity || len(actionUID) != 36 {
		return fmt.Errorf("action %q for %q of fleet %q", actionUID, identityID, fleetID)
	}
	return nil
}

// refusal is the reason why an action is not begun, empty if it may be.
func (a *agent) refusal(m action, expires time.Time) string {
	can := func(capability string) bool { return slices.Contains(a.capabilities(), capability) }
	switch limit, err := time.ParseDuration(m.ActiveDeadline); {
	case !a.clock.now().Before(expires):
		return "PastDeadline"
	case m.PerformHeartbeat == nil || !all(m.Requires, can) || err != nil || limit < time.Second || limit > 24*time.Hour:
		return "Unsupported"
	case slices.Contains(a.policy.DisabledActions, performHeartbeat):
		return "DisabledByPolicy"
	}
	return ""
}

func all(names []string, good func(string) bool) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !good(name) })
}

// takeCancel obeys one. An error is why there is no record of it.
func (a *agent) takeCancel(e *envelope) error {
	var m cancel
	if err := open(e, "cancel", &m, a.trust.orders); err != nil {
		return err
	}
	issued, err := parseTime(m.ActionIssuedAt)
	if err := errors.Join(err, a.isForUs(m.FleetID, m.IdentityID, m.ActionUID)); err != nil {
		return err
	}
	r := a.journal.find(m.ActionUID)
	if r == nil {
		if err := a.journal.takes(issued); err != nil {
			return err
		}
		r = &record{uid: m.ActionUID, digest: m.ActionDigest, phase: acknowledged}
		a.journal.records = append(a.journal.records, r)
	}
	if m.ActionDigest != r.digest {
		return fmt.Errorf("the cancel of %s has the digest %s, the action %s", r.uid, m.ActionDigest, r.digest)
	}
	if r.phase == acknowledged {
		a.finish(r, "OUTCOME_CANCELLED", "Cancelled", "it was not begun")
	}
	return nil // what runs is over in a moment; what is over stays so
}

// start of an action, before anything is done.
func (a *agent) begins(r *record) { r.phase, r.begun = running, a.signedNow() }

func (a *agent) finish(r *record, outcome, reason, message string) {
	r.phase = finished
	r.result = encode(actionResult{
		FleetID: a.trust.fleetID, IdentityID: a.identity, ActionUID: r.uid, ActionDigest: r.digest, Outcome: outcome, Reason: reason, Message: message,
		StartedAt: r.begun, FinishedAt: a.signedNow(),
	})
}

// update is what there is to say of an action. A result is signed anew each time, with the key of now.
func (a *agent) update(r *record) actionUpdate {
	u := actionUpdate{ActionUID: r.uid, Phase: r.phase}
	if r.phase == finished {
		result := sealBytes(a.key, payloadType("result"), r.result)
		u.Result = &result
	}
	return u
}
