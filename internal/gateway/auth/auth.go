// Package auth says who an agent is, and whether it may take part. It is the one authenticator of the gateway.
package auth

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const (
	// young is how long after it was issued a certificate may be unknown to a replica whose watch lags.
	young = time.Minute
	// backdate is how long before it was issued a certificate begins to be valid.
	backdate = 5 * time.Minute
	// exporter is a label for keying material that is thrown away: that there is some proves the extended master secret.
	exporter = "EXPERIMENTAL rollcall"
	// maxCached bounds the cache, at some 400 bytes each.
	maxCached = 1 << 16
)

// Certificate is what matters of an agent's certificate, once its signature was checked; the certificate itself, ten times as large, is let go.
type Certificate struct {
	IdentityID          string
	Key                 store.KeyHash
	SPKI                []byte // of the same key (DER), if this fleet issued the certificate
	NotBefore, NotAfter time.Time

	issuer    [sha256.Size]byte // SHA-256 of the agent CA that signed it
	issued    bool              // one did
	wellNamed bool              // it names this fleet, and an identity, and nothing else
}

// Credentials are what a client showed in its handshake. The zero Credentials are nobody's.
type Credentials struct {
	Certificate *Certificate // nil: none was shown
	// EMS says that the connection has the extended master secret of RFC 7627. Without it a client certificate may be another connection's
	// (the triple handshake attack).
	EMS bool
}

// Source is what there is to know. *store.Store is one.
type Source interface {
	Trust() (*store.Trust, bool)
	EndpointByIdentity(id string) (store.Endpoint, bool)
}

// Authenticator judges credentials. What a certificate says and who signed it is remembered by the certificate's SHA-256, until the trust
// changes; who the endpoint is and what has become of it is looked up at every request, so that a revocation is obeyed at once.
type Authenticator struct {
	source Source

	mu    sync.Mutex
	trust *store.Trust // the trust that cache and cas are of
	cache map[[sha256.Size]byte]*Certificate
	cas   [][sha256.Size]byte
}

// New makes an authenticator.
func New(source Source) *Authenticator { return &Authenticator{source: source} }

// Credentials of a connection. Call it once, after the handshake.
func (a *Authenticator) Credentials(state *tls.ConnectionState) Credentials {
	if len(state.PeerCertificates) == 0 || state.PeerCertificates[0] == nil {
		return Credentials{}
	}
	_, err := state.ExportKeyingMaterial(exporter, nil, 16)
	return Credentials{Certificate: a.read(state.PeerCertificates[0]), EMS: err == nil}
}

func (a *Authenticator) read(leaf *x509.Certificate) *Certificate {
	trust, _ := a.source.Trust()
	fingerprint := sha256.Sum256(leaf.Raw)
	a.mu.Lock()
	a.follow(trust)
	c := a.cache[fingerprint]
	a.mu.Unlock()
	if c != nil {
		return c
	}
	c = Read(leaf, trust)
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.issued && a.trust == trust && len(a.cache) < maxCached { // anybody can make others
		a.cache[fingerprint] = c
	}
	return c
}

// follow begins anew when the trust has changed, under the lock.
func (a *Authenticator) follow(trust *store.Trust) {
	if a.cache != nil && a.trust == trust {
		return
	}
	a.trust, a.cache, a.cas = trust, map[[sha256.Size]byte]*Certificate{}, nil
	if trust != nil {
		for _, ca := range trust.AgentCAs {
			a.cas = append(a.cas, sha256.Sum256(ca.Raw))
		}
	}
}

// trusts tells whether an agent CA is one now.
func (a *Authenticator) trusts(trust *store.Trust, ca [sha256.Size]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.follow(trust)
	return slices.Contains(a.cas, ca)
}

// Read checks who signed a certificate and what it names. trust may be nil: then nobody did.
func Read(leaf *x509.Certificate, trust *store.Trust) *Certificate {
	c := &Certificate{Key: sha256.Sum256(leaf.RawSubjectPublicKeyInfo), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}
	if trust == nil {
		return c
	}
	for _, ca := range trust.AgentCAs {
		if leaf.CheckSignatureFrom(ca) == nil && slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
			c.issuer, c.issued = sha256.Sum256(ca.Raw), true
			c.SPKI = append([]byte(nil), leaf.RawSubjectPublicKeyInfo...) // not a part of the whole certificate
		}
	}
	if fleet, id, err := identity.ParseURI(leaf); err == nil && fleet == trust.FleetID {
		c.IdentityID, c.wellNamed = id, true
	}
	return c
}

