// Package journal remembers which actions an agent was given and how far each has come, so that none is begun twice and the fate of each is
// told. What it says is on the disk before it says it: an action before it is acknowledged, that it begins before it does, and its result
// before that is sent.
//
//	RECEIVED ─▶ STARTED ─▶ FINISHED ─▶ SETTLED ─▶ dropped
//
// A refused action, and one whose cancel came first, begin as FINISHED.
package journal

import (
	"fmt"
	"slices"
	"time"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
)

const (
	// MaxOpen is how many actions may be open, not settled; then no more are taken.
	MaxOpen = 256
	// KeepSettled actions are kept, and those that were settled within KeepFor, after their starting deadline has passed.
	KeepSettled = 1000
	// KeepFor is described with KeepSettled.
	KeepFor = 30 * 24 * time.Hour
	// MaxIntent is the longest note of an executor, in bytes.
	MaxIntent = 64 << 10
)

// States of an entry, by their short names.
const (
	Received = statev1.JournalState_JOURNAL_STATE_RECEIVED
	Started  = statev1.JournalState_JOURNAL_STATE_STARTED
	Finished = statev1.JournalState_JOURNAL_STATE_FINISHED
	Settled  = statev1.JournalState_JOURNAL_STATE_SETTLED
)

// Entry is an action in the journal. Others read it; the Journal alone changes it.
type Entry struct {
	UID   string
	State statev1.JournalState
	// Action is nil where only the cancel came, where the record was damaged, and once it is settled.
	Action *orders.Action
	// StartedAt is when it began, by the signed time.
	StartedAt time.Time
	// Intent is what the executor noted. Cancelled says that the action was to stop.
	Intent    []byte
	Cancelled bool
	// Result is the payload of the result; once settled it is on the disk alone.
	Result []byte
	// Lost says that the record was damaged: whether the action was done is not known. Without an Action, what it was about is not either.
	Lost bool

	cancel               *agentv1.Envelope
	since                time.Time // its order was issued
	expiresAt, changedAt time.Time
	unwritten            *change
}

// change is one that the disk did not take.
type change struct {
	result []byte
	at     time.Time
}

// Phase is the state as the protocol tells it.
func (e *Entry) Phase() agentv1.ActionPhase {
	switch e.State {
	case Received:
		return agentv1.ActionPhase_ACTION_PHASE_ACKNOWLEDGED
	case Started:
		return agentv1.ActionPhase_ACTION_PHASE_RUNNING
	default:
		return agentv1.ActionPhase_ACTION_PHASE_FINISHED
	}
}

// Ended tells whether the action has, although that may not be on the disk yet.
func (e *Entry) Ended() bool { return e.State >= Finished || e.unwritten != nil }

// ExpiresAt is from when on the action is not begun.
func (e *Entry) ExpiresAt() time.Time { return e.expiresAt }

// Journal is for one goroutine. An error of its methods is the disk's, and nothing has changed then, unless they say otherwise.
type Journal struct {
	dir  *state.Dir
	all  map[string]*Entry
	open []*Entry // not settled, oldest first
}

// Find is the entry of an action, nil if it is not known.
func (j *Journal) Find(uid string) *Entry { return j.all[uid] }

// Open are the entries that are not settled, oldest first.
func (j *Journal) Open() []*Entry { return j.open }

// Full tells whether no more actions may be taken.
func (j *Journal) Full() bool { return len(j.open) >= MaxOpen }

// Floor is when the newest action on a topic was issued that was accepted and is not settled.
func (j *Journal) Floor(topic orders.Topic) (floor time.Time) {
	for _, e := range j.open {
		accepted := e.State == Received || e.State == Started || !e.StartedAt.IsZero()
		if e.Action != nil && e.Action.Topic == topic && accepted && e.Action.IssuedAt().After(floor) {
			floor = e.Action.IssuedAt()
		}
	}
	return floor
}

// Receive takes an action that was accepted. It is to be acknowledged, or begun, only without an error.
func (j *Journal) Receive(a *orders.Action, now time.Time) error {
	return j.insert(&Entry{UID: a.Order.GetActionUid(), State: Received, Action: a, since: a.IssuedAt(), expiresAt: a.ExpiresAt()}, now)
}

// Refuse takes an action that was refused, with the result that says so.
func (j *Journal) Refuse(a *orders.Action, result []byte, now time.Time) error {
	return j.insert(&Entry{UID: a.Order.GetActionUid(), State: Finished, Action: a, Result: result, since: a.IssuedAt(), expiresAt: a.ExpiresAt()}, now)
}

// TakeBack takes the cancel of an action that did not come, so that it is not begun when it does, with the result that says so.
func (j *Journal) TakeBack(c *agentv1.Cancel, cancel *agentv1.Envelope, result []byte, now time.Time) error {
	return j.insert(&Entry{
		UID: c.GetActionUid(), State: Finished, Result: result, Cancelled: true, cancel: cancel,
		since: c.GetActionIssuedAt().AsTime(), expiresAt: c.GetExpiresAt().AsTime(),
	}, now)
}

