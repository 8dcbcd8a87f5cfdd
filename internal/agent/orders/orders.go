// Package orders decides which signed orders an agent obeys: trust, beacon, assignment, policy, action, cancel, offer. It is pure: orders and what is
// known go in, a decision comes out.
package orders

import (
	"crypto"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// MaxPolicies is how many policies are kept: the one in use, and some that were, for when an assignment goes back and forth.
const MaxPolicies = 4

// Refusal is why an order is not obeyed: the kind and a reason in CamelCase, short enough for a heartbeat.
type Refusal struct {
	Kind   string
	Reason string
}

func (r *Refusal) Error() string { return r.Kind + ": " + r.Reason }

// Reasons of refusals.
const (
	// SignatureInvalid: no key that may sign orders now made the signature. The trust may be old: judge again after asking for a newer one.
	SignatureInvalid = "SignatureInvalid"
	Malformed        = "Malformed"
	OtherFleet       = "OtherFleet"
	OtherIdentity    = "OtherIdentity"
	OtherPolicy      = "OtherPolicy"
	Superseded       = "Superseded"
)

// IsUnsigned tells whether err is a refusal for want of a good signature.
func IsUnsigned(err error) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && r.Reason == SignatureInvalid
}

// Book is what an agent was told: its trust, and the newest assignment and policies.
type Book struct {
	Trust      *identity.Trust
	IdentityID string

	assignment Signed[*agentv1.Assignment]
	policies   []Signed[*agentv1.Policy] // the one in use last
	offers     []Signed[*agentv1.Offer]  // the one with the highest sequence last
}

// Signed is an order and what it says.
type Signed[M proto.Message] struct {
	Envelope *agentv1.Envelope
	Order    M
}

// Restore takes up what was kept on disk. It was verified when it came; a key that has signed it may be retired since.
func (b *Book) Restore(assignment *agentv1.Envelope, policies []*agentv1.Envelope) {
	a := &agentv1.Assignment{}
	if assignment != nil && envelope.Parse(assignment.GetPayload(), a) == nil {
		b.assignment = Signed[*agentv1.Assignment]{assignment, a}
	}
	for _, e := range policies {
		p := &agentv1.Policy{}
		if envelope.Parse(e.GetPayload(), p) == nil {
			b.policies = append(b.policies, Signed[*agentv1.Policy]{e, p})
		}
	}
}

// Kept is what Restore takes.
func (b *Book) Kept() (assignment *agentv1.Envelope, policies []*agentv1.Envelope) {
	for _, p := range b.policies {
		policies = append(policies, p.Envelope)
	}
	return b.assignment.Envelope, policies
}

// Beacon verifies a beacon. The error is a *Refusal.
func (b *Book) Beacon(e *agentv1.Envelope) (*agentv1.Beacon, error) {
	m := &agentv1.Beacon{}
	if err := open(e, envelope.Beacon, m, b.Trust.Orders, func() error { return wire.CheckBeacon(m) }); err != nil {
		return nil, &Refusal{"beacon", err.Error()}
	}
	if m.GetFleetId() != b.Trust.FleetID {
		return nil, &Refusal{"beacon", OtherFleet}
	}
	return m, nil
}

// Obey judges an order and takes it up. It returns the time that the order was issued, and whether anything changed. An order of a kind
// that this version does not know is ignored. The error is a *Refusal.
func (b *Book) Obey(e *agentv1.Envelope) (issuedAt time.Time, changed bool, err error) {
	switch envelope.Type(e.GetPayloadType()) {
	case envelope.Assignment:
		return b.assign(e)
	case envelope.Policy:
		return b.setPolicy(e)
	default:
		return time.Time{}, false, nil
	}
}

func (b *Book) assign(e *agentv1.Envelope) (time.Time, bool, error) {
	refuse := func(reason string) (time.Time, bool, error) {
		return time.Time{}, false, &Refusal{"assignment", reason}
	}
	m := &agentv1.Assignment{}
	if err := open(e, envelope.Assignment, m, b.Trust.Orders, func() error { return wire.CheckAssignment(m) }); err != nil {
		return refuse(err.Error())
	}
	issued := m.GetIssuedAt().AsTime()
	switch own := b.AssignedAt(); {
	case m.GetFleetId() != b.Trust.FleetID:
		return refuse(OtherFleet)
	case m.GetIdentityId() != b.IdentityID:
		return refuse(OtherIdentity)
	case issued.Equal(own):
		return issued, false, nil
	case issued.Before(own):
		return refuse(Superseded)
	}
	if own := b.Namespace(); own != "" && own != m.GetNamespace() {
		b.offers = nil // sequences are a namespace's own
	}
	b.assignment = Signed[*agentv1.Assignment]{e, m}
	b.use(m.GetPolicyId())
	return issued, true, nil
}

