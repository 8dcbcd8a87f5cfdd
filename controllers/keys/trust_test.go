package keys

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

const week = 7 * 24 * time.Hour

func fleetOf(t *testing.T) *Fleet {
	t.Helper()
	data, err := newAuthority("test", noon)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := parseAuthority(&corev1.Secret{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return &Fleet{ID: "11111111-1111-4111-8111-111111111111", root: orderKey("r"), Orders: orderKey("a"), AgentCA: ca, ServerCA: ca}
}

func orderKey(seed string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, ed25519.SeedSize)))
}

// believed are the order keys of a bundle, by their seeds.
func believed(b *agentv1.TrustBundle) (seeds string) {
	for _, k := range b.GetKeys() {
		for _, seed := range "abcdef" {
			if slices.Contains(k.GetUses(), agentv1.KeyUse_KEY_USE_ORDERS) && bytes.Equal(k.GetSpki(), spki(orderKey(string(seed)).Public())) {
				seeds += string(seed)
			}
		}
	}
	return seeds
}

func TestAReplacedOrderKeyIsBelievedForAWhile(t *testing.T) {
	f := fleetOf(t)
	first := f.bundle(1, noon, nil, week)
	f.Orders = orderKey("b")
	second := f.bundle(2, noon.Add(time.Hour), first, week)
	for _, tt := range []struct {
		name string
		got  *agentv1.TrustBundle
		want string
	}{
		{"at first", first, "a"},
		{"replaced", second, "ba"},
		{"replaced for a leak", f.bundle(2, noon.Add(time.Hour), first, time.Second), "b"},
		{"not long ago", f.bundle(3, noon.Add(week), second, week), "ba"},
		{"long enough ago", f.bundle(3, noon.Add(time.Hour+week), second, week), "b"},
		{"a leak is found later", f.bundle(3, noon.Add(2*time.Hour), second, time.Second), "b"},
	} {
		if got := believed(tt.got); got != tt.want {
			t.Errorf("%s: %q are believed, want %q", tt.name, got, tt.want)
		}
	}
	b := second
	for i, seed := range []string{"c", "d", "e", "f"} {
		f.Orders = orderKey(seed)
		b = f.bundle(uint64(3+i), noon.Add(time.Duration(2+i)*time.Hour), b, week)
	}
	if got := believed(b); got != "fedc" {
		t.Errorf("replaced every hour: %q are believed", got)
	}
}

func TestOverlapEnds(t *testing.T) {
	f := fleetOf(t)
	p := &Publisher{Fleet: f, Store: Store{Overlap: week}}
	f.trust.Store(&identity.Trust{IssuedAt: noon, Orders: []crypto.PublicKey{1, 2}})
	if p.overlapEnds(noon.Add(week - time.Second)) {
		t.Error("too early")
	}
	if !p.overlapEnds(noon.Add(week)) {
		t.Error("it never does")
	}
	f.trust.Store(&identity.Trust{IssuedAt: noon, Orders: []crypto.PublicKey{1}})
	if p.overlapEnds(noon.Add(2 * week)) {
		t.Error("there is nothing to end")
	}
}
