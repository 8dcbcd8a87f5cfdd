package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const (
	fleet    = "5f7a3c2e-0000-4000-8000-000000000001"
	id       = "5f7a3c2e-0000-4000-8000-000000000002"
	tokenUID = "5f7a3c2e-0000-4000-8000-000000000003"
)

var (
	now  = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	home = netip.MustParseAddr("192.0.2.7")
)

// book is a Source that records what would be written.
type book struct {
	trust     *store.Trust
	tokens    map[string]store.Token
	byKey     map[store.KeyHash]store.Endpoint
	byID      map[string]store.Endpoint
	certified atomic.Int32
	answer    func(ctx context.Context) ([]byte, error)
}

func (b *book) Trust() (*store.Trust, bool) { return b.trust, b.trust != nil }

func (b *book) Token(uid string) (store.Token, bool) { t, ok := b.tokens[uid]; return t, ok }

func (b *book) EndpointByKey(k store.KeyHash) (store.Endpoint, bool) {
	e, ok := b.byKey[k]
	return e, ok
}

func (b *book) EndpointByIdentity(id string) (store.Endpoint, bool) {
	e, ok := b.byID[id]
	return e, ok
}

func (b *book) Certify(ctx context.Context, _, _ []byte, _ *agentv1.Envelope) ([]byte, error) {
	b.certified.Add(1)
	return b.answer(ctx)
}

func newService(b *book) *Service {
	wide := limit.PerSecond(1000, 1000)
	return New(Config{Source: b, PerSource: wide, PerToken: wide, Total: wide, Renewal: limit.Rate{Every: time.Minute, Burst: 1}, Wait: time.Second, Waiting: 4})
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func spki(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func csrOf(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func token(t testing.TB) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pub, key
}

func issued(context.Context) ([]byte, error) { return []byte("certificate"), nil }

func TestEnroll(t *testing.T) {
	pub, key := token(t)
	_, foreign := token(t)
	agent := newKey(t)
	for _, test := range []struct {
		name     string
		token    func(*store.Token)
		book     func(*book)
		payload  func(*agentv1.Enrollment)
		by       ed25519.PrivateKey
		envelope func(*agentv1.Envelope)
		answer   func(context.Context) ([]byte, error)
		want     wire.Name // "": certified
		after    bool
		asked    bool // the manager was
	}{
		{name: "good", asked: true},
		{name: "no trust yet", book: func(b *book) { b.trust = nil }, want: wire.NotReady},
		{name: "unknown token", book: func(b *book) { b.tokens = nil }, want: wire.TokenUnknown},
		{name: "a token that the manager has not made yet", token: func(s *store.Token) { s.Key = nil }, want: wire.NotReady},
		{name: "expired", token: func(s *store.Token) { s.Expires = now }, want: wire.TokenExpired},
		{name: "expires in a second", token: func(s *store.Token) { s.Expires = now.Add(time.Second) }, asked: true},
		{name: "used up", token: func(s *store.Token) { s.Exhausted = true }, want: wire.TokenExhausted},
		{
			name: "used up, by this very key", asked: true,
			token: func(s *store.Token) { s.Exhausted, s.Claims = true, []store.KeyHash{sha256.Sum256(spki(t, agent))} },
		},
		{
			name: "expired, but this key has enrolled: its answer was lost", asked: true, token: func(s *store.Token) { s.Expires = now.Add(-time.Hour) },
			book: func(b *book) {
				b.byKey = map[store.KeyHash]store.Endpoint{sha256.Sum256(spki(t, agent)): {Keys: []store.KeyHash{sha256.Sum256(spki(t, agent))}}}
			},
		},
		{
			name: "expired, and this key is an endpoint's previous one", want: wire.TokenExpired, token: func(s *store.Token) { s.Expires = now.Add(-time.Hour) },
			book: func(b *book) {
				b.byKey = map[store.KeyHash]store.Endpoint{sha256.Sum256(spki(t, agent)): {Keys: []store.KeyHash{{1}, sha256.Sum256(spki(t, agent))}}}
			},
		},
		{name: "another token's key", by: foreign, want: wire.ProofInvalid},
		{name: "altered on the way", envelope: func(e *agentv1.Envelope) { e.Payload[len(e.Payload)-3] ^= 1 }, want: wire.ProofInvalid},
		{name: "another fleet", payload: func(p *agentv1.Enrollment) { p.FleetId = id }, want: wire.ProofInvalid},
		{name: "no JSON", envelope: func(e *agentv1.Envelope) { e.Payload = []byte("{") }, want: wire.ProofInvalid},
		{name: "a field out of its bounds", payload: func(p *agentv1.Enrollment) { p.Hostname = "" }, want: wire.ProofInvalid},
		{name: "no certificate request", payload: func(p *agentv1.Enrollment) { p.Csr = []byte("csr") }, want: wire.CSRInvalid},
		{name: "a request that is not signed by its key", payload: func(p *agentv1.Enrollment) { p.Csr[len(p.Csr)-1] ^= 1 }, want: wire.CSRInvalid},
		{name: "not answered yet", answer: func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, store.ErrPending }, after: true, asked: true},
		{name: "the API server is away", answer: func(context.Context) ([]byte, error) { return nil, errors.New("connection refused") }, after: true, asked: true},
		{name: "the slot is taken", answer: func(context.Context) ([]byte, error) { return nil, store.ErrSlotTaken }, want: wire.NotReady, asked: true},
		{
			name: "the manager refuses", answer: func(context.Context) ([]byte, error) {
				return nil, &store.Denied{Reason: "TokenExhausted", Message: "too late"}
			},
			want: wire.TokenExhausted, asked: true,
		},
		{
			name: "a person refuses", answer: func(context.Context) ([]byte, error) { return nil, &store.Denied{Reason: "KubectlDeny", Message: "no"} },
			want: wire.EnrollmentDenied, asked: true,
		},
		{
			name: "a reason that is no refusal", answer: func(context.Context) ([]byte, error) { return nil, &store.Denied{Reason: "Internal", Message: "no"} },
			want: wire.EnrollmentDenied, asked: true,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			tok := store.Token{Ref: store.Ref{UID: tokenUID}, Key: pub}
			if test.token != nil {
				test.token(&tok)
			}
			b := &book{trust: &store.Trust{Trust: &identity.Trust{FleetID: fleet}}, tokens: map[string]store.Token{tokenUID: tok}, answer: issued}
			if test.book != nil {
				test.book(b)
			}
			if test.answer != nil {
				b.answer = test.answer
			}
			p := &agentv1.Enrollment{FleetId: fleet, TokenUid: tokenUID, Csr: csrOf(t, agent), Hostname: "devbox", AgentVersion: "8.0.0"}
			if test.payload != nil {
				test.payload(p)
			}
			by := key
			if test.by != nil {
				by = test.by
			}
			signed, err := envelope.Seal(by, envelope.Enrollment, p)
			if err != nil {
				t.Fatal(err)
			}
			if test.envelope != nil {
				test.envelope(signed)
			}
			s := newService(b)
			s.config.Wait = time.Millisecond
			answer, problem := s.Enroll(t.Context(), &agentv1.EnrollRequest{Enrollment: signed}, home, now)
			check(t, answer, problem, test.want, test.after)
			if (b.certified.Load() > 0) != test.asked {
				t.Errorf("%d requests were written, want some: %v", b.certified.Load(), test.asked)
			}
		})
	}
}

