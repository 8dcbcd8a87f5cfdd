package agent

import (
	"cmp"
	"slices"
	"time"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/journal"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/agent/status"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// maxListed is how many reported actions are listed.
const maxListed = 50

// Actions are those that the journal on the disk knows. It may be called from any goroutine.
func (e *Engine) Actions() (status.Actions, error) {
	uids, err := state.Actions(e.Dir.Path())
	if err != nil {
		return status.Actions{}, err
	}
	s := e.snapshot.Load()
	now := s.clock.Now(e.Host.Clock())
	var open, reported []status.Action
	for _, uid := range uids {
		r, err := state.Action(e.Dir.Path(), uid)
		if r == nil && err == nil {
			continue // dropped meanwhile
		}
		if a := listed(uid, r, now); a.State == status.Reported {
			reported = append(reported, a)
		} else {
			open = append(open, a)
		}
	}
	slices.SortFunc(open, func(a, b status.Action) int {
		return cmp.Or(cmp.Compare(b.SecondsAgo, a.SecondsAgo), cmp.Compare(a.UID, b.UID))
	})
	slices.SortFunc(reported, func(a, b status.Action) int {
		return cmp.Or(cmp.Compare(a.SecondsAgo, b.SecondsAgo), cmp.Compare(a.UID, b.UID))
	})
	shown := min(len(reported), maxListed)
	return status.Actions{Actions: append(append([]status.Action{}, open...), reported[:shown]...), Omitted: len(reported) - shown}, nil
}

// listed is an action as a person on the machine sees it.
func listed(uid string, r *statev1.JournalRecord, now time.Time) status.Action {
	a := status.Action{UID: uid, State: status.Lost, SecondsAgo: seconds(max(0, now.Sub(asTime(r.GetChangedAt()))))}
	if r.GetOrder() != nil {
		if parsed, err := orders.ParseAction(r.GetOrder()); err == nil {
			a.Type, a.By, a.Why = parsed.Type, parsed.Order.GetRequestedBy(), parsed.Order.GetReason()
		}
	}
	switch r.GetState() {
	case journal.Received:
		a.State = status.Waiting
	case journal.Started:
		if r.GetOrder() != nil {
			a.State = status.Running
		}
	case journal.Finished:
		a.State = status.Ended
	case journal.Settled:
		a.State = status.Reported
	default:
	}
	result := &agentv1.ActionResult{}
	if len(r.GetResult()) > 0 && envelope.Parse(r.GetResult(), result) == nil {
		a.Outcome, a.Reason, a.Message = outcome(result.GetOutcome()), result.GetReason(), result.GetMessage()
	}
	return a
}

// openCount counts the actions that are open.
func (e *Engine) openCount() status.Open {
	o := status.Open{Full: e.journal.Full()}
	for _, entry := range e.journal.Open() {
		switch {
		case entry.Lost && entry.Action == nil: // nothing becomes of it here
		case entry.Ended():
			o.Ended++
		case entry.State == journal.Started:
			o.Running++
		default:
			o.Waiting++
		}
	}
	return o
}
