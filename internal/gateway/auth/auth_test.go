package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const (
	fleet = "5f7a3c2e-0000-4000-8000-000000000001"
	id    = "5f7a3c2e-0000-4000-8000-000000000002"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key := newKey(t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agents"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	return authority{sign(t, c, authority{c, key}, key), key}
}

func sign(t testing.TB, template *x509.Certificate, by authority, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// leaf is an agent's certificate, an hour old.
func leaf(t testing.TB, by authority, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: id}, URIs: []*url.URL{identity.URI(fleet, id)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	if change != nil {
		change(c)
	}
	return sign(t, c, by, newKey(t))
}

// agentAsAuthority is an agent that signs another's certificate with its own.
func agentAsAuthority(t testing.TB, by authority) authority {
	t.Helper()
	key := newKey(t)
	return authority{sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(3), URIs: []*url.URL{identity.URI(fleet, id)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}, by, key), key}
}

// known is what a test says there is to know.
type known struct {
	trust     *store.Trust
	endpoints map[string]store.Endpoint
}

func (k *known) Trust() (*store.Trust, bool) { return k.trust, k.trust != nil }
func (k *known) EndpointByIdentity(id string) (store.Endpoint, bool) {
	e, ok := k.endpoints[id]
	return e, ok
}

func trusting(cas ...*x509.Certificate) *store.Trust {
	return &store.Trust{Trust: &identity.Trust{FleetID: fleet, Version: 1, AgentCAs: cas}}
}

func TestEachCauseHasItsProblem(t *testing.T) {
	ca, foreign := newAuthority(t), newAuthority(t)
	for _, test := range []struct {
		name     string
		by       authority
		leaf     func(*x509.Certificate)
		endpoint func(e *store.Endpoint, key store.KeyHash)
		unknown  bool
		none     bool
		noEMS    bool
		want     wire.Name // "": may take part
	}{
		{name: "good", by: ca},
		{name: "no certificate", by: ca, none: true, want: wire.CertificateRequired},
		{name: "no extended master secret", by: ca, noEMS: true, want: wire.TLSEMSRequired},
		{name: "another authority", by: foreign, want: wire.CertificateUnknown},
		{
			name: "signed by a certificate that an agent has", by: agentAsAuthority(t, ca), want: wire.CertificateUnknown,
		},
		{name: "a server's certificate", by: ca, want: wire.CertificateUnknown, leaf: func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}},
		{name: "not yet valid", by: ca, want: wire.CertificateNotYetValid, leaf: func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }},
		{name: "expired", by: ca, want: wire.CertificateExpired, leaf: func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }},
		{name: "expired, and the endpoint is gone", by: ca, unknown: true, want: wire.CertificateExpired, leaf: func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }},
		{name: "another fleet", by: ca, want: wire.CertificateUnknown, leaf: func(c *x509.Certificate) { c.URIs = []*url.URL{identity.URI(id, id)} }},
		{name: "two names", by: ca, want: wire.CertificateUnknown, leaf: func(c *x509.Certificate) { c.URIs = append(c.URIs, identity.URI(fleet, fleet)) }},
		{name: "a DNS name too", by: ca, want: wire.CertificateUnknown, leaf: func(c *x509.Certificate) { c.DNSNames = []string{"gateway"} }},
		{name: "no name", by: ca, want: wire.CertificateUnknown, leaf: func(c *x509.Certificate) { c.URIs = nil }},
		{name: "deleted", by: ca, unknown: true, want: wire.EndpointUnknown},
		{name: "not heard of yet", by: ca, unknown: true, want: wire.NotReady, leaf: func(c *x509.Certificate) { c.NotBefore = now.Add(-backdate - 59*time.Second) }},
		{name: "a minute later", by: ca, unknown: true, want: wire.EndpointUnknown, leaf: func(c *x509.Certificate) { c.NotBefore = now.Add(-backdate - time.Minute) }},
		{name: "superseded", by: ca, want: wire.CertificateSuperseded, endpoint: func(e *store.Endpoint, _ store.KeyHash) { e.Keys = []store.KeyHash{{1}} }},
		{
			name: "renewed, not heard of yet", by: ca, want: wire.NotReady, endpoint: func(e *store.Endpoint, _ store.KeyHash) { e.Keys = []store.KeyHash{{1}} },
			leaf: func(c *x509.Certificate) { c.NotBefore = now.Add(-backdate) },
		},
		{name: "the previous key, in its day", by: ca, endpoint: func(e *store.Endpoint, key store.KeyHash) {
			e.Keys, e.PreviousKeyExpires = []store.KeyHash{{1}, key}, now.Add(time.Second)
		}},
		{name: "the previous key, afterwards", by: ca, want: wire.CertificateSuperseded, endpoint: func(e *store.Endpoint, key store.KeyHash) {
			e.Keys, e.PreviousKeyExpires = []store.KeyHash{{1}, key}, now
		}},
		{
			name: "the previous key, afterwards, young: it is known to be superseded", by: ca, want: wire.CertificateSuperseded,
			endpoint: func(e *store.Endpoint, key store.KeyHash) {
				e.Keys, e.PreviousKeyExpires = []store.KeyHash{{1}, key}, now
			},
			leaf: func(c *x509.Certificate) { c.NotBefore = now.Add(-backdate) },
		},
		{name: "the previous key that never had a day", by: ca, want: wire.CertificateSuperseded, endpoint: func(e *store.Endpoint, key store.KeyHash) {
			e.Keys = []store.KeyHash{{1}, key}
		}},
		{name: "suspended", by: ca, want: wire.EndpointSuspended, endpoint: func(e *store.Endpoint, _ store.KeyHash) { e.Lifecycle = v1alpha1.LifecycleSuspended }},
		{name: "blocked", by: ca, want: wire.EndpointBlocked, endpoint: func(e *store.Endpoint, _ store.KeyHash) { e.Lifecycle = v1alpha1.LifecycleBlocked }},
		{name: "decommissioned", by: ca, want: wire.EndpointDecommissioned, endpoint: func(e *store.Endpoint, _ store.KeyHash) {
			e.Lifecycle = v1alpha1.LifecycleDecommissioned
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := leaf(t, test.by, test.leaf)
			e := store.Endpoint{IdentityID: id, Lifecycle: v1alpha1.LifecycleActive, Keys: []store.KeyHash{sha256.Sum256(l.RawSubjectPublicKeyInfo)}}
			if test.endpoint != nil {
				test.endpoint(&e, e.Keys[0])
			}
			source := &known{trust: trusting(ca.cert), endpoints: map[string]store.Endpoint{id: e}}
			if test.unknown {
				source.endpoints = nil
			}
			a := New(source)
			cr := Credentials{Certificate: a.read(l), EMS: !test.noEMS}
			if test.none {
				cr.Certificate = nil
			}
			_, p := a.Check(cr, now)
			if got := nameOf(p); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if p != nil && p.Detail == "" {
				t.Error("the problem has no words")
			}
		})
	}
}

