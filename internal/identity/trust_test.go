package identity

import (
	"crypto"
	"crypto/elliptic"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

func has(keys []crypto.PublicKey, key crypto.Signer) bool {
	for _, k := range keys {
		if e, ok := k.(interface{ Equal(crypto.PublicKey) bool }); ok && e.Equal(key.Public()) {
			return true
		}
	}
	return false
}

func TestFirstTrust(t *testing.T) {
	f, foreign := newFleet(t, fleetA), newFleet(t, fleetB)
	got, err := FirstTrust(f.pin(t), f.trust(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	if got.FleetID != fleetA || got.Version != 1 || !got.IssuedAt.Equal(issued.Add(time.Hour)) || !got.ResetTimeFloor.IsZero() ||
		len(got.Roots) != 1 || !has(got.Roots, f.root) || len(got.Orders) != 1 || !has(got.Orders, f.order) ||
		!got.ServerCAs[0].Equal(f.serverCA.cert) || !got.AgentCAs[0].Equal(f.agentCA.cert) {
		t.Errorf("%+v", got)
	}
	// The root of somebody between: it signs a bundle that names our root, or claims our root's key for itself.
	withOurs := foreign.bundle(t, 1)
	withOurs.Keys = append(withOurs.Keys, f.bundle(t, 1).Keys[0])
	orderOnly := f.bundle(t, 1)
	orderOnly.Keys[0].Uses = []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ORDERS}
	orderOnly.Keys[1].Uses = []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ROOT}
	for name, e := range map[string]*agentv1.Envelope{
		"of another fleet":                     foreign.trust(t, 1),
		"that names the pinned root in vain":   seal(t, foreign.root, envelope.Trust, withOurs),
		"signed by the order key":              seal(t, f.order, envelope.Trust, f.bundle(t, 1)),
		"whose pinned key is no root":          seal(t, f.root, envelope.Trust, orderOnly),
		"of another type":                      seal(t, f.root, envelope.Beacon, f.bundle(t, 1)),
		"with a payload that is no JSON":       mustSign(t, f.root, "x"),
		"that is missing":                      nil,
		"of an envelope without any signature": {PayloadType: string(envelope.Trust), Payload: []byte("{}")},
	} {
		if got, err := FirstTrust(f.pin(t), e); !errors.Is(err, ErrTrust) || got != nil {
			t.Errorf("a first bundle %s is accepted: %v", name, err)
		}
	}
}

func mustSign(t *testing.T, key crypto.Signer, payload string) *agentv1.Envelope {
	t.Helper()
	e, err := envelope.Sign(key, envelope.Trust, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestBundleMustBeWhole(t *testing.T) {
	f := newFleet(t, fleetA)
	for name, change := range map[string]func(*agentv1.TrustBundle){
		"no fleet":              func(b *agentv1.TrustBundle) { b.FleetId = "" },
		"no version":            func(b *agentv1.TrustBundle) { b.Version = 0 },
		"no time":               func(b *agentv1.TrustBundle) { b.IssuedAt = nil },
		"no order key":          func(b *agentv1.TrustBundle) { b.Keys[1].Uses[0] = agentv1.KeyUse_KEY_USE_CONTENT },
		"no server CA":          func(b *agentv1.TrustBundle) { b.ServerCa = nil },
		"no agent CA":           func(b *agentv1.TrustBundle) { b.AgentCa = nil },
		"a CA that is none":     func(b *agentv1.TrustBundle) { b.AgentCa[0] = []byte("x") },
		"17 keys":               func(b *agentv1.TrustBundle) { b.Keys = append(b.Keys, make15(b.Keys[1])...) },
		"five server CAs":       func(b *agentv1.TrustBundle) { c := b.ServerCa[0]; b.ServerCa = [][]byte{c, c, c, c, c} },
		"a key without any use": func(b *agentv1.TrustBundle) { b.Keys[1].Uses = nil },
	} {
		b := f.bundle(t, 1)
		change(b)
		if _, err := FirstTrust(f.pin(t), seal(t, f.root, envelope.Trust, b)); !errors.Is(err, ErrTrust) {
			t.Errorf("a bundle with %s is accepted: %v", name, err)
		}
	}
}

func make15(k *agentv1.TrustKey) (keys []*agentv1.TrustKey) {
	for range 15 {
		keys = append(keys, k)
	}
	return keys
}

func TestKeysOfTheFutureAreIgnored(t *testing.T) {
	f := newFleet(t, fleetA)
	b := f.bundle(t, 1)
	later := ecKey(t, elliptic.P384())
	b.Keys = append(b.Keys, &agentv1.TrustKey{Spki: spkiOf(t, later), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ORDERS, 99}})
	got, err := FirstTrust(f.pin(t), seal(t, f.root, envelope.Trust, b))
	if err != nil || len(got.Orders) != 1 || !has(got.Orders, f.order) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAdvance(t *testing.T) {
	f, foreign := newFleet(t, fleetA), newFleet(t, fleetB)
	two, err := FirstTrust(f.pin(t), f.trust(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	reset := f.bundle(t, 3)
	reset.ResetTimeFloor = timestamppb.New(issued)
	three, err := two.Advance(seal(t, f.root, envelope.Trust, reset))
	if err != nil || three.Version != 3 || !three.ResetTimeFloor.Equal(issued) {
		t.Errorf("the next: %+v, %v", three, err)
	}
	if far, err := two.Advance(f.trust(t, 900)); err != nil || far.Version != 900 {
		t.Errorf("a much later one, between which the roots did not change: %+v, %v", far, err)
	}
	captured := f
	captured.id = fleetB
	for name, e := range map[string]*agentv1.Envelope{
		"the same again":                 f.trust(t, 2),
		"an older one":                   f.trust(t, 1),
		"one of another fleet":           foreign.trust(t, 3),
		"one of our root for another id": captured.trust(t, 3),
		"one by the order key":           seal(t, f.order, envelope.Trust, f.bundle(t, 3)),
		"one of another type":            seal(t, f.root, envelope.Assignment, f.bundle(t, 3)),
	} {
		if got, err := two.Advance(e); !errors.Is(err, ErrTrust) || got != nil {
			t.Errorf("%s is accepted: %v", name, err)
		}
	}
	if two.Version != 2 {
		t.Error("a trust was changed")
	}
}

// rotate is the change of f's root to a new one: a bundle that the old root signs, and the new one too.
func (f fleet) rotate(t *testing.T, version uint64) (fleet, *agentv1.Envelope) {
	t.Helper()
	next := f
	next.root = edKey(t)
	b := next.bundle(t, version)
	e := seal(t, f.root, envelope.Trust, b)
	e.Signatures = append(e.Signatures, seal(t, next.root, envelope.Trust, b).Signatures...)
	return next, e
}

func TestRootRotation(t *testing.T) {
	f := newFleet(t, fleetA)
	first := f.trust(t, 1)
	second, toSecond := f.rotate(t, 5)
	third, toThird := second.rotate(t, 9)
	newest := third.trust(t, 12)
	chain := []*agentv1.Envelope{first, toSecond, toThird, newest}

	for name, pin := range map[string][32]byte{"first": f.pin(t), "second": second.pin(t), "third": third.pin(t)} {
		got, err := OpenTrust(pin, chain)
		if err != nil || got.Version != 12 || !has(got.Roots, third.root) || has(got.Roots, f.root) {
			t.Errorf("from the %s root: %+v, %v", name, got, err)
		}
	}
	got, err := OpenTrust(third.pin(t), []*agentv1.Envelope{newest})
	if err != nil || got.Version != 12 {
		t.Errorf("from the newest alone: %+v, %v", got, err)
	}
	for name, broken := range map[string][]*agentv1.Envelope{
		"no bundle":                       nil,
		"a change of roots left out":      {first, toThird, newest},
		"the old root signs on":           {first, toSecond, f.trust(t, 6)},
		"out of order":                    {first, toThird, toSecond},
		"the newest is an old one again":  {first, toSecond, toThird, second.trust(t, 8)},
		"a foreign bundle after our own":  {first, newFleet(t, fleetA).trust(t, 2)},
		"the pinned root is nowhere":      {toThird, newest},
		"a bundle whose payload was bent": {first, bend(toSecond)},
	} {
		if got, err := OpenTrust(f.pin(t), broken); !errors.Is(err, ErrTrust) || got != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func bend(e *agentv1.Envelope) *agentv1.Envelope {
	e = proto.CloneOf(e)
	e.Payload = append(e.Payload, ' ')
	return e
}

func TestWhoIsTrusted(t *testing.T) {
	f, foreign := newFleet(t, fleetA), newFleet(t, fleetB)
	trust, err := FirstTrust(f.pin(t), f.trust(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	pub := edKey(t).Public()
	if !trust.IssuedByAgentCA(f.agentCA.leaf(t, pub, nil)) {
		t.Error("a certificate of the agent CA is not recognised")
	}
	for name, ca := range map[string]authority{"the server CA": f.serverCA, "another fleet's agent CA": foreign.agentCA} {
		if trust.IssuedByAgentCA(ca.leaf(t, pub, nil)) {
			t.Errorf("a certificate of %s passes for one of the agent CA", name)
		}
	}
	pool := trust.ServerPool()
	if !pool.Equal(mustPool(f.serverCA)) {
		t.Error("the pool of servers' CAs is not the bundle's")
	}
}

// Keys have their uses and no others.
func TestContentKeys(t *testing.T) {
	f, publisher := newFleet(t, fleetA), edKey(t)
	b := f.bundle(t, 1)
	b.Keys = append(b.Keys, &agentv1.TrustKey{Spki: spkiOf(t, publisher), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_CONTENT}})
	trust, err := FirstTrust(f.pin(t), seal(t, f.root, envelope.Trust, b))
	if err != nil {
		t.Fatal(err)
	}
	if len(trust.Content) != 1 || !has(trust.Content, publisher) || has(trust.Orders, publisher) || has(trust.Roots, publisher) {
		t.Errorf("%+v", trust)
	}
}
