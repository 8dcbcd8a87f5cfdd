package orders

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Reasons for which an action or its cancel leaves no record and gets no result, beside those of every order.
const (
	// OlderThanJournal: it was issued before this journal was made; whether it was done is not known here.
	OlderThanJournal = "OlderThanJournal"
	// TimeUnknown: no beacon has come since the journal was made, so that nothing can be older than it.
	TimeUnknown = "TimeUnknown"
	// JournalFull: there is no room for the record. It is sent again.
	JournalFull = "JournalFull"
)

// Reasons of results with the outcome REFUSED.
const (
	PastDeadline     = "PastDeadline"
	Unsupported      = "Unsupported"
	DisabledByPolicy = "DisabledByPolicy"
	// Superseded is above: a newer one on the same topic was accepted.
)

// Topic is what an action is about where a later one takes back an earlier one.
type Topic int

// Topics.
const (
	NoTopic Topic = iota
	Isolation
	Proxy
)

// Action is one that an agent was sent. ParseAction makes it, Book.Action only if it is to be believed.
type Action struct {
	Envelope *agentv1.Envelope
	Order    *agentv1.Action
	// Digest is the SHA-256 of the payload, in hexadecimal.
	Digest string
	// Type as capabilities and policies name it; empty if this version does not know the parameters.
	Type  string
	Topic Topic
	// unfit is why the action cannot be judged or done although it is known whom it is for.
	unfit error
}

// IssuedAt is when it was signed.
func (a *Action) IssuedAt() time.Time { return a.Order.GetIssuedAt().AsTime() }

// ExpiresAt is from when on it is not begun.
func (a *Action) ExpiresAt() time.Time { return a.Order.GetExpiresAt().AsTime() }

// ParseAction reads an action that was verified before. What it asks for may still be more than this version understands: Judge says so.
func ParseAction(e *agentv1.Envelope) (*Action, error) {
	m := &agentv1.Action{}
	if err := envelope.Parse(e.GetPayload(), m); err != nil {
		return nil, err
	}
	if err := wire.CheckActionHead(m); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(e.GetPayload())
	a := &Action{Envelope: e, Order: m, Digest: hex.EncodeToString(sum[:]), unfit: wire.CheckAction(m)}
	r := m.ProtoReflect()
	if field := r.WhichOneof(r.Descriptor().Oneofs().ByName("parameters")); field != nil {
		a.Type = string(field.Message().Name()) // the messages of the protocol are called as the types of actions are
	}
	switch m.GetParameters().(type) {
	case *agentv1.Action_IsolateEndpoint, *agentv1.Action_CancelIsolation:
		a.Topic = Isolation
	case *agentv1.Action_SetEndpointProxy, *agentv1.Action_DisableEndpointProxy:
		a.Topic = Proxy
	}
	return a, nil
}

// Action verifies an action: who signed it, and whom it is for. The error is a *Refusal; such an action leaves no record and gets no result.
func (b *Book) Action(e *agentv1.Envelope) (*Action, error) {
	refuse := func(reason string) (*Action, error) { return nil, &Refusal{"action", reason} }
	if err := verify(e, envelope.Action, b.Trust.Orders); err != nil {
		return refuse(err.Error())
	}
	a, err := ParseAction(e)
	switch {
	case err != nil:
		return refuse(Malformed)
	case a.Order.GetFleetId() != b.Trust.FleetID:
		return refuse(OtherFleet)
	case a.Order.GetIdentityId() != b.IdentityID:
		return refuse(OtherIdentity)
	}
	return a, nil
}

// Cancel verifies a cancel, likewise.
func (b *Book) Cancel(e *agentv1.Envelope) (*agentv1.Cancel, error) {
	m := &agentv1.Cancel{}
	refuse := func(reason string) (*agentv1.Cancel, error) { return nil, &Refusal{"cancel", reason} }
	if err := open(e, envelope.Cancel, m, b.Trust.Orders, func() error { return wire.CheckCancel(m) }); err != nil {
		return refuse(err.Error())
	}
	switch {
	case m.GetFleetId() != b.Trust.FleetID:
		return refuse(OtherFleet)
	case m.GetIdentityId() != b.IdentityID:
		return refuse(OtherIdentity)
	}
	return m, nil
}

// Journal is what is known of it before an action is judged.
type Journal struct {
	// CreatedAt by the signed time; zero until that is known.
	CreatedAt time.Time
	Full      bool
}

// Takes tells whether the journal may take what was issued at a moment. The error is a *Refusal of the kind.
func (j Journal) Takes(kind string, issuedAt time.Time) error {
	switch {
	case j.CreatedAt.IsZero():
		return &Refusal{kind, TimeUnknown}
	case issuedAt.Before(j.CreatedAt):
		return &Refusal{kind, OlderThanJournal}
	case j.Full:
		return &Refusal{kind, JournalFull}
	}
	return nil
}

// Standing is what an action is judged by, before it is accepted and again before it begins.
type Standing struct {
	// Now by the signed time; before the first beacon, what it is at least.
	Now time.Time
	// Capabilities of this agent; Disabled are the types that the policy refuses.
	Capabilities, Disabled []string
	// Floor is when the newest action on the same topic that was accepted was issued.
	Floor time.Time
}

// Verdict is why an action is refused, with a result that says so; the zero value accepts it.
type Verdict struct{ Reason, Message string }

// Judge decides whether an action may begin. accepted says that it was accepted before, so that the floor may be its own.
func (a *Action) Judge(s Standing, accepted bool) Verdict {
	superseded := a.IssuedAt().Before(s.Floor) || a.IssuedAt().Equal(s.Floor) && !accepted
	missing := slices.IndexFunc(a.Order.GetRequires(), func(name string) bool { return !slices.Contains(s.Capabilities, name) })
	switch {
	case !s.Now.Before(a.ExpiresAt()):
		return Verdict{PastDeadline, fmt.Sprintf("its starting deadline, %s, had passed", a.ExpiresAt().UTC().Format(time.RFC3339))}
	case a.Type == "":
		return Verdict{Unsupported, "this version of the agent does not know what is asked for"}
	case missing >= 0:
		return Verdict{Unsupported, "it needs " + a.Order.GetRequires()[missing] + ", which this agent has not"}
	case !slices.Contains(s.Capabilities, a.Type):
		return Verdict{Unsupported, "this agent cannot do " + a.Type}
	case a.unfit != nil:
		return Verdict{Unsupported, "this version of the agent does not understand what is asked for: " + a.unfit.Error()}
	case slices.Contains(s.Disabled, a.Type):
		return Verdict{DisabledByPolicy, "the endpoint's policy disables " + a.Type}
	case a.Topic != NoTopic && superseded:
		return Verdict{Superseded, "a newer action on the same thing was accepted before"}
	}
	return Verdict{}
}