func nameOf(p *wire.Problem) wire.Name {
	if p == nil {
		return ""
	}
	return p.Name
}

// The order of the causes is part of the protocol: with everything wrong, they are told one by one.
func TestOrderOfCauses(t *testing.T) {
	c := &Certificate{NotBefore: now.Add(time.Second), NotAfter: now.Add(-time.Second)}
	cr, trusted, e, isKnown := Credentials{}, false, store.Endpoint{Lifecycle: v1alpha1.LifecycleBlocked}, false
	for _, step := range []struct {
		want wire.Name
		mend func()
	}{
		{wire.CertificateRequired, func() { cr.Certificate = c }},
		{wire.TLSEMSRequired, func() { cr.EMS = true }},
		{wire.CertificateUnknown, func() { c.issued, trusted = true, true }},
		{wire.CertificateNotYetValid, func() { c.NotBefore = now.Add(-time.Hour) }},
		{wire.CertificateExpired, func() { c.NotAfter = now.Add(time.Hour) }},
		{wire.CertificateUnknown, func() { c.wellNamed = true }},
		{wire.EndpointUnknown, func() { isKnown = true }},
		{wire.CertificateSuperseded, func() { e.Keys = []store.KeyHash{c.Key} }},
		{wire.EndpointBlocked, func() { e.Lifecycle = v1alpha1.LifecycleActive }},
		{"", func() {}},
	} {
		if got := nameOf(Judge(cr, trusted, e, isKnown, now)); got != step.want {
			t.Fatalf("got %q, want %q", got, step.want)
		}
		step.mend()
	}
}

// What changes bites at the next request of a connection that is open, without another handshake.
func TestVerdictFollowsWhatChanges(t *testing.T) {
	old, next := newAuthority(t), newAuthority(t)
	l := leaf(t, old, nil)
	e := store.Endpoint{IdentityID: id, Lifecycle: v1alpha1.LifecycleActive, Keys: []store.KeyHash{sha256.Sum256(l.RawSubjectPublicKeyInfo)}}
	source := &known{endpoints: map[string]store.Endpoint{id: e}}
	a := New(source)
	if _, p := a.Check(Credentials{Certificate: a.read(l), EMS: true}, now); nameOf(p) != wire.NotReady {
		t.Errorf("without trust: %q", nameOf(p))
	}
	source.trust = trusting(old.cert)
	cr := Credentials{Certificate: a.read(l), EMS: true}
	expect := func(what string, want wire.Name) {
		t.Helper()
		if _, p := a.Check(cr, now); nameOf(p) != want {
			t.Errorf("%s: %q, want %q", what, nameOf(p), want)
		}
	}
	expect("active", "")
	e.Lifecycle = v1alpha1.LifecycleSuspended
	source.endpoints[id] = e
	expect("suspended", wire.EndpointSuspended)
	e.Lifecycle = v1alpha1.LifecycleActive
	source.endpoints[id] = e
	expect("active again", "")
	source.trust = trusting(next.cert, old.cert)
	expect("a second authority", "")
	source.trust = trusting(next.cert)
	expect("the first authority is gone", wire.CertificateUnknown)
	delete(source.endpoints, id)
	source.trust = trusting(old.cert)
	expect("deleted", wire.EndpointUnknown)
}

func TestCacheIsBoundedByTheTrust(t *testing.T) {
	ca := newAuthority(t)
	source := &known{trust: trusting(ca.cert)}
	a := New(source)
	l := leaf(t, ca, nil)
	before := a.read(l)
	if a.read(l) != before {
		t.Error("the same certificate was read twice")
	}
	a.read(leaf(t, newAuthority(t), nil))
	if len(a.cache) != 1 {
		t.Error("a certificate that anybody can make takes room")
	}
	source.trust = trusting(ca.cert)
	if a.read(l) == before || len(a.cache) != 1 {
		t.Error("what was read under another trust is still there")
	}
}

func TestNoCertificateNoCredentials(t *testing.T) {
	a := New(&known{})
	if cr := a.Credentials(&tls.ConnectionState{}); cr != (Credentials{}) {
		t.Errorf("got %+v", cr)
	}
	if cr := a.Credentials(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{nil}}); cr != (Credentials{}) {
		t.Errorf("got %+v", cr)
	}
}
