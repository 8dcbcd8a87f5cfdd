package orders

import (
	"crypto/ed25519"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

const (
	me      = "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02"
	another = "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b03"
	policyA = "aaaaaaaa-2b1c-4d53-8a64-1e6a3f1f6b02"
	policyB = "bbbbbbbb-2b1c-4d53-8a64-1e6a3f1f6b02"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func book(t *testing.T, f *fleettest.Fleet) *Book {
	t.Helper()
	trust, err := identity.OpenTrust(f.Token().RootPin, f.Chain)
	if err != nil {
		t.Fatal(err)
	}
	return &Book{Trust: trust, IdentityID: me}
}

func seal(t *testing.T, key ed25519.PrivateKey, kind envelope.Type, p *agentv1.Policy) *agentv1.Envelope {
	t.Helper()
	e, err := envelope.Seal(key, kind, p)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestObey(t *testing.T) {
	f := fleettest.New(t, func() time.Time { return now })
	foreign := fleettest.New(t, func() time.Time { return now })
	twin := *foreign // signs with its own key, and says that it is f
	twin.ID = f.ID
	otherFleet := *f
	otherFleet.ID = foreign.ID
	policy := &agentv1.Policy{FleetId: f.ID, PolicyId: policyA, Revision: 1, IssuedAt: timestamppb.New(now)}
	tooFast := &agentv1.Policy{FleetId: f.ID, PolicyId: policyA, Revision: 1, IssuedAt: timestamppb.New(now), HeartbeatInterval: durationpb.New(1)}
	broken := f.Policy(policyA, 1, time.Minute)
	broken.Payload = append(slices.Clone(broken.Payload), ' ')

	assigned := []*agentv1.Envelope{f.Assignment(me, policyA, now)}
	with := func(more ...*agentv1.Envelope) []*agentv1.Envelope { return append(slices.Clone(assigned), more...) }
	for _, c := range []struct {
		name    string
		before  []*agentv1.Envelope
		order   *agentv1.Envelope
		changed bool
		refusal string
	}{
		{"an assignment", nil, f.Assignment(me, policyA, now), true, ""},
		{"the same again", assigned, f.Assignment(me, policyA, now), false, ""},
		{"an older one", assigned, f.Assignment(me, "", now.Add(-time.Second)), false, "assignment: Superseded"},
		{"a newer one", assigned, f.Assignment(me, "", now.Add(time.Second)), true, ""},
		{"of another machine", nil, f.Assignment(another, policyA, now), false, "assignment: OtherIdentity"},
		{"of another fleet", nil, otherFleet.Assignment(me, policyA, now), false, "assignment: OtherFleet"},
		{"by another key", nil, twin.Assignment(me, policyA, now), false, "assignment: SignatureInvalid"},
		{"a policy", assigned, f.Policy(policyA, 3, time.Minute), true, ""},
		{"the same revision", with(f.Policy(policyA, 3, time.Minute)), f.Policy(policyA, 3, time.Hour), false, ""},
		{"an older revision", with(f.Policy(policyA, 3, time.Minute)), f.Policy(policyA, 2, time.Minute), false, "policy: Superseded"},
		{"a newer revision", with(f.Policy(policyA, 3, time.Minute)), f.Policy(policyA, 4, time.Minute), true, ""},
		{"one that is not assigned", assigned, f.Policy(policyB, 9, time.Minute), false, "policy: OtherPolicy"},
		{"one before any assignment", nil, f.Policy(policyA, 9, time.Minute), false, "policy: OtherPolicy"},
		{"a policy of another fleet", assigned, otherFleet.Policy(policyA, 9, time.Minute), false, "policy: OtherFleet"},
		{"a policy by another key", assigned, twin.Policy(policyA, 9, time.Minute), false, "policy: SignatureInvalid"},
		{"a policy that was changed on the way", assigned, broken, false, "policy: SignatureInvalid"},
		{"a policy signed as an assignment", assigned, seal(t, f.Order, envelope.Assignment, policy), false, "assignment: Malformed"},
		{"a policy out of bounds", assigned, seal(t, f.Order, envelope.Policy, tooFast), false, "policy: Malformed"},
		{"a policy signed by the root", assigned, seal(t, f.Root, envelope.Policy, policy), false, "policy: SignatureInvalid"},
		{"a kind of the future", assigned, seal(t, f.Order, "application/vnd.rollcall.wish.v1+json", policy), false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := book(t, f)
			for _, e := range c.before {
				if _, _, err := b.Obey(e); err != nil {
					t.Fatal(err)
				}
			}
			_, changed, err := b.Obey(c.order)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if changed != c.changed || got != c.refusal {
				t.Errorf("changed %t, refusal %q; want %t, %q", changed, got, c.changed, c.refusal)
			}
			if IsUnsigned(err) != (c.refusal != "" && c.refusal[len(c.refusal)-len(SignatureInvalid):] == SignatureInvalid) {
				t.Errorf("IsUnsigned(%v) = %t", err, IsUnsigned(err))
			}
		})
	}
}

// Which policy is obeyed as assignments and policies come, and after a restart in between.
func TestPolicyInUse(t *testing.T) {
	f := fleettest.New(t, func() time.Time { return now })
	b := book(t, f)
	check := func(want string) {
		t.Helper()
		restored := book(t, f)
		restored.Restore(b.Kept())
		for _, b := range []*Book{b, restored} {
			if got := b.Policy().GetPolicyId(); got != want {
				t.Errorf("obeys %q, want %q", got, want)
			}
		}
	}
	obey := func(orders ...*agentv1.Envelope) {
		t.Helper()
		for _, e := range orders {
			if _, _, err := b.Obey(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	complete := func(want bool) {
		t.Helper()
		if b.Complete() != want {
			t.Errorf("complete: %t, want %t", b.Complete(), want)
		}
	}
	check("")
	complete(false)
	obey(f.Assignment(me, policyA, now))
	check("") // it has not come yet
	complete(false)
	obey(f.Policy(policyA, 1, time.Minute))
	check(policyA)
	complete(true)
	obey(f.Assignment(me, policyB, now.Add(1)))
	check(policyA) // held back, the next policy loosens nothing
	complete(false)
	obey(f.Policy(policyB, 1, time.Minute))
	check(policyB)
	obey(f.Assignment(me, policyA, now.Add(2)))
	check(policyA)
	obey(f.Assignment(me, "", now.Add(3)))
	check("")
	complete(true)
	for i := range 2 * MaxPolicies {
		id := string(rune('a'+i%6)) + policyA[1:]
		obey(f.Assignment(me, id, now.Add(time.Duration(10+i))), f.Policy(id, uint64(10+i), time.Minute))
		check(id)
	}
	if _, policies := b.Kept(); len(policies) != MaxPolicies {
		t.Errorf("%d policies kept, want %d", len(policies), MaxPolicies)
	}
	b.ForgetAfter(now)
	check("")
	obey(f.Assignment(me, policyA, now))
	if b.Namespace() != "fleet" {
		t.Errorf("namespace %q", b.Namespace())
	}
}

func TestBeacon(t *testing.T) {
	f := fleettest.New(t, func() time.Time { return now })
	twin := *fleettest.New(t, f.Now)
	twin.ID = f.ID
	if m, err := book(t, f).Beacon(f.Beacon()); err != nil || !m.GetIssuedAt().AsTime().Equal(now) || m.GetTrustVersion() != 1 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := book(t, f).Beacon(twin.Beacon()); !IsUnsigned(err) {
		t.Errorf("a beacon by another key: %v", err)
	}
	if _, err := book(t, f).Beacon(f.Policy(policyA, 1, time.Minute)); err == nil || IsUnsigned(err) {
		t.Errorf("a policy as a beacon: %v", err)
	}
}

// However many bundles come, the kept chain has the links that changed the roots, and the newest.
func TestExtendKeepsWhatVouches(t *testing.T) {
	f := fleettest.New(t, func() time.Time { return now })
	pin := f.Token().RootPin
	chain := Extend(pin, nil, f.Chain[0])
	publish := func(want int) {
		t.Helper()
		chain = Extend(pin, chain, f.Chain[len(f.Chain)-1])
		if trust, err := identity.OpenTrust(pin, chain); err != nil || trust.Version != f.Version || len(chain) != want {
			t.Errorf("a chain of %d to %v: %v, want %d", len(chain), trust, err, want)
		}
	}
	for range 5 {
		f.Publish(f.Root, nil)
		publish(2)
	}
	old := f.Root
	f.Root = fleettest.New(t, f.Now).Root
	f.Publish(old, nil)
	publish(2) // the first root vouches for it
	for range 3 {
		f.Publish(f.Root, nil)
		publish(3)
	}
}
