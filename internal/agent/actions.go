package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/journal"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/outbox"
	"github.com/rollcall-dev/rollcall/internal/agent/perform"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// reasonJournalCorrupt is of an action whose record was damaged.
const reasonJournalCorrupt = "JournalCorrupt"

// topics on which an older action than the last accepted one is refused.
var topics = []orders.Topic{orders.Isolation, orders.Proxy}

// obey takes up an order. The error is why it is not obeyed, and leaves nothing behind.
func (e *Engine) obey(o *agentv1.Envelope) error {
	switch envelope.Type(o.GetPayloadType()) {
	case envelope.Cancel:
		return e.takeBack(o)
	case envelope.Action:
		return e.accept(o)
	case envelope.Offer:
		return e.takeOffer(o)
	}
	issued, changed, err := e.book.Obey(o)
	if err == nil && changed {
		e.clock.Order(issued)
	}
	return err
}

// accept takes up an action. It is acknowledged, and may begin, once it is on the disk; one that the disk does not take is sent again.
func (e *Engine) accept(o *agentv1.Envelope) error {
	a, err := e.book.Action(o)
	if err != nil {
		return err
	}
	e.clock.Order(a.IssuedAt())
	if known := e.journal.Find(a.Order.GetActionUid()); known != nil {
		e.repeat(known, a)
		return nil
	}
	if err := e.takes("action", a.IssuedAt()); err != nil {
		return err
	}
	log := e.Log.WithValues("action", a.Order.GetActionUid(), "type", a.Type, "by", a.Order.GetRequestedBy())
	if v := a.Judge(e.standing(a), false); v.Reason != "" {
		result := e.payload(a.Order.GetActionUid(), a.Digest, time.Time{}, refused(v))
		faults.Before("refusal", a.Order.GetActionUid())
		if e.journaled(e.journal.Refuse(a, result, e.now())) {
			faults.After("refusal", a.Order.GetActionUid())
			log.Info("an action was refused: "+v.Message, "reason", v.Reason)
			e.note(a.Order.GetActionUid(), outbox.Finished, e.boot())
		}
		return nil
	}
	faults.Before("RECEIVED", a.Order.GetActionUid())
	if e.journaled(e.journal.Receive(a, e.now())) {
		faults.After("RECEIVED", a.Order.GetActionUid())
		log.Info("an action was accepted", "why", a.Order.GetReason())
		e.raise(a.Topic, a.IssuedAt())
		if e.session.Phase() == session.Up { // else the next heartbeat says so in time
			e.note(a.Order.GetActionUid(), outbox.Acknowledged, e.boot())
		}
	}
	return nil
}

// repeat says again what became of an action that comes a second time, and does nothing else.
func (e *Engine) repeat(known *journal.Entry, a *orders.Action) {
	switch {
	case known.Lost:
		e.journal.Learn(known, a) // and it ends at once
	case known.State == journal.Settled:
		e.box.Tell(outbox.Update{UID: known.UID, Phase: outbox.Finished}, e.boot(), true)
	case known.State == journal.Finished || !known.Ended():
		e.box.Settled(known.UID) // whoever asks again has heard nothing, so nothing is too early
		e.note(known.UID, known.Phase(), e.boot())
	}
}

// takeBack takes up a cancel. What has not begun never will.
func (e *Engine) takeBack(o *agentv1.Envelope) error {
	c, err := e.book.Cancel(o)
	if err != nil {
		return err
	}
	e.clock.Order(c.GetIssuedAt().AsTime())
	known := e.journal.Find(c.GetActionUid())
	if known == nil {
		return e.takeBackUnknown(c, o)
	}
	switch {
	case known.Lost && known.Action == nil:
		e.end(known, c.GetActionDigest(), lost())
	case known.Lost: // and it ends at once
	case known.Ended():
		e.repeat(known, nil)
	case known.State == journal.Received:
		e.end(known, known.Action.Digest, perform.Cancelled("taken back before it began"))
	case !known.Cancelled:
		e.Log.Info("an action is taken back while it runs", "action", known.UID)
		faults.Before("cancel", known.UID)
		e.journaled(e.journal.Cancel(known, o)) // it is asked to stop all the same
		faults.After("cancel", known.UID)
		e.runner.Cancel(known.UID)
	}
	return nil
}

// takeBackUnknown remembers the cancel of an action that has not come: it may be late. It is certain that it has not run only since this journal
// was made.
func (e *Engine) takeBackUnknown(c *agentv1.Cancel, o *agentv1.Envelope) error {
	if err := e.takes("cancel", c.GetActionIssuedAt().AsTime()); err != nil {
		return err
	}
	result := e.payload(c.GetActionUid(), c.GetActionDigest(), time.Time{}, perform.Cancelled("taken back before it came"))
	faults.Before("tombstone", c.GetActionUid())
	if e.journaled(e.journal.TakeBack(c, o, result, e.now())) {
		faults.After("tombstone", c.GetActionUid())
		e.Log.Info("an action was taken back before it came", "action", c.GetActionUid())
		e.note(c.GetActionUid(), outbox.Finished, e.boot())
	}
	return nil
}

