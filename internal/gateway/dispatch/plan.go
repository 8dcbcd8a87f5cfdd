package dispatch

import (
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// What an agent is sent, and what is written of it without its asking, is decided here. Nothing in this file reads a clock or reaches for anything.

const (
	// maxOpen is how many actions an endpoint may have that were sent and have not ended.
	maxOpen = 32
	// underWay is how long an order may be on its way to an agent that sends a heartbeat meanwhile.
	underWay = 2 * time.Second
	// progressPace is the least time between two writes of an action's progress. The table has the same.
	progressPace = 30 * time.Second
)

// view is all that matters for what an agent is to be sent.
type view struct {
	Timing
	now      time.Time
	endpoint store.Endpoint
	journal  journal
	gateway  string
	// channel of the line; empty: there is none.
	channel v1alpha1.Channel
	// contact is when the newest heartbeat came on it.
	contact time.Time
	actions map[string]memory
}

// plan is what to do now.
type plan struct {
	// send are to be written as sent, and then sent (row 8); repeat are sent again (row 9), and the orders to cancel those of cancel are sent (row 17).
	send, repeat, cancel []*v1alpha1.EndpointAction
	// progress are written as running, or how far they are (rows 10 and 11), missing as such (row 19).
	progress, missing []*v1alpha1.EndpointAction
	// again is when to decide again, even if nothing happens; zero: never.
	again time.Time
}

// decide by the open actions of an identity, in the order in which they were admitted.
func decide(open []*v1alpha1.EndpointAction, v view) (p plan) {
	sent := 0
	for _, a := range open {
		if wasSent(a) {
			sent++
		}
	}
	for _, a := range open {
		switch {
		case !v.isFor(a):
		case wasSent(a):
			v.follow(a, &p)
		case sent < maxOpen && v.sends(a):
			p.send = append(p.send, a)
			sent++
		}
	}
	return p
}

func wasSent(a *v1alpha1.EndpointAction) bool { return a.Status.Delivery != nil }

// isFor tells whether an action that was admitted for the identity names its endpoint, too.
func (v *view) isFor(a *v1alpha1.EndpointAction) bool {
	return a.Namespace == v.endpoint.Namespace && string(a.Spec.EndpointName) == v.endpoint.Name
}

// sends tells whether an action may be sent for the first time.
func (v *view) sends(a *v1alpha1.EndpointAction) bool {
	if v.channel == "" || !v.journal.known() {
		return false
	}
	_, row, err := action.Next(a, v.sending())
	return err == nil && row == rowSent
}

// sending is the event of row 8.
func (v *view) sending() action.Send {
	return action.Send{
		Now: v.now, Channel: v.channel, Gateway: v.gateway, JournalID: v.journal.String(),
		Endpoint: &action.Endpoint{
			IdentityID: v.endpoint.IdentityID, Lifecycle: v.endpoint.Lifecycle, Conflict: v.conflict(),
			JournalID: v.journal.String(), JournalTime: time.Unix(0, v.journal.made).UTC(),
		},
	}
}

// conflict: two machines use the identity.
func (v *view) conflict() bool { return v.endpoint.Connection.ConflictInstance != "" }

// follow is for an action that was sent, by whichever gateway.
func (v *view) follow(a *v1alpha1.EndpointAction, p *plan) {
	m := v.actions[string(a.UID)]
	if v.isMissing(a, m) {
		p.missing = append(p.missing, a)
	}
	if at := v.progressDue(a, m); !at.IsZero() && p.due(at, v.now) {
		p.progress = append(p.progress, a)
	}
	if v.channel == "" {
		return
	}
	switch order, cancellation := action.Repeats(a, v.sending()); {
	case cancellation && (m.cancelled.IsZero() || v.contact.After(m.cancelled)):
		p.cancel = append(p.cancel, a)
	case order && !m.has && !m.ended && p.due(v.repeatDue(m), v.now):
		p.repeat = append(p.repeat, a)
	}
}

// isMissing tells whether the agent said that it has an action, and does not know it any more. Of another journal, or of two machines, nobody
// expects that it does.
func (v *view) isMissing(a *v1alpha1.EndpointAction, m memory) bool {
	return m.misses >= enoughMisses && acknowledged(a) && a.Status.Delivery.MissingTime == nil &&
		a.Status.Delivery.JournalID == v.journal.String() && !v.conflict()
}

// repeatDue is when an order is to be sent again that the agent may lack.
func (v *view) repeatDue(m memory) time.Time {
	if m.sent.IsZero() || v.contact.Sub(m.sent) >= underWay { // the heartbeat does not list it
		return v.now
	}
	return m.sent.Add(v.Repeat)
}

// progressDue is when the progress of an action is to be written; zero: there is nothing to write.
func (v *view) progressDue(a *v1alpha1.EndpointAction, m memory) time.Time {
	switch {
	case m.runs.IsZero() || m.ended:
	case a.Status.Phase == v1alpha1.ActionSent:
		return m.runs.Add(v.RunningAfter)
	case a.Status.Phase == v1alpha1.ActionRunning && (m.percent > 0 || m.message != ""):
		return latest(m.runs, m.wrote).Add(progressPace)
	}
	return time.Time{}
}

// due tells whether a time has come; if not, it is waited for.
func (p *plan) due(at, now time.Time) bool {
	if !at.After(now) {
		return true
	}
	p.again = sooner(p.again, at)
	return false
}

// sooner of two times, of which zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) && !b.IsZero() {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
