package journal

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// longestDeadline is the longest from an action's admission to its starting deadline.
const longestDeadline = 90 * 24 * time.Hour

// Genuine tells whether an order was signed by whoever may, and says what it asks for.
type Genuine func(*agentv1.Envelope) (*orders.Action, error)

// Load reads the journal. A record that is damaged is set aside, and its action is lost: nobody knows whether it was done. What it was about is
// known where the order in it is genuine all the same.
func Load(dir *state.Dir, genuine Genuine, now time.Time) (*Journal, error) {
	j := &Journal{dir: dir, all: map[string]*Entry{}}
	uids, err := dir.Actions()
	if err != nil {
		return nil, err
	}
	for _, uid := range uids {
		r, err := dir.Action(uid)
		switch {
		case errors.Is(err, fs.ErrPermission): // a person's mistake, which a person puts right
			return nil, err
		case err != nil:
			j.salvage(uid, r, err, genuine, now)
		default:
			j.take(uid, r, genuine, now)
		}
	}
	slices.SortFunc(j.open, func(a, b *Entry) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.UID, b.UID)) })
	return j, nil
}

// take takes up a record that was well written.
func (j *Journal) take(uid string, r *statev1.JournalRecord, genuine Genuine, now time.Time) {
	e, err := restore(uid, r)
	if err != nil {
		j.salvage(uid, r, err, genuine, now)
		return
	}
	j.add(e)
}

// record is what is written of an entry.
func (e *Entry) record() *statev1.JournalRecord {
	r := &statev1.JournalRecord{
		State: e.State, Cancel: e.cancel, Intent: e.Intent, Result: e.Result,
		ExpiresAt: timestamp(e.expiresAt), ChangedAt: timestamp(e.changedAt), StartedAt: timestamp(e.StartedAt),
	}
	if e.Action != nil {
		r.Order = e.Action.Envelope
	}
	return r
}

// restore is the entry of a record.
func restore(uid string, r *statev1.JournalRecord) (*Entry, error) {
	e := &Entry{
		UID: uid, State: r.GetState(), StartedAt: moment(r.GetStartedAt()), Intent: r.GetIntent(), Cancelled: r.GetCancel() != nil, Result: r.GetResult(),
		cancel: r.GetCancel(), since: moment(r.GetChangedAt()), expiresAt: moment(r.GetExpiresAt()), changedAt: moment(r.GetChangedAt()),
	}
	if r.GetOrder() != nil {
		a, err := orders.ParseAction(r.GetOrder())
		if err != nil || a.Order.GetActionUid() != uid {
			return nil, errors.New("its order is not of this action")
		}
		e.Action, e.since = a, a.IssuedAt()
	}
	switch {
	case e.State == Started:
		e.Lost = e.Action == nil
	case e.State == Received && e.Action != nil, e.State == Finished && e.Result != nil:
	case e.State == Settled && e.Result != nil:
		e.shrink()
	default:
		return nil, errors.New("it says nothing of use")
	}
	return e, nil
}

// shrink forgets what is on the disk and hardly asked for any more.
func (e *Entry) shrink() { e.Action, e.Intent, e.Result, e.cancel = nil, nil, nil, nil }

// salvage takes up a damaged record. One that does not tell what it was about is replaced, so that it is dropped some day: until that is on the
// disk the damaged one stands for it. Nothing else is written before the action has ended: it would look as if it were merely interrupted.
func (j *Journal) salvage(uid string, r *statev1.JournalRecord, why error, genuine Genuine, now time.Time) {
	e := &Entry{UID: uid, State: Started, Lost: true, since: now, expiresAt: now.Add(longestDeadline), changedAt: now}
	j.dir.SetActionAside(uid, why)
	j.add(e)
	if r.GetOrder() != nil {
		if a, err := genuine(r.GetOrder()); err == nil && a.Order.GetActionUid() == uid {
			j.Learn(e, a)
			return
		}
	}
	_ = j.dir.SaveAction(uid, e.record(), false)
}

// identity that an entry is for, "" if that is not known.
func (e *Entry) identity() string {
	r := &agentv1.ActionResult{}
	switch {
	case e.Action != nil:
		return e.Action.Order.GetIdentityId()
	case e.Result != nil && envelope.Parse(e.Result, r) == nil:
		return r.GetIdentityId()
	}
	return ""
}

func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