func check(t *testing.T, answer Answer, problem *wire.Problem, want wire.Name, after bool) {
	t.Helper()
	var got wire.Name
	if problem != nil {
		got = problem.Name
		if problem.Detail == "" {
			t.Error("the problem has no words")
		}
	}
	if got != want {
		t.Fatalf("got %q (%v), want %q", got, problem, want)
	}
	if want == "" && (answer.After > 0) != after || want == "" && (answer.Certificate == nil) != after {
		t.Errorf("got %+v, to be repeated: %v", answer, after)
	}
}

// An enrolment is counted before its signature is verified, and what is counted is written nowhere.
func TestEnrollmentsAreLimited(t *testing.T) {
	pub, key := token(t)
	signed, err := envelope.Seal(key, envelope.Enrollment, &agentv1.Enrollment{FleetId: fleet, TokenUid: tokenUID, Csr: csrOf(t, newKey(t)), Hostname: "devbox", AgentVersion: "8.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	signed.Signatures[0].Sig[0] ^= 1
	wide, narrow := limit.PerSecond(1000, 1000), limit.Rate{Every: time.Second, Burst: 3}
	for _, test := range []struct {
		name                       string
		perSource, perToken, total limit.Rate
		elsewhere                  bool // another address is limited too
	}{
		{"from an address", narrow, wide, wide, false},
		{"with a token", wide, narrow, wide, true},
		{"in all", wide, wide, narrow, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &book{trust: &store.Trust{Trust: &identity.Trust{FleetID: fleet}}, tokens: map[string]store.Token{tokenUID: {Ref: store.Ref{UID: tokenUID}, Key: pub}}, answer: issued}
			s := newService(b)
			s.config.Total = test.total
			s.perSource, s.perToken = limit.New[netip.Addr](test.perSource, 10), limit.New[string](test.perToken, 10)
			ask := func(from netip.Addr) wire.Name {
				_, p := s.Enroll(t.Context(), &agentv1.EnrollRequest{Enrollment: signed}, from, now)
				return p.Name
			}
			for range 3 {
				if got := ask(home); got != wire.ProofInvalid {
					t.Fatalf("within the limit: %s", got)
				}
			}
			if got := ask(home); got != wire.Throttled {
				t.Errorf("beyond the limit: %s", got)
			}
			if got := ask(netip.MustParseAddr("198.51.100.1")); (got == wire.Throttled) != test.elsewhere {
				t.Errorf("from elsewhere: %s", got)
			}
			if b.certified.Load() > 0 {
				t.Error("something was written")
			}
		})
	}
}

// While as many wait for the manager as may, others are answered at once, each with a turn of its own, and nothing of theirs is written or counted.
func TestFewWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pub, key := token(t)
		b := &book{trust: &store.Trust{Trust: &identity.Trust{FleetID: fleet}}, tokens: map[string]store.Token{tokenUID: {Ref: store.Ref{UID: tokenUID}, Key: pub}}}
		b.answer = func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, store.ErrPending }
		s := newService(b)
		s.config.Total = limit.Rate{Every: 10 * time.Millisecond, Burst: 100}
		ask := func() (Answer, *wire.Problem) {
			signed, err := envelope.Seal(key, envelope.Enrollment, &agentv1.Enrollment{FleetId: fleet, TokenUid: tokenUID, Csr: csrOf(t, newKey(t)), Hostname: "devbox", AgentVersion: "8.0.0"})
			if err != nil {
				t.Error(err)
			}
			return s.Enroll(t.Context(), &agentv1.EnrollRequest{Enrollment: signed}, home, time.Now())
		}
		for range s.config.Waiting {
			go func() {
				if a, p := ask(); p != nil || a.After == 0 {
					t.Errorf("who waits got %+v, %v", a, p)
				}
			}()
		}
		synctest.Wait()
		began := time.Now()
		for i := range 50 {
			_, p := ask()
			if want := again + time.Duration(i)*s.config.Total.Every; p == nil || p.Name != wire.Overloaded || p.RetryAfter != want {
				t.Fatalf("the %dth who finds no place got %v, want a turn in %s", i, p, want)
			}
		}
		if time.Since(began) > 0 || int(b.certified.Load()) != s.config.Waiting {
			t.Errorf("they were answered after %s, %d were written", time.Since(began), b.certified.Load())
		}
		<-time.After(s.config.Wait)
		synctest.Wait()
		b.answer = issued
		if a, p := ask(); p != nil || a.Certificate == nil {
			t.Errorf("when there is room again: %+v, %v", a, p)
		}
	})
}

