package orders

import (
	"slices"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// MaxOffers is how many offers are kept. Of more, the oldest and the newest: those in between would have to wait longer than the oldest, and the
// newest takes their place once it may.
const MaxOffers = 8

// Offer verifies an offer. Whether it is for this agent is for content.Judge to say. The error is a *Refusal.
func (b *Book) Offer(e *agentv1.Envelope) (*agentv1.Offer, error) {
	m := &agentv1.Offer{}
	if err := open(e, envelope.Offer, m, b.Trust.Orders, func() error { return wire.CheckOffer(m) }); err != nil {
		return nil, &Refusal{"offer", err.Error()}
	}
	return m, nil
}

// Offers are those that were taken up and still count, by their sequence, the newest last.
func (b *Book) Offers() []*agentv1.Offer {
	out := make([]*agentv1.Offer, len(b.offers))
	for i, o := range b.offers {
		out[i] = o.Order
	}
	return out
}

// Sequence is the highest of an offer that was taken up, 0 for none.
func (b *Book) Sequence() uint64 {
	if len(b.offers) == 0 {
		return 0
	}
	return b.offers[len(b.offers)-1].Order.GetSequence()
}

// HasOffer tells whether an offer was taken up already.
func (b *Book) HasOffer(m *agentv1.Offer) bool {
	return slices.ContainsFunc(b.offers, func(o Signed[*agentv1.Offer]) bool { return o.Order.GetSequence() == m.GetSequence() })
}

// TakeUp takes up an offer. Others of the same release, and of versions that it withdraws, count no more.
func (b *Book) TakeUp(e *agentv1.Envelope, m *agentv1.Offer) {
	b.offers = slices.DeleteFunc(b.offers, func(o Signed[*agentv1.Offer]) bool {
		return o.Order.GetReleaseUid() == m.GetReleaseUid() || m.GetSequence() > o.Order.GetSequence() &&
			slices.ContainsFunc(m.GetWithdrawn(), func(v string) bool { return content.Same(v, o.Order.GetVersion()) })
	})
	if n := len(b.offers); n >= MaxOffers && m.GetSequence() > b.Sequence() {
		b.offers = b.offers[:MaxOffers-1]
	} else if n >= MaxOffers { // of the pinned version: the newest stays, and says how far the agent has judged
		b.offers = slices.Delete(b.offers, MaxOffers-2, MaxOffers-1)
	}
	b.offers = append(b.offers, Signed[*agentv1.Offer]{e, m})
	slices.SortFunc(b.offers, func(x, y Signed[*agentv1.Offer]) int {
		if x.Order.GetSequence() < y.Order.GetSequence() {
			return -1
		}
		return 1
	})
}

// DropOffers forgets those before the offer of a sequence, which is obeyed. It tells whether there were any.
func (b *Book) DropOffers(sequence uint64) bool {
	before := len(b.offers)
	b.offers = slices.DeleteFunc(b.offers, func(o Signed[*agentv1.Offer]) bool { return o.Order.GetSequence() < sequence })
	return len(b.offers) < before
}

// KeptOffers are what RestoreOffers takes.
func (b *Book) KeptOffers() (out []*agentv1.Envelope) {
	for _, o := range b.offers {
		out = append(out, o.Envelope)
	}
	return out
}

// RestoreOffers takes up what was kept on disk. It was verified when it came.
func (b *Book) RestoreOffers(kept []*agentv1.Envelope) {
	b.offers = nil
	for _, e := range kept {
		m := &agentv1.Offer{}
		if envelope.Parse(e.GetPayload(), m) == nil && len(b.offers) < MaxOffers {
			b.offers = append(b.offers, Signed[*agentv1.Offer]{e, m})
		}
	}
}
