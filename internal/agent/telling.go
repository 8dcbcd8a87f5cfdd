package agent

import (
	"context"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/journal"
	"github.com/rollcall-dev/rollcall/internal/agent/outbox"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// note notes that an action has come to a phase, which is to be told at a moment.
func (e *Engine) note(uid string, phase agentv1.ActionPhase, at time.Duration) {
	e.box.Tell(outbox.Update{UID: uid, Phase: phase}, at, false)
}

// tell tells what is due of actions, by the channel of the moment.
func (e *Engine) tell(ctx context.Context) {
	for ctx.Err() == nil {
		u, ok := e.box.Due(e.boot())
		if !ok {
			return
		}
		switch channel, _ := e.session.UpdateChannel(e.boot(), e.box.Next()); channel {
		case session.WebSocket:
			e.sendUpdate(ctx, u)
		case session.HTTPS:
			if e.boot() < e.updates.due {
				return
			}
			e.perform(ctx, &e.updates, e.postUpdates)
		case session.Wait:
			return
		}
	}
}

// tellDue is when tell has something to do, unless something happens before.
func (e *Engine) tellDue() time.Duration {
	due := e.box.Next()
	if due == never {
		return never
	}
	switch channel, until := e.session.UpdateChannel(e.boot(), due); channel {
	case session.Wait:
		return until
	case session.HTTPS:
		return max(due, e.updates.due)
	default:
		return due
	}
}

func (e *Engine) sendUpdate(ctx context.Context, u outbox.Update) {
	m := e.update(u)
	if m == nil {
		e.box.Settled(u.UID)
		return
	}
	id := e.session.SendUpdate(e.boot(), e.Random())
	e.told[id] = u
	e.box.Sent(u, e.boot(), e.Random())
	e.say(ctx, &agentv1.AgentMessage{Id: id, Body: &agentv1.AgentMessage_ActionUpdate{ActionUpdate: m}})
	faults.After(u.Phase, u.UID)
}

// postUpdates tells over HTTPS what is due.
func (e *Engine) postUpdates(ctx context.Context) (time.Duration, error) {
	if err := e.ensureTrust(ctx, 0); err != nil {
		return 0, err
	}
	var told []outbox.Update
	body := &agentv1.ActionUpdates{}
	for u, ok := e.box.Due(e.boot()); ok && len(told) < wire.MaxUpdates; u, ok = e.box.Due(e.boot()) {
		m := e.update(u)
		if m == nil {
			e.box.Settled(u.UID)
			continue
		}
		if body.Updates = append(body.Updates, m); body.SizeVT() > wire.MaxActionsBytes {
			body.Updates = body.Updates[:len(told)]
			break
		}
		told = append(told, u)
		e.box.Sent(u, e.boot(), e.Random())
	}
	if len(told) == 0 {
		return 0, nil
	}
	exchange, done := e.line.Yield(ctx)
	defer done()
	reply, err := e.connection().Update(exchange, e.moment(), body)
	if err != nil && exchange.Err() != nil && ctx.Err() == nil {
		return 0, errYielded
	}
	for i, ack := range reply.GetAcks() {
		faults.After(told[i].Phase, told[i].UID)
		e.answered(told[i], ack.GetProblem())
	}
	return 0, err
}

// update is what is said of an action, nil if there is nothing to say any more. A result is signed now, with the key of now.
func (e *Engine) update(u outbox.Update) *agentv1.ActionUpdate {
	entry := e.journal.Find(u.UID)
	if entry == nil {
		return nil
	}
	m := &agentv1.ActionUpdate{ActionUid: u.UID, Phase: u.Phase, Percent: min(u.Percent, wire.MaxPercent), Message: wire.CutText(u.Message, wire.MaxText)}
	if u.Phase != outbox.Finished {
		return m
	}
	payload, err := e.journal.Result(entry)
	if err == nil {
		m.Result, err = envelope.Sign(e.id.Key, envelope.Result, payload)
	}
	if err != nil {
		e.Log.Error(err, "a result cannot be told", "action", u.UID)
		return nil
	}
	return m
}

// updateAnswered takes the message that answers an update. Only an ack says that the server has it.
func (e *Engine) updateAnswered(u outbox.Update, m *agentv1.ServerMessage) {
	switch body := m.GetBody().(type) {
	case *agentv1.ServerMessage_Ack:
		e.answered(u, body.Ack.GetProblem())
	case *agentv1.ServerMessage_Problem:
		e.answered(u, body.Problem)
	}
}

// answered takes the answer to an update.
func (e *Engine) answered(u outbox.Update, refusal *agentv1.Problem) {
	if refusal != nil {
		p, ok := wire.ProblemOf(refusal)
		if !ok {
			p = problem.New(problem.ReplyMalformed, "The server answered an update with a problem that has no name.")
		}
		e.Log.Info("the server did not take an update of an action: "+p.Error(), "action", u.UID, "phase", u.Phase.String(), "reason", p.Name)
		r := e.Timing.react(p.Name, e.interval())
		e.box.Refused(u.UID, e.boot(), max(session.Jitter(p.RetryAfter, 0.2, e.Random()), r.wait))
		return
	}
	entry := e.journal.Find(u.UID)
	if u.Phase != outbox.Finished || entry == nil {
		return
	}
	faults.Before("SETTLED", entry.UID)
	if entry.State == journal.Finished && !e.journaled(e.journal.Settle(entry, e.now())) {
		return // it is told again
	}
	faults.After("SETTLED", entry.UID)
	e.box.Settled(u.UID)
}
