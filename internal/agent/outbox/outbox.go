// Package outbox decides what is told of actions and when: each phase once, a result again and again until the server has it. It is pure: times
// are passed in, since boot, and random values in [0,1).
package outbox

import (
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
)

// Phases that are told.
const (
	Acknowledged = agentv1.ActionPhase_ACTION_PHASE_ACKNOWLEDGED
	Running      = agentv1.ActionPhase_ACTION_PHASE_RUNNING
	Finished     = agentv1.ActionPhase_ACTION_PHASE_FINISHED
)

// Update is something to tell of an action.
type Update struct {
	UID   string
	Phase agentv1.ActionPhase
	// Percent and Message are how far it is, while it is Running.
	Percent uint32
	Message string
}

// Box has what is to be told. The zero value is empty.
type Box struct {
	// Repeat is how long after a result it is told again, ± 20 %. Progress is how long from one to the next.
	Repeat, Progress time.Duration
	items            map[string]*item
}

type item struct {
	Update
	due time.Duration
	// once: it is told and not waited for: the server has it, or had it.
	once bool
	// ran is when it was last told that it runs; 0 for never.
	ran time.Duration
}

// Tell puts what an action has come to in the place of what it was before. A result is told until it is Settled; anything else, and a result
// that is told once only, until it was Sent.
func (b *Box) Tell(u Update, at time.Duration, once bool) {
	if b.items == nil {
		b.items = map[string]*item{}
	}
	old := b.items[u.UID]
	next := &item{Update: u, due: at, once: once || u.Phase != Finished}
	if old != nil {
		next.ran = old.ran
	}
	if u.Phase == Running && next.ran != 0 {
		next.due = max(at, next.ran+b.Progress)
	}
	b.items[u.UID] = next
}

// Due is what has waited longest of what is due; ok is false if nothing is.
func (b *Box) Due(now time.Duration) (u Update, ok bool) {
	var first *item
	for _, i := range b.items {
		if i.due <= now && (first == nil || i.due < first.due || i.due == first.due && i.UID < first.UID) {
			first = i
		}
	}
	if first == nil {
		return Update{}, false
	}
	return first.Update, true
}

// Next is when something is due.
func (b *Box) Next() time.Duration {
	next := session.Never
	for _, i := range b.items {
		next = min(next, i.due)
	}
	return next
}

// Sent says that an update was.
func (b *Box) Sent(u Update, now time.Duration, random float64) {
	i := b.items[u.UID]
	switch {
	case i == nil || i.Phase != u.Phase:
	case u.Phase == Finished && !i.once:
		i.due = now + session.Jitter(b.Repeat, 0.2, random)
	case u.Phase == Running:
		i.ran, i.due = now, session.Never
	default:
		delete(b.items, u.UID)
	}
}

// Refused says that the server did not take a result, and for how long it is not told again at least.
func (b *Box) Refused(uid string, now, wait time.Duration) {
	if i := b.items[uid]; i != nil && i.due != session.Never {
		i.due = max(i.due, now+wait)
	}
}

// Settled says that there is nothing more to tell of an action.
func (b *Box) Settled(uid string) { delete(b.items, uid) }

// Again makes results due now: what was sent on a connection that is gone may not have come.
func (b *Box) Again(now time.Duration) {
	for _, i := range b.items {
		if i.Phase == Finished {
			i.due = min(i.due, now)
		}
	}
}
