package store

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

var rootKey = ed25519.NewKeyFromSeed([]byte(strings.Repeat("r", ed25519.SeedSize)))

// authority is a CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var testCA = sync.OnceValue(func() *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &authority{cert, key}
})

// Issue signs a certificate.
func (a *authority) Issue(template x509.Certificate, key crypto.PublicKey, now time.Time) ([]byte, error) {
	template.SerialNumber, template.NotBefore = big.NewInt(now.UnixNano()), now.Add(-time.Minute)
	if template.NotAfter.IsZero() {
		template.NotAfter = now.Add(time.Hour)
	}
	return x509.CreateCertificate(rand.Reader, &template, a.cert, key, a.key)
}

func spkiOf(t testing.TB, key any) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

func sealed(t testing.TB, key ed25519.PrivateKey, kind envelope.Type, m proto.Message) string {
	t.Helper()
	e, err := envelope.Seal(key, kind, m)
	if err != nil {
		t.Fatal(err)
	}
	text, err := envelope.MarshalJSON(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func bundle(t testing.TB, version uint64) *agentv1.TrustBundle {
	t.Helper()
	return &agentv1.TrustBundle{
		FleetId: fleetID, Version: version, IssuedAt: timestamppb.New(enrolled),
		Keys: []*agentv1.TrustKey{
			{Spki: spkiOf(t, rootKey.Public()), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ROOT}},
			{Spki: spkiOf(t, orderKey.Public()), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ORDERS}},
		},
		ServerCa: [][]byte{testCA().cert.Raw}, AgentCa: [][]byte{testCA().cert.Raw},
	}
}

// trustData is the ConfigMap rollcall-trust with these versions.
func trustData(t testing.TB, versions ...uint64) map[string]string {
	t.Helper()
	data := map[string]string{"fleet-id": fleetID}
	for _, v := range versions {
		data[fmt.Sprintf("%d.json", v)] = sealed(t, rootKey, envelope.Trust, bundle(t, v))
	}
	return data
}

// beaconData is the ConfigMap rollcall-beacon.
func beaconData(t testing.TB, minute int) map[string]string {
	t.Helper()
	b := &agentv1.Beacon{FleetId: fleetID, IssuedAt: timestamppb.New(enrolled.Add(time.Duration(minute) * time.Minute)), TrustVersion: 1}
	return map[string]string{beaconKey: sealed(t, orderKey, envelope.Beacon, b)}
}

func TestTrustIsTheVerifiedChain(t *testing.T) {
	trust, err := parseTrust(&corev1.ConfigMap{Data: trustData(t, 10, 1, 2, 9)})
	if err != nil {
		t.Fatal(err)
	}
	if trust.FleetID != fleetID || trust.Version != 10 || !slices.Equal(trust.Versions, []uint64{1, 2, 9, 10}) || len(trust.AgentCAs) != 1 {
		t.Errorf("%+v", trust)
	}
	versions := func(after uint64) (out []uint64) {
		for _, e := range trust.After(after) {
			b := &agentv1.TrustBundle{}
			if err := envelope.Parse(e.GetPayload(), b); err != nil {
				t.Fatal(err)
			}
			out = append(out, b.GetVersion())
		}
		return out
	}
	for after, want := range map[uint64][]uint64{0: {1, 2, 9, 10}, 1: {2, 9, 10}, 5: {9, 10}, 10: nil, 99: nil} {
		if got := versions(after); !slices.Equal(got, want) {
			t.Errorf("after %d: %d, want %d", after, got, want)
		}
	}
	many, err := parseTrust(&corev1.ConfigMap{Data: trustData(t, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(many.After(0)); n != 8 {
		t.Errorf("%d bundles in one answer, want 8", n)
	}
}

// What does not hold together is not handed to agents.
func TestTrustThatIsRefused(t *testing.T) {
	stranger := ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", ed25519.SeedSize)))
	for name, change := range map[string]func(map[string]string){
		"nothing":                      func(d map[string]string) { clear(d) },
		"no JSON":                      func(d map[string]string) { d["2.json"] = "}{" },
		"another key's signature":      func(d map[string]string) { d["2.json"] = sealed(t, stranger, envelope.Trust, bundle(t, 2)) },
		"a beacon":                     func(d map[string]string) { d["2.json"] = beaconData(t, 1)[beaconKey] },
		"another version than it says": func(d map[string]string) { d["5.json"] = d["2.json"]; delete(d, "2.json") },
		"the same by another name":     func(d map[string]string) { d["3.json"] = d["2.json"] },
		"an older one by a newer name": func(d map[string]string) { d["3.json"] = d["1.json"] },
		"another fleet's": func(d map[string]string) {
			b := bundle(t, 2)
			b.FleetId = policyID
			d["2.json"] = sealed(t, rootKey, envelope.Trust, b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			data := trustData(t, 1, 2)
			change(data)
			if _, err := parseTrust(&corev1.ConfigMap{Data: data}); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

func TestWhatWasPublishedStays(t *testing.T) {
	changes := 0
	p := &published[Trust]{log: testLog(t), parse: parseTrust, changed: func() { changes++ }}
	if err := p.missing("rollcall-system", trustConfigMap); err == nil || !strings.Contains(err.Error(), "manager") {
		t.Errorf("missing: %v", err)
	}
	bad := &corev1.ConfigMap{Data: map[string]string{"1.json": "}{"}}
	p.event(bad)
	if err := p.missing("", ""); err == nil || !strings.Contains(err.Error(), "1.json") {
		t.Errorf("bad: %v", err)
	}
	good := &corev1.ConfigMap{Data: trustData(t, 1)}
	p.event(good)
	first := p.now.Load()
	p.event(bad)
	p.drop(good)
	p.replace(nil)
	p.event(good) // read again
	if p.now.Load() != first || changes != 1 || p.missing("", "") != nil {
		t.Errorf("%d changes, trust is %v", changes, p.now.Load())
	}
	p.event(&corev1.ConfigMap{Data: trustData(t, 1, 2)})
	if p.now.Load().Version != 2 || changes != 2 {
		t.Errorf("%d changes, trust is %v", changes, p.now.Load())
	}
}
