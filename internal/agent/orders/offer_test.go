package orders

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

func sequences(b *Book) string {
	var out []uint64
	for _, o := range b.Offers() {
		out = append(out, o.GetSequence())
	}
	return fmt.Sprint(out)
}

// What is kept of many offers, and that it is on the disk as it is here.
func TestOffersAreKept(t *testing.T) {
	f := fleettest.New(t, func() time.Time { return now })
	b := book(t, f)
	take := func(version string, change func(*agentv1.Offer)) *agentv1.Envelope {
		t.Helper()
		e := f.Offer(version, []byte("x"), change)
		m, err := b.Offer(e)
		if err != nil {
			t.Fatal(err)
		}
		if b.HasOffer(m) {
			t.Error("has it before it came")
		}
		b.TakeUp(e, m)
		if !b.HasOffer(m) {
			t.Error("does not have it")
		}
		return e
	}
	const uid = "0b5bd0a4-34f9-4f8f-8a5b-7c3b3a2d8f01"
	take("1", func(o *agentv1.Offer) { o.ReleaseUid = uid })
	take("2", nil)
	take("1", func(o *agentv1.Offer) { o.ReleaseUid = uid }) // its share has grown
	if got := sequences(b); got != "[2 3]" || b.Sequence() != 3 {
		t.Errorf("a release that was signed anew: %s", got)
	}
	take("3", func(o *agentv1.Offer) { o.Withdrawn = []string{"2.0"} })
	if got := sequences(b); got != "[3 4]" {
		t.Errorf("a withdrawn version: %s", got)
	}
	for n := range 10 {
		take(fmt.Sprint(4+n), nil)
	}
	if got := sequences(b); got != "[3 4 5 6 7 8 9 14]" {
		t.Errorf("of many, the oldest and the newest: %s", got)
	}
	take("0", func(o *agentv1.Offer) { o.Sequence = 2 }) // of a pinned version
	if got := sequences(b); got != "[2 3 4 5 6 7 8 14]" {
		t.Errorf("an older one: %s", got)
	}
	again := book(t, f)
	again.RestoreOffers(b.KeptOffers())
	if !slices.EqualFunc(again.Offers(), b.Offers(), func(x, y *agentv1.Offer) bool { return proto.Equal(x, y) }) {
		t.Errorf("restored %s", sequences(again))
	}
	if !b.DropOffers(8) || b.DropOffers(8) {
		t.Error("what was dropped is not told")
	}
	if got := sequences(b)[:2]; got != "[8" {
		t.Errorf("after the one that is obeyed: %s", sequences(b))
	}
	// Another namespace has sequences of its own; the first assignment is no change.
	if _, _, err := b.Obey(f.Assignment(me, "", now)); err != nil || len(b.Offers()) == 0 {
		t.Errorf("%v, %s", err, sequences(b))
	}
	elsewhere, err := envelope.Seal(f.Order, envelope.Assignment, &agentv1.Assignment{FleetId: f.ID, IdentityId: me, Namespace: "elsewhere", IssuedAt: b.assignment.Order.GetIssuedAt()})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Obey(elsewhere); err != nil || len(b.Offers()) == 0 {
		t.Errorf("of the same moment: %v, %s", err, sequences(b))
	}
}

// An offer that no order key signed, or that is out of its bounds, is refused before it is judged.
func TestOfferMustVerify(t *testing.T) {
	f := fleettest.New(t, func() time.Time { return now })
	b := book(t, f)
	for name, c := range map[string]struct {
		e      *agentv1.Envelope
		reason string
	}{
		"by the content key":  {f.OfferBy(f.Content, "1", []byte("x"), nil), SignatureInvalid},
		"out of bounds":       {f.Offer("1", []byte("x"), func(o *agentv1.Offer) { o.Share = 10_001 }), Malformed},
		"without an artifact": {f.Offer("1", []byte("x"), func(o *agentv1.Offer) { o.Artifacts = nil }), Malformed},
		"an assignment":       {f.Assignment(me, "", now), Malformed},
	} {
		if m, err := b.Offer(c.e); m != nil || err == nil || err.Error() != "offer: "+c.reason {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
}