// Check says which endpoint has these credentials, or why it may not take part.
func (a *Authenticator) Check(cr Credentials, now time.Time) (store.Endpoint, *wire.Problem) {
	if cr.Certificate == nil {
		return store.Endpoint{}, problem(wire.CertificateRequired, "Show the agent's certificate in the TLS handshake; an agent that has none enrols first.")
	}
	trust, ok := a.source.Trust()
	if !ok {
		return store.Endpoint{}, NotReady("the trust bundle was not read yet")
	}
	e, known := a.source.EndpointByIdentity(cr.Certificate.IdentityID)
	p := Judge(cr, a.trusts(trust, cr.Certificate.issuer), e, known, now)
	return e, p
}

// Judge is the verdict, nil for a good one. trusted says that the certificate's issuer is an agent CA now; e is the endpoint that has its
// identity, if that is known.
func Judge(cr Credentials, trusted bool, e store.Endpoint, known bool, now time.Time) *wire.Problem {
	c := cr.Certificate
	switch {
	case c == nil:
		return problem(wire.CertificateRequired, "Show the agent's certificate in the TLS handshake; an agent that has none enrols first.")
	case !cr.EMS:
		return problem(wire.TLSEMSRequired, "The TLS library of the agent, or a proxy that ends TLS, does not use the extended master secret (RFC 7627): replace it.")
	case !c.issued || !trusted:
		return problem(wire.CertificateUnknown, "No certificate authority of this fleet issued the certificate. Is this the right gateway?")
	case now.Before(c.NotBefore):
		return problem(wire.CertificateNotYetValid, fmt.Sprintf("The certificate is valid from %s; the gateway's clock says %s. Compare the clocks.", stamp(c.NotBefore), stamp(now)))
	case now.After(c.NotAfter):
		return problem(wire.CertificateExpired, fmt.Sprintf("The certificate expired at %s. Renew it: an expired one is accepted for that, for some time.", stamp(c.NotAfter)))
	case !c.wellNamed:
		return problem(wire.CertificateUnknown, "The certificate does not name an endpoint of this fleet.")
	}
	return JudgeEndpoint(c, e, known, now, Keys(e, now))
}

// Keys are the keys that an endpoint's agent may use now.
func Keys(e store.Endpoint, now time.Time) []store.KeyHash {
	if len(e.Keys) > 1 && !now.Before(e.PreviousKeyExpires) {
		return e.Keys[:1]
	}
	return e.Keys
}

// JudgeEndpoint is the part of the verdict that is about the endpoint: it is there, has this key among keys, and takes part.
func JudgeEndpoint(c *Certificate, e store.Endpoint, known bool, now time.Time, keys []store.KeyHash) *wire.Problem {
	lagging := now.Sub(c.NotBefore.Add(backdate)) < young
	switch {
	case (!known || !slices.Contains(keys, c.Key)) && lagging && !slices.Contains(e.Keys, c.Key):
		return NotReady("the certificate is so new that this gateway has not heard of it")
	case !known:
		return problem(wire.EndpointUnknown, "The Endpoint of this certificate was deleted, or its machine enrolled again. A person enrols this machine again if it is to come back.")
	case !slices.Contains(keys, c.Key):
		return problem(wire.CertificateSuperseded, "A newer certificate was issued to this identity. If this machine does not have it, another machine does: enrol one of the two again.")
	}
	switch e.Lifecycle {
	case v1alpha1.LifecycleSuspended:
		return problem(wire.EndpointSuspended, "The endpoint is suspended: wait until a person makes it active again.")
	case v1alpha1.LifecycleBlocked:
		return problem(wire.EndpointBlocked, "The endpoint is blocked, and its machine may not enrol again.")
	case v1alpha1.LifecycleDecommissioned:
		return problem(wire.EndpointDecommissioned, "The endpoint is decommissioned: remove the agent from this machine.")
	}
	return nil
}

// NotReady is the answer of a gateway that does not know enough yet.
func NotReady(why string) *wire.Problem {
	return &wire.Problem{Name: wire.NotReady, Detail: "Try again: " + why + ".", RetryAfter: time.Second}
}

func problem(name wire.Name, detail string) *wire.Problem {
	return &wire.Problem{Name: name, Detail: detail}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
