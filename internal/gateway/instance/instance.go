// Package instance decides which of an agent's starts an identity belongs to: it tells a restart from a late packet, and both from a machine
// that was cloned. It is pure.
package instance

import (
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// Verdict on a contact.
type Verdict int

const (
	// Current is the instance that is recorded.
	Current Verdict = iota
	// Newer takes over.
	Newer
	// Late is a packet of an instance, or of a session of it, that another has taken over from or that is over. It is answered with
	// session-replaced.
	Late
	// Conflicting says that two machines use the identity, and that this is not the one that is recorded. It is answered with identity-conflict.
	Conflicting
)

// Contact is one message of an agent. On a session its Session is that session's number; over HTTPS, that of the last attempt at one that is
// over: an agent that says so of a session that is recorded as up knows better.
type Contact struct {
	store.Instance
	// Gateway has the session; empty over HTTPS.
	Gateway string
	At      time.Time
}

// late tells whether another session of the same instance has taken over, or the contact's session is over.
func (in Contact) late(c store.Connection) bool {
	switch {
	case in.Epoch != c.Epoch:
		return in.Epoch < c.Epoch
	case in.Session != c.Session:
		return in.Session < c.Session
	case in.Gateway == "":
		return false
	}
	elsewhere := c.Channel == v1alpha1.ChannelWebSocket && c.Gateway != in.Gateway
	return elsewhere || c.Channel == v1alpha1.ChannelHeartbeat // which the agent said once this session was over
}

// Judge decides about a contact by what is recorded, and says what is to be recorded then. grace is how long after a takeover the one before
// may still be heard of, as packets that were under way.
//
//   - A higher epoch, or the same instance with a higher session number, takes over.
//   - The same instance with a lower session number, or a lower epoch within grace, is late. So is a session that another gateway has, or that
//     the agent has said is over.
//   - Another instance of the same epoch (a fork), or a lower epoch after grace (a machine that was set back), is a conflict. It is recorded, and
//     no order is given to anybody until a machine enrols again or a person accepts an instance.
//   - In a conflict the accepted instance takes over at its next contact, whatever its epoch, and ends it. Then the others of its epoch and before
//     stay refused, and so does the one that it took over from; nothing is recorded again.
//
// What was recorded before the endpoint's enrolment is of another machine, or of another life of this one, and counts for nothing.
func Judge(e store.Endpoint, in Contact, grace time.Duration) (Verdict, store.Connection) {
	c := e.Connection
	settled := e.AcceptInstance != "" && e.AcceptInstance == c.ID
	displaced := in.ID == c.PreviousInstance
	switch {
	case c.ID == "" || c.InstanceTime.Before(e.EnrolledTime):
		c.PreviousInstance, c.ConflictInstance, c.ConflictReason = "", "", ""
		return Newer, begin(c, in, e.EnrolledTime)
	case in.ID == c.ID:
		if in.late(c) {
			return Late, c
		}
		c.Instance = in.Instance
		if settled {
			c.ConflictInstance, c.ConflictReason = "", ""
		}
		return Current, c
	case in.ID == e.AcceptInstance && c.ConflictInstance != "":
		c.PreviousInstance, c.ConflictInstance, c.ConflictReason = c.ID, "", ""
		return Newer, begin(c, in, e.EnrolledTime)
	case in.Epoch > c.Epoch && (!settled || !displaced):
		c.PreviousInstance = c.ID // a conflict outlasts a restart of one of the two
		return Newer, begin(c, in, e.EnrolledTime)
	case settled:
		return Conflicting, c
	case (in.Epoch < c.Epoch || displaced) && in.At.Sub(c.InstanceTime) <= grace:
		return Late, c
	}
	if c.ConflictInstance == "" {
		c.ConflictInstance, c.ConflictReason = in.ID, v1alpha1.ConflictForked
		if in.Epoch < c.Epoch || displaced {
			c.ConflictReason = v1alpha1.ConflictRolledBack
		}
	}
	return Conflicting, c
}

// begin records a new instance. Its time is not before the enrolment, whichever clock said that.
func begin(c store.Connection, in Contact, enrolled time.Time) store.Connection {
	c.Instance, c.InstanceTime = in.Instance, in.At
	if c.InstanceTime.Before(enrolled) {
		c.InstanceTime = enrolled
	}
	return c
}