// takes tells whether the journal may take what was issued at a moment.
func (e *Engine) takes(kind string, issued time.Time) error {
	return orders.Journal{CreatedAt: e.journalCreated, Full: e.journal.Full()}.Takes(kind, issued)
}

// standing is what an action is judged by.
func (e *Engine) standing(a *orders.Action) orders.Standing {
	s := orders.Standing{Now: e.now(), Capabilities: e.capabilities, Disabled: e.book.Policy().GetDisabledActions(), Floor: e.floors[a.Topic]}
	if !e.clock.Anchored() {
		s.Now = e.clock.Floor()
	}
	return s
}

// raise lifts the floor of a topic. The state that keeps it is saved later than the record that it comes from: at a start both are looked at.
func (e *Engine) raise(topic orders.Topic, issued time.Time) {
	if topic != orders.NoTopic && issued.After(e.floors[topic]) {
		e.floors[topic] = issued
	}
}

// takeUpActions restores the journal, and what is to be told of it. What was begun goes on at the next step, or ends.
func (e *Engine) takeUpActions() (err error) {
	genuine := func(o *agentv1.Envelope) (*orders.Action, error) { return e.book.Action(o) }
	if e.book.Trust == nil {
		genuine = func(*agentv1.Envelope) (*orders.Action, error) {
			return nil, errors.New("there is no trust to judge it by")
		}
	}
	if e.journal, err = journal.Load(e.Dir, genuine, e.now()); err != nil {
		return problem.New(problem.StateUnwritable, err.Error())
	}
	for _, topic := range topics {
		e.raise(topic, e.journal.Floor(topic))
	}
	return e.keepOwnActions()
}

// keepOwnActions forgets what was meant for a predecessor of this identity.
func (e *Engine) keepOwnActions() error {
	if e.id == nil {
		return nil
	}
	if err := e.journal.Keep(e.id.ID); err != nil {
		return problem.New(problem.StateUnwritable, err.Error())
	}
	for _, entry := range e.journal.Open() {
		if entry.State == journal.Finished {
			e.note(entry.UID, outbox.Finished, e.boot())
		}
	}
	return nil
}

// openActions are told in each heartbeat.
func (e *Engine) openActions() []*agentv1.ActionState {
	var out []*agentv1.ActionState
	for _, entry := range e.journal.Open() {
		// Of a damaged record nothing is said until its order comes again, as it does if it is not listed.
		if entry.Lost && entry.Action == nil {
			continue
		}
		if out = append(out, &agentv1.ActionState{ActionUid: entry.UID, Phase: entry.Phase()}); len(out) == wire.MaxOpenActions {
			break
		}
	}
	return out
}

// payload is a result as it is signed. What it has no room for is counted; what is out of its bounds is left out, so that an end is always told.
func (e *Engine) payload(uid, digest string, started time.Time, r perform.Result) []byte {
	m := &agentv1.ActionResult{
		FleetId: e.id.FleetID, IdentityId: e.id.ID, ActionUid: uid, ActionDigest: digest, Outcome: r.Outcome, Reason: r.Reason,
		Message: wire.CutText(r.Message, wire.MaxResultMessage), StartedAt: asTimestamp(started), FinishedAt: timestamppb.New(e.now()),
		Processes: r.Processes[:min(len(r.Processes), wire.MaxResultProcesses)],
	}
	if err := wire.CheckActionResult(m); err != nil {
		e.Log.Info("left out of a result what is out of bounds: "+err.Error(), "action", uid, "reason", r.Reason, "message", r.Message)
		m.Reason, m.Message, m.Processes = perform.ReasonInternal, "what the agent has to say of it is out of bounds", nil
	}
	for {
		m.Omitted = uint32(len(r.Processes) - len(m.Processes)) //nolint:gosec // as many as there are processes
		payload := encode(m)
		if len(payload) <= envelope.Result.MaxPayload() || len(m.Processes) == 0 {
			return payload
		}
		m.Processes = m.Processes[:len(m.Processes)-1]
	}
}

// encode is a payload: compact, because protojson varies its white space on purpose.
func encode(m *agentv1.ActionResult) []byte {
	var out bytes.Buffer
	if loose, err := protojson.Marshal(m); err != nil || json.Compact(&out, loose) != nil {
		return nil // not of text that was checked
	}
	return out.Bytes()
}

func refused(v orders.Verdict) perform.Result {
	return perform.Result{Outcome: agentv1.Outcome_OUTCOME_REFUSED, Reason: v.Reason, Message: v.Message}
}

func lost() perform.Result {
	return perform.Unknown(reasonJournalCorrupt, "the agent's record of it was damaged: it may have been done, or not")
}
