package agent

import (
	"maps"
	"slices"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/journal"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/outbox"
	"github.com/rollcall-dev/rollcall/internal/agent/perform"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/faults"
)

const (
	// maxTasks is how many actions are done at once. The others wait.
	maxTasks = 8
	// stopPatience is how long the agent's end waits for what the executors have to say.
	stopPatience = 5 * time.Second
)

// capable are the executors of this agent: those that it was given, and its own.
func capable(given perform.Executors, reports chan<- *report) (perform.Executors, []string) {
	all := perform.Executors{typePerformHeartbeat: reporter{reports}}
	maps.Copy(all, given)
	return all, slices.Sorted(maps.Keys(all))
}

// act takes up what the executors say, and begins what may begin. What was accepted is acknowledged before.
func (e *Engine) act() {
	for _, event := range e.said() {
		e.hear(event)
	}
	if e.boot() >= e.rewriteAt {
		e.rewrite()
	}
	for _, entry := range slices.Clone(e.journal.Open()) {
		switch {
		case entry.Ended() || e.runner.Runs(entry.UID):
		case entry.Lost && entry.Action != nil:
			e.end(entry, entry.Action.Digest, lost())
		case entry.State == journal.Received:
			e.startAction(entry)
		case !entry.Lost:
			e.resumeAction(entry)
		}
	}
}

func (e *Engine) said() []perform.Event {
	events := e.events
	e.events = nil
	for {
		select {
		case event := <-e.runner.Events():
			events = append(events, event)
		case r := <-e.reportRequests:
			e.wantReport(r)
		default:
			return events
		}
	}
}

// startAction begins an action that was accepted, unless it must not any more, or must wait: for the time, for others to end, for the disk.
func (e *Engine) startAction(entry *journal.Entry) {
	a := entry.Action
	if v := a.Judge(e.standing(a), true); v.Reason != "" {
		e.end(entry, a.Digest, refused(v))
		return
	}
	if !e.clock.Anchored() || e.runner.Len() >= maxTasks || e.busy(a.Topic) || e.unjournaled != nil && e.boot() < e.rewriteAt {
		return
	}
	faults.Before("STARTED", entry.UID)
	if !e.journaled(e.journal.Start(entry, e.now())) {
		return
	}
	faults.After("STARTED", entry.UID)
	e.Log.Info("an action begins", "action", entry.UID, "type", a.Type)
	e.launch(entry, e.executors[a.Type], false)
	e.note(entry.UID, outbox.Running, e.boot()+e.Timing.ActionRunning)
}

// resumeAction goes on with an action that the end of a former process has interrupted.
func (e *Engine) resumeAction(entry *journal.Entry) {
	x := e.executors[entry.Action.Type]
	if x == nil {
		e.end(entry, entry.Action.Digest, perform.Unknown(perform.ReasonInterrupted, "the agent was interrupted, and this version of it cannot do %s", entry.Action.Type))
		return
	}
	e.Log.Info("an action was interrupted", "action", entry.UID, "type", entry.Action.Type)
	e.launch(entry, x, true)
	if entry.Cancelled {
		e.runner.Cancel(entry.UID)
	}
}

func (e *Engine) launch(entry *journal.Entry, x perform.Executor, interrupted bool) {
	task := &perform.Task{UID: entry.UID, Action: entry.Action.Order, Intent: entry.Intent}
	e.runner.Start(task, x, entry.Action.Order.GetActiveDeadline().AsDuration(), interrupted)
}

// busy tells whether an action on the same topic runs: they are done one after the other.
func (e *Engine) busy(topic orders.Topic) bool {
	return topic != orders.NoTopic && slices.ContainsFunc(e.journal.Open(), func(o *journal.Entry) bool {
		return o.Action != nil && o.Action.Topic == topic && e.runner.Runs(o.UID)
	})
}

// hear takes up what an executor says.
func (e *Engine) hear(event perform.Event) {
	entry := e.journal.Find(event.UID)
	switch {
	case !e.runner.Runs(event.UID): // it was given up
		if event.Noted != nil {
			event.Noted(perform.ErrStopping)
		}
	case event.Noted != nil:
		err := e.journal.Note(entry, event.Intent)
		e.journaled(err)
		faults.After("intent", entry.UID)
		event.Noted(err)
	case event.Result != nil:
		if event.Stack != nil {
			e.Log.Info("an executor failed by its own fault", "action", event.UID, "stack", string(event.Stack))
		}
		e.end(entry, entry.Action.Digest, *event.Result)
	default:
		e.box.Tell(outbox.Update{UID: event.UID, Phase: outbox.Running, Percent: event.Percent, Message: event.Message}, e.boot(), false)
	}
}

// end ends an action. Its result is sent once it is on the disk.
func (e *Engine) end(entry *journal.Entry, digest string, r perform.Result) {
	e.runner.Ended(entry.UID)
	e.Log.Info("an action ended: "+r.Message, "action", entry.UID, "outcome", outcome(r.Outcome), "reason", r.Reason)
	faults.Before("FINISHED", entry.UID)
	if e.journaled(e.journal.Finish(entry, e.payload(entry.UID, digest, entry.StartedAt, r), e.now())) {
		faults.After("FINISHED", entry.UID)
		e.note(entry.UID, outbox.Finished, e.boot())
	} else {
		e.box.Settled(entry.UID)
	}
}

// rewrite writes results that the disk did not take before.
func (e *Engine) rewrite() {
	e.rewriteAt = never
	for {
		entry, err := e.journal.Retry()
		if entry == nil {
			e.unjournaled = nil // what else could not be written is tried again by itself
			return
		}
		if !e.journaled(err) {
			return
		}
		e.note(entry.UID, outbox.Finished, e.boot())
	}
}

// journaled takes up how a write to the journal went.
func (e *Engine) journaled(err error) bool {
	if err == nil {
		e.unjournaled = nil
		return true
	}
	if e.unjournaled == nil {
		e.Log.Error(err, "the journal of actions cannot be written: none is taken, begun or reported before it can")
	}
	e.unjournaled = problem.New(problem.StateUnwritable, err.Error())
	e.rewriteAt = e.boot() + session.Jitter(e.Timing.ActionRepeat, 0.2, e.Random())
	return false
}

// settleActions ends with the agent: what the executors say is kept for the next start, which goes on with what says nothing.
func (e *Engine) settleActions() {
	e.runner.Stop(stopPatience, func(event perform.Event) {
		if event.Result != nil && event.Result.Reason == perform.ReasonInterrupted {
			e.runner.Ended(event.UID)
			return
		}
		e.hear(event)
	})
	e.runner.Abandon()
}

// nextDeadline is when the first action that waits may not begin any more, as far as the time is known.
func (e *Engine) nextDeadline() time.Duration {
	next := never
	if !e.clock.Anchored() {
		return next
	}
	for _, entry := range e.journal.Open() {
		if entry.State == journal.Received && !entry.Ended() {
			next = min(next, later(e.boot(), max(0, entry.ExpiresAt().Sub(e.now()))))
		}
	}
	return next
}

// outcome is one in a word.
func outcome(o agentv1.Outcome) string {
	switch o {
	case agentv1.Outcome_OUTCOME_SUCCEEDED:
		return "Succeeded"
	case agentv1.Outcome_OUTCOME_FAILED:
		return "Failed"
	case agentv1.Outcome_OUTCOME_CANCELLED:
		return "Cancelled"
	case agentv1.Outcome_OUTCOME_REFUSED:
		return "Refused"
	default:
		return "Unknown"
	}
}
