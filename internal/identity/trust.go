package identity

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// MaxTrustPerReply bounds the answer that carries trust bundles.
const MaxTrustPerReply = wire.MaxTrustPerReply

// ErrTrust is wrapped by every refusal of a trust bundle.
var ErrTrust = errors.New("the trust bundle is not acceptable")

// Trust is a trust bundle that was verified: whom to believe from now on. It is not changed once made.
type Trust struct {
	FleetID        string
	Version        uint64
	IssuedAt       time.Time
	ResetTimeFloor time.Time
	// Roots sign the next bundle and nothing else; Orders sign orders; Content signs releases, and there may be none.
	Roots, Orders, Content []crypto.PublicKey
	// ServerCAs issue the gateways' certificates, AgentCAs the agents'.
	ServerCAs, AgentCAs []*x509.Certificate
}

// Pin is what a token says of a root key: the SHA-256 of its SubjectPublicKeyInfo.
func Pin(spki []byte) [sha256.Size]byte { return sha256.Sum256(spki) }

// FirstTrust verifies the first bundle of a chain by a pin: one of its root keys hashes to it, and signed it.
func FirstTrust(pin [sha256.Size]byte, e *agentv1.Envelope) (*Trust, error) {
	if err := envelope.Check(e, envelope.Trust); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	// The key is inside what it signed: it is looked for before the signature can be checked, and believed only by the pin.
	b := &agentv1.TrustBundle{}
	if err := envelope.Parse(e.GetPayload(), b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	for _, k := range b.GetKeys() {
		if Pin(k.GetSpki()) != pin || !slices.Contains(k.GetUses(), agentv1.KeyUse_KEY_USE_ROOT) {
			continue
		}
		root, err := envelope.ParseKey(k.GetSpki())
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTrust, err)
		}
		if err := envelope.Verify(e, envelope.Trust, root); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTrust, err)
		}
		return newTrust(b)
	}
	return nil, fmt.Errorf("%w: no root key in it is the pinned one; this is another fleet, or somebody between", ErrTrust)
}

// Advance verifies a newer bundle by the roots of this one.
func (t *Trust) Advance(e *agentv1.Envelope) (*Trust, error) {
	b := &agentv1.TrustBundle{}
	if err := envelope.Open(e, envelope.Trust, b, t.Roots...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	if b.GetVersion() <= t.Version {
		return nil, fmt.Errorf("%w: version %d is not newer than %d", ErrTrust, b.GetVersion(), t.Version)
	}
	if b.GetFleetId() != t.FleetID {
		return nil, fmt.Errorf("%w: it is of another fleet", ErrTrust)
	}
	return newTrust(b)
}

// OpenTrust verifies a chain from a pin, oldest first, and returns its newest bundle. Bundles from before the pinned root are passed over:
// a token that was made after a change of roots pins the new one.
func OpenTrust(pin [sha256.Size]byte, chain []*agentv1.Envelope) (*Trust, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: there is none", ErrTrust)
	}
	var t *Trust
	var err error
	for _, e := range chain {
		if t == nil {
			t, err = FirstTrust(pin, e)
			continue
		}
		if t, err = t.Advance(e); err != nil {
			return nil, err
		}
	}
	return t, err
}

// IssuedByAgentCA tells whether an agent CA of this bundle signed cert, its validity in time aside.
func (t *Trust) IssuedByAgentCA(cert *x509.Certificate) bool {
	return slices.ContainsFunc(t.AgentCAs, func(ca *x509.Certificate) bool { return cert.CheckSignatureFrom(ca) == nil })
}

// ServerPool has the CAs that may issue a gateway's certificate, and nothing else.
func (t *Trust) ServerPool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range t.ServerCAs {
		pool.AddCert(ca)
	}
	return pool
}

func newTrust(b *agentv1.TrustBundle) (*Trust, error) {
	if err := wire.CheckTrustBundle(b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	t := &Trust{FleetID: b.GetFleetId(), Version: b.GetVersion(), IssuedAt: b.GetIssuedAt().AsTime()}
	if b.GetResetTimeFloor() != nil {
		t.ResetTimeFloor = b.GetResetTimeFloor().AsTime()
	}
	for _, k := range b.GetKeys() {
		key, err := envelope.ParseKey(k.GetSpki())
		if err != nil {
			continue // an algorithm of the future: not ours to use
		}
		if slices.Contains(k.GetUses(), agentv1.KeyUse_KEY_USE_ROOT) {
			t.Roots = append(t.Roots, key)
		}
		if slices.Contains(k.GetUses(), agentv1.KeyUse_KEY_USE_ORDERS) {
			t.Orders = append(t.Orders, key)
		}
		if slices.Contains(k.GetUses(), agentv1.KeyUse_KEY_USE_CONTENT) {
			t.Content = append(t.Content, key)
		}
	}
	var err error
	if t.ServerCAs, err = parseCAs("server_ca", b.GetServerCa()); err != nil {
		return nil, err
	}
	if t.AgentCAs, err = parseCAs("agent_ca", b.GetAgentCa()); err != nil {
		return nil, err
	}
	if len(t.Roots) == 0 || len(t.Orders) == 0 {
		return nil, fmt.Errorf("%w: it needs a root key and an order key", ErrTrust)
	}
	return t, nil
}

func parseCAs(field string, ders [][]byte) ([]*x509.Certificate, error) {
	var cas []*x509.Certificate
	for _, der := range ders {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrTrust, field, err)
		}
		cas = append(cas, ca)
	}
	return cas, nil
}