func (b *Book) setPolicy(e *agentv1.Envelope) (time.Time, bool, error) {
	refuse := func(reason string) (time.Time, bool, error) { return time.Time{}, false, &Refusal{"policy", reason} }
	m := &agentv1.Policy{}
	if err := open(e, envelope.Policy, m, b.Trust.Orders, func() error { return wire.CheckPolicy(m) }); err != nil {
		return refuse(err.Error())
	}
	i := b.find(m.GetPolicyId())
	switch {
	case m.GetFleetId() != b.Trust.FleetID:
		return refuse(OtherFleet)
	case m.GetPolicyId() != b.assignment.Order.GetPolicyId():
		return refuse(OtherPolicy)
	case i >= 0 && m.GetRevision() == b.policies[i].Order.GetRevision():
		return m.GetIssuedAt().AsTime(), false, nil
	case i >= 0 && m.GetRevision() < b.policies[i].Order.GetRevision():
		return refuse(Superseded)
	case i >= 0:
		b.policies = slices.Delete(b.policies, i, i+1)
	case len(b.policies) == MaxPolicies:
		b.policies = slices.Delete(b.policies, 0, 1)
	}
	b.policies = append(b.policies, Signed[*agentv1.Policy]{e, m})
	return m.GetIssuedAt().AsTime(), true, nil
}

// use puts a policy that is at hand last.
func (b *Book) use(policyID string) {
	if i := b.find(policyID); i >= 0 {
		p := b.policies[i]
		b.policies = append(slices.Delete(b.policies, i, i+1), p)
	}
}

func (b *Book) find(policyID string) int {
	return slices.IndexFunc(b.policies, func(p Signed[*agentv1.Policy]) bool { return p.Order.GetPolicyId() == policyID })
}

// Policy is the one to obey, nil for the built-in defaults: the assigned one; until that has come, the one obeyed before, so that nobody can
// loosen a policy by holding its successor back.
func (b *Book) Policy() *agentv1.Policy {
	if b.assignment.Order.GetPolicyId() == "" || len(b.policies) == 0 {
		return nil
	}
	return b.policies[len(b.policies)-1].Order
}

// Complete tells whether an assignment has come, and the policy that it names.
func (b *Book) Complete() bool {
	return b.assignment.Order != nil && (b.assignment.Order.GetPolicyId() == "" || b.find(b.assignment.Order.GetPolicyId()) >= 0)
}

// AssignedAt is when the newest assignment was issued, the zero time for none.
func (b *Book) AssignedAt() time.Time {
	if b.assignment.Order == nil {
		return time.Time{}
	}
	return b.assignment.Order.GetIssuedAt().AsTime()
}

// Namespace is where the endpoint is, as assigned.
func (b *Book) Namespace() string { return b.assignment.Order.GetNamespace() }

// ForgetAfter drops an assignment that was issued after a moment: a manager's clock ran ahead, and what it signs now must count.
func (b *Book) ForgetAfter(moment time.Time) {
	if b.AssignedAt().After(moment) {
		b.assignment = Signed[*agentv1.Assignment]{}
	}
}

// Extend adds a verified bundle to a chain from the pin, leaving out the newest link where the one before it vouches for the bundle too.
func Extend(pin [32]byte, chain []*agentv1.Envelope, e *agentv1.Envelope) []*agentv1.Envelope {
	if n := len(chain); n > 1 {
		if before, err := identity.OpenTrust(pin, chain[:n-1]); err == nil {
			if _, err := before.Advance(e); err == nil {
				chain = chain[:n-1]
			}
		}
	}
	return append(slices.Clone(chain), e)
}

func open(e *agentv1.Envelope, t envelope.Type, m proto.Message, keys []crypto.PublicKey, check func() error) error {
	if err := verify(e, t, keys); err != nil {
		return err
	}
	if envelope.Parse(e.GetPayload(), m) != nil || check() != nil {
		return errors.New(Malformed)
	}
	return nil
}

// verify tells whether a key that may sign orders now made a signature. The error is the reason of a refusal.
func verify(e *agentv1.Envelope, t envelope.Type, keys []crypto.PublicKey) error {
	switch err := envelope.Verify(e, t, keys...); {
	case errors.Is(err, envelope.ErrSignature):
		return errors.New(SignatureInvalid)
	case err != nil:
		return errors.New(Malformed)
	}
	return nil
}