func TestRenew(t *testing.T) {
	caKey, foreignKey := newKey(t), newKey(t)
	authority := func(k *ecdsa.PrivateKey) *x509.Certificate {
		c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agents"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0)}
		der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
		if err != nil {
			t.Fatal(err)
		}
		c, err = x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ca, foreign := authority(caKey), authority(foreignKey)
	old, next := newKey(t), newKey(t)
	oldHash, nextHash := sha256.Sum256(spki(t, old)), sha256.Sum256(spki(t, next))
	for _, test := range []struct {
		name     string
		by       *x509.Certificate
		key      *ecdsa.PrivateKey // signs the proof
		leaf     func(*x509.Certificate)
		endpoint func(*store.Endpoint)
		payload  func(*agentv1.Renewal)
		deleted  bool
		want     wire.Name
	}{
		{name: "good"},
		{name: "expired: how long ago is the manager's to judge", leaf: func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, -6, 0) }},
		{name: "signed by another key than the certificate's", key: next, want: wire.ProofInvalid},
		{name: "another fleet's certificate", by: foreign, want: wire.CertificateUnknown},
		{name: "not valid yet", leaf: func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }, want: wire.CertificateNotYetValid},
		{name: "another fleet's name", payload: func(p *agentv1.Renewal) { p.FleetId = id }, want: wire.ProofInvalid},
		{name: "another identity's name", payload: func(p *agentv1.Renewal) { p.IdentityId = fleet }, want: wire.ProofInvalid},
		{name: "a bad request", payload: func(p *agentv1.Renewal) { p.Csr[len(p.Csr)-1] ^= 1 }, want: wire.CSRInvalid},
		{name: "deleted", deleted: true, want: wire.EndpointUnknown},
		{name: "deleted a moment ago, or not heard of yet", deleted: true, leaf: func(c *x509.Certificate) { c.NotBefore = now.Add(-5 * time.Minute) }, want: wire.NotReady},
		{name: "superseded: the manager's to tell people", endpoint: func(e *store.Endpoint) { e.Keys = []store.KeyHash{{1}} }},
		{name: "the previous key, in its day", endpoint: func(e *store.Endpoint) {
			e.Keys, e.PreviousKeyExpires = []store.KeyHash{{1}, oldHash}, now.Add(time.Minute)
		}},
		{name: "the previous key, afterwards: likewise", endpoint: func(e *store.Endpoint) { e.Keys, e.PreviousKeyExpires = []store.KeyHash{{1}, oldHash}, now }},
		{name: "the previous key, afterwards, for the newest: the answer was lost", endpoint: func(e *store.Endpoint) {
			e.Keys, e.PreviousKeyExpires = []store.KeyHash{nextHash, oldHash}, now
		}},
		{name: "suspended", endpoint: func(e *store.Endpoint) { e.Lifecycle = v1alpha1.LifecycleSuspended }, want: wire.EndpointSuspended},
		{name: "blocked", endpoint: func(e *store.Endpoint) { e.Lifecycle = v1alpha1.LifecycleBlocked }, want: wire.EndpointBlocked},
		{name: "decommissioned", endpoint: func(e *store.Endpoint) { e.Lifecycle = v1alpha1.LifecycleDecommissioned }, want: wire.EndpointDecommissioned},
	} {
		t.Run(test.name, func(t *testing.T) {
			by, signer := ca, caKey
			if test.by != nil {
				by, signer = test.by, foreignKey
			}
			template := &x509.Certificate{
				SerialNumber: big.NewInt(2), URIs: []*url.URL{identity.URI(fleet, id)}, KeyUsage: x509.KeyUsageDigitalSignature,
				ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotBefore: now.AddDate(0, 0, -20), NotAfter: now.AddDate(0, 0, 10),
			}
			if test.leaf != nil {
				test.leaf(template)
			}
			der, err := x509.CreateCertificate(rand.Reader, template, by, &old.PublicKey, signer)
			if err != nil {
				t.Fatal(err)
			}
			p := &agentv1.Renewal{FleetId: fleet, IdentityId: id, Certificate: der, Csr: csrOf(t, next)}
			if test.payload != nil {
				test.payload(p)
			}
			key := old
			if test.key != nil {
				key = test.key
			}
			signed, err := envelope.Seal(key, envelope.Renewal, p)
			if err != nil {
				t.Fatal(err)
			}
			e := store.Endpoint{IdentityID: id, Keys: []store.KeyHash{oldHash}, Lifecycle: v1alpha1.LifecycleActive}
			if test.endpoint != nil {
				test.endpoint(&e)
			}
			b := &book{trust: &store.Trust{Trust: &identity.Trust{FleetID: fleet, AgentCAs: []*x509.Certificate{ca}}}, byID: map[string]store.Endpoint{id: e}, answer: issued}
			if test.deleted {
				b.byID = nil
			}
			s := newService(b)
			answer, problem := s.Renew(t.Context(), &agentv1.RenewRequest{Renewal: signed}, home, false, now)
			check(t, answer, problem, test.want, false)
			if (b.certified.Load() == 1) != (test.want == "") {
				t.Errorf("%d requests were written", b.certified.Load())
			}
			if test.want != "" {
				return
			}
			if _, p := s.Renew(t.Context(), &agentv1.RenewRequest{Renewal: signed}, home, false, now); p != nil {
				t.Errorf("the same once more: %v", p)
			}
			other, err := envelope.Seal(old, envelope.Renewal, &agentv1.Renewal{FleetId: fleet, IdentityId: id, Certificate: der, Csr: csrOf(t, newKey(t))})
			if err != nil {
				t.Fatal(err)
			}
			if _, p := s.Renew(t.Context(), &agentv1.RenewRequest{Renewal: other}, home, false, now); p == nil || p.Name != wire.Throttled && p.Name != wire.CertificateSuperseded {
				t.Errorf("another one at once: %v", p)
			}
		})
	}
}

func TestStrangersRenewalsAreLimited(t *testing.T) {
	b := &book{trust: &store.Trust{Trust: &identity.Trust{FleetID: fleet}}}
	s := newService(b)
	s.perSource = limit.New[netip.Addr](limit.Rate{Every: time.Minute, Burst: 1}, 10)
	signed := &agentv1.RenewRequest{Renewal: &agentv1.Envelope{PayloadType: string(envelope.Renewal), Payload: []byte("{}"), Signatures: []*agentv1.Signature{{Sig: []byte{1}}}}}
	for i, want := range []wire.Name{wire.ProofInvalid, wire.Throttled} {
		if _, p := s.Renew(t.Context(), signed, home, false, now); p == nil || p.Name != want {
			t.Errorf("attempt %d: %v, want %s", i, p, want)
		}
	}
	if _, p := s.Renew(t.Context(), signed, home, true, now); p == nil || p.Name != wire.ProofInvalid {
		t.Errorf("an agent that is known: %v", p)
	}
}
