// Package fleettest is a fleet and its gateway for the agent's tests: real keys, real envelopes, real TLS 1.2, and answers that a test
// can bend.
package fleettest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// CA is a certificate authority.
type CA struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// Fleet has the keys of a manager.
type Fleet struct {
	ID                 string
	Root, Order, token ed25519.PrivateKey
	// Content is the key that signs releases, and the newest offer's sequence.
	Content           ed25519.PrivateKey
	Sequence          uint64
	AgentCA, ServerCA CA
	// Now is the manager's time.
	Now func() time.Time
	// Chain is what the fleet publishes, oldest first; Version of the newest.
	Chain   []*agentv1.Envelope
	Version uint64

	tokenUID string
	t        testing.TB
}

// New is a fleet with its first trust bundle.
func New(t testing.TB, now func() time.Time) *Fleet {
	t.Helper()
	f := &Fleet{
		ID: uuid.NewString(), Root: newKey(t), Order: newKey(t), Content: newKey(t), token: newKey(t), tokenUID: uuid.NewString(),
		AgentCA: NewCA(t, "agents"), ServerCA: NewCA(t, "servers"), Now: now, t: t,
	}
	f.Publish(f.Root, nil)
	return f
}

// Publish signs the next trust bundle with signer, a root of the one before.
func (f *Fleet) Publish(signer ed25519.PrivateKey, change func(*agentv1.TrustBundle)) {
	f.t.Helper()
	f.Version++
	b := &agentv1.TrustBundle{
		FleetId: f.ID, Version: f.Version, IssuedAt: timestamppb.New(f.Now()),
		Keys: []*agentv1.TrustKey{
			{Spki: SPKI(f.t, f.Root.Public()), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ROOT}},
			{Spki: SPKI(f.t, f.Order.Public()), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_ORDERS}},
			{Spki: SPKI(f.t, f.Content.Public()), Uses: []agentv1.KeyUse{agentv1.KeyUse_KEY_USE_CONTENT}},
		},
		ServerCa: [][]byte{f.ServerCA.Cert.Raw}, AgentCa: [][]byte{f.AgentCA.Cert.Raw},
	}
	if change != nil {
		change(b)
	}
	f.Chain = append(f.Chain, f.seal(signer, envelope.Trust, b))
}

// Token is an enrolment token of the fleet.
func (f *Fleet) Token() identity.Token {
	t := identity.Token{UID: f.tokenUID, RootPin: identity.Pin(SPKI(f.t, f.Root.Public())), TrustVersion: f.Version}
	copy(t.Seed[:], f.token.Seed())
	return t
}

// Beacon says the time, and which trust is newest.
func (f *Fleet) Beacon() *agentv1.Envelope {
	return f.seal(f.Order, envelope.Beacon, &agentv1.Beacon{FleetId: f.ID, IssuedAt: timestamppb.New(f.Now()), TrustVersion: f.Version})
}

// Assignment of a policy to an identity.
func (f *Fleet) Assignment(identityID, policyID string, issuedAt time.Time) *agentv1.Envelope {
	return f.seal(f.Order, envelope.Assignment, &agentv1.Assignment{
		FleetId: f.ID, IdentityId: identityID, Namespace: "fleet", PolicyId: policyID, IssuedAt: timestamppb.New(issuedAt),
	})
}

// PolicyOf is any policy of the fleet, which needs no more than an ID and a revision.
func (f *Fleet) PolicyOf(p *agentv1.Policy) *agentv1.Envelope {
	f.t.Helper()
	p.FleetId = f.ID
	if p.IssuedAt == nil {
		p.IssuedAt = timestamppb.New(f.Now())
	}
	return f.seal(f.Order, envelope.Policy, p)
}

// Policy with a heartbeat interval.
func (f *Fleet) Policy(policyID string, revision uint64, interval time.Duration) *agentv1.Envelope {
	return f.seal(f.Order, envelope.Policy, &agentv1.Policy{
		FleetId: f.ID, PolicyId: policyID, Revision: revision, IssuedAt: timestamppb.New(f.Now()), HeartbeatInterval: durationpb.New(interval),
	})
}

// Certify signs an agent's certificate.
func (f *Fleet) Certify(key crypto.PublicKey, identityID string, notBefore, notAfter time.Time) *x509.Certificate {
	f.t.Helper()
	return f.AgentCA.Sign(f.t, key, &x509.Certificate{
		Subject: pkix.Name{CommonName: identityID}, URIs: []*url.URL{identity.URI(f.ID, identityID)},
		NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (f *Fleet) seal(signer crypto.Signer, t envelope.Type, m proto.Message) *agentv1.Envelope {
	f.t.Helper()
	e, err := envelope.Seal(signer, t, m)
	if err != nil {
		f.t.Fatal(err)
	}
	return e
}

// NewCA makes a certificate authority.
func NewCA(t testing.TB, name string) CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := CA{Key: key, Cert: &x509.Certificate{Subject: pkix.Name{CommonName: name}}}
	ca.Cert = ca.Sign(t, key.Public(), &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	})
	return ca
}

// Sign signs a certificate for key.
func (ca CA) Sign(t testing.TB, key crypto.PublicKey, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, key, ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Serving is a template of a gateway's certificate for this machine.
func Serving(notBefore, notAfter time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "gateway"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: notBefore, NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// SPKI encodes a public key.
func SPKI(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