func (j *Journal) insert(e *Entry, now time.Time) error {
	e.changedAt = now
	if err := j.dir.SaveAction(e.UID, e.record(), true); err != nil {
		return err
	}
	j.add(e)
	return nil
}

// Start says that an action begins. It may only begin without an error.
func (j *Journal) Start(e *Entry, now time.Time) error {
	return j.save(e, now, func(next *Entry) { next.State, next.StartedAt = Started, now })
}

// Note keeps what an executor noted.
func (j *Journal) Note(e *Entry, intent []byte) error {
	if len(intent) > MaxIntent {
		return fmt.Errorf("a note has at most %d bytes, this one %d", MaxIntent, len(intent))
	}
	return j.save(e, e.changedAt, func(next *Entry) { next.Intent = intent })
}

// Cancel keeps that an action which has begun is to stop.
func (j *Journal) Cancel(e *Entry, cancel *agentv1.Envelope) error {
	return j.save(e, e.changedAt, func(next *Entry) { next.Cancelled, next.cancel = true, cancel })
}

// Learn says what a lost entry was about: its order came again. Finish writes that: on the disk it stays lost until it has ended.
func (j *Journal) Learn(e *Entry, a *orders.Action) {
	e.Action, e.since, e.expiresAt = a, a.IssuedAt(), a.ExpiresAt()
}

// Finish ends an action. With an error it has ended all the same, and must not be begun again, but its result may not be sent: Retry writes it.
func (j *Journal) Finish(e *Entry, result []byte, now time.Time) error {
	e.unwritten = &change{result, now}
	return j.finish(e)
}

func (j *Journal) finish(e *Entry) error {
	c := e.unwritten
	return j.save(e, c.at, func(next *Entry) { next.State, next.Result, next.Lost, next.unwritten = Finished, c.result, false, nil })
}

// Retry writes a result that could not be written, and returns the entry; nil if there is none.
func (j *Journal) Retry() (*Entry, error) {
	for _, e := range j.open {
		if e.unwritten != nil {
			return e, j.finish(e)
		}
	}
	return nil, nil
}

// Settle says that the server has the result.
func (j *Journal) Settle(e *Entry, now time.Time) error {
	if err := j.save(e, now, func(next *Entry) { next.State = Settled }); err != nil {
		return err
	}
	e.shrink()
	j.open = slices.DeleteFunc(j.open, func(o *Entry) bool { return o == e })
	return nil
}

// Result is the payload of a result, also of a settled action.
func (j *Journal) Result(e *Entry) ([]byte, error) {
	if e.State != Settled {
		return e.Result, nil
	}
	r, err := j.dir.Action(e.UID)
	return r.GetResult(), err
}

// save writes what an entry is to become, and then it is that.
func (j *Journal) save(e *Entry, at time.Time, become func(next *Entry)) error {
	next := *e
	become(&next)
	next.changedAt = at
	if err := j.dir.SaveAction(e.UID, next.record(), false); err != nil {
		return err
	}
	*e = next
	return nil
}

func (j *Journal) add(e *Entry) {
	j.all[e.UID] = e
	if e.State != Settled {
		j.open = append(j.open, e)
	}
}

// drop forgets actions, on the disk first.
func (j *Journal) drop(entries []*Entry) error {
	for _, e := range entries {
		if err := j.dir.DropActions(e.UID); err != nil {
			return err
		}
		delete(j.all, e.UID)
	}
	j.open = slices.DeleteFunc(j.open, func(e *Entry) bool { return j.all[e.UID] != e })
	return nil
}

// Keep drops what was meant for another identity than this one: this machine has enrolled anew, and no order to its predecessor verifies.
func (j *Journal) Keep(identityID string) error {
	var others []*Entry
	for _, e := range j.open {
		if id := e.identity(); id != "" && id != identityID {
			others = append(others, e)
		}
	}
	return j.drop(others)
}

// Prune drops settled actions that nobody asks for any more: floor, the time floor on the disk, has passed their starting deadline, so that
// they could not begin again, and they were settled long ago or are not among the newest.
func (j *Journal) Prune(floor, now time.Time) error {
	if len(j.all) == len(j.open) {
		return nil
	}
	var settled []*Entry
	for _, e := range j.all {
		if e.State == Settled || e.Lost && e.Action == nil {
			settled = append(settled, e)
		}
	}
	slices.SortFunc(settled, func(a, b *Entry) int { return b.changedAt.Compare(a.changedAt) })
	i := 0
	return j.drop(slices.DeleteFunc(settled, func(e *Entry) bool {
		i++
		return e.expiresAt.After(floor) || i <= KeepSettled && now.Sub(e.changedAt) < KeepFor
	}))
}
