package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"net/url"
	"testing"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Fuzzing runs in several processes that exchange inputs: their keys must be the same.

func fixedEd(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func fixedEC(f *testing.F, n byte) *ecdsa.PrivateKey {
	f.Helper()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{n}, 32))
	if err != nil {
		f.Fatal(err)
	}
	return key
}

func FuzzToken(f *testing.F) {
	f.Add(Token{UID: tokenA, TrustVersion: 1}.Reveal())
	f.Add(" " + Token{UID: tokenB, Seed: [32]byte{1}, RootPin: [32]byte{255}, TrustVersion: 1<<64 - 1}.Reveal() + "\n")
	f.Add("ret1....")
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			return
		}
		if !IsUUID(token.UID) || token.TrustVersion == 0 {
			t.Fatalf("accepted: %#v", token)
		}
		if back, err := ParseToken(token.Reveal()); err != nil || back != token {
			t.Fatalf("%q came back as another token: %v", s, err)
		}
	})
}

func FuzzCSR(f *testing.F) {
	f.Add(csrOf(f, ecKey(f, elliptic.P256())))
	f.Add(csrOf(f, ecKey(f, elliptic.P384())))
	f.Add(csrOf(f, edKey(f)))
	f.Fuzz(func(t *testing.T, der []byte) {
		csr, err := ParseCSR(der)
		if err != nil {
			if !errors.Is(err, ErrCSR) {
				t.Fatal(err)
			}
			return
		}
		spki, err := x509.MarshalPKIXPublicKey(csr.Key)
		if len(der) > MaxCSRBytes || csr.Key.Curve != elliptic.P256() || err != nil {
			t.Fatalf("accepted: %x, %v", der, err)
		}
		// The slot and the idempotency key are made from SPKI: another encoding of the same key must not pass.
		if !bytes.Equal(spki, csr.SPKI) {
			t.Fatalf("two encodings of one key: %x and %x", spki, csr.SPKI)
		}
	})
}

// The payloads are signed by the fuzzer's own key: what a machine with a good token can send.
func FuzzEnrollment(f *testing.F) {
	token, csr := fixedEd(1), csrOf(f, fixedEC(f, 2))
	good := seal(f, token, envelope.Enrollment, enrollment(csr)).GetPayload()
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("laptop"), []byte(`\u001b[2J`), 1))
	f.Add(bytes.Replace(good, []byte(fleetA), []byte(fleetB), 1))
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := envelope.Sign(token, envelope.Enrollment, payload)
		if err != nil {
			return
		}
		uid, err := EnrollmentToken(e)
		if err == nil && !IsUUID(uid) {
			t.Fatalf("the token is %q", uid)
		}
		p, got, err := OpenEnrollment(e, token.Public(), fleetA, tokenA)
		if err != nil {
			if !errors.Is(err, ErrProof) && !errors.Is(err, ErrCSR) {
				t.Fatal(err)
			}
			return
		}
		if uid != tokenA || p.GetFleetId() != fleetA || wire.CheckEnrollment(p) != nil || got.Key == nil {
			t.Fatalf("accepted: %s", payload)
		}
	})
}

func FuzzRenewal(f *testing.F) {
	key := fixedEC(f, 3)
	cert := newAuthority(f, "agent").leaf(f, key.Public(), nil, URI(fleetA, machineA))
	p := &agentv1.Renewal{FleetId: fleetA, IdentityId: machineA, Certificate: cert.Raw, Csr: csrOf(f, key)}
	f.Add(seal(f, key, envelope.Renewal, p).GetPayload())
	p.Certificate = p.Certificate[:100]
	f.Add(seal(f, key, envelope.Renewal, p).GetPayload())
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := envelope.Sign(key, envelope.Renewal, payload)
		if err != nil {
			return
		}
		got, err := OpenRenewal(e, fleetA)
		if err != nil {
			if !errors.Is(err, ErrProof) && !errors.Is(err, ErrCSR) {
				t.Fatal(err)
			}
			return
		}
		fleetID, id, err := ParseURI(got.Certificate)
		if err != nil || fleetID != fleetA || id != got.Renewal.GetIdentityId() || wire.CheckRenewal(got.Renewal) != nil {
			t.Fatalf("accepted: %s", payload)
		}
	})
}

// Bundles come from the gateway to an agent that knows nothing but a pin.
func FuzzTrust(f *testing.F) {
	fl := newFleet(f, fleetA)
	fl.root, fl.order = fixedEd(4), fixedEd(5)
	trusted, err := FirstTrust(fl.pin(f), fl.trust(f, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fl.trust(f, 1).GetPayload())
	f.Add(fl.trust(f, 2).GetPayload())
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := envelope.Sign(fl.root, envelope.Trust, payload)
		if err != nil {
			return
		}
		for name, open := range map[string]func(*agentv1.Envelope) (*Trust, error){
			"first": func(e *agentv1.Envelope) (*Trust, error) { return FirstTrust(fl.pin(t), e) },
			"next":  trusted.Advance,
		} {
			got, err := open(e)
			if (err == nil) != (got != nil) || err != nil && !errors.Is(err, ErrTrust) {
				t.Fatalf("%s: %v, %v", name, got, err)
			}
			if err != nil {
				continue
			}
			if !IsUUID(got.FleetID) || got.Version == 0 || len(got.Roots) == 0 || len(got.Orders) == 0 || len(got.ServerCAs) == 0 || len(got.AgentCAs) == 0 {
				t.Fatalf("%s: accepted: %s", name, payload)
			}
			if name == "next" && (got.Version <= 1 || got.FleetID != fleetA) {
				t.Fatalf("went back: %s", payload)
			}
		}
	})
}

func FuzzURI(f *testing.F) {
	f.Add(URI(fleetA, machineA).String())
	f.Add("spiffe://x/endpoint/y?z#w")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		fleetID, id, err := ParseURI(&x509.Certificate{URIs: []*url.URL{u}})
		if err == nil && (!IsUUID(fleetID) || !IsUUID(id) || URI(fleetID, id).String() != u.String()) {
			t.Fatalf("%q is read as %s, %s", s, fleetID, id)
		}
	})
}
