package enroll

import (
	"context"
	"crypto/sha256"
	"net/netip"
	"slices"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Renew checks a renewal that keeps to its bounds, and has the manager answer it. The certificate that it names may have expired: how long ago
// is the manager's to judge. known says that the connection's own certificate was found good, so that no stranger is to be limited.
func (s *Service) Renew(ctx context.Context, m *agentv1.RenewRequest, from netip.Addr, known bool, now time.Time) (Answer, *wire.Problem) {
	trust, ok := s.config.Source.Trust()
	if !ok {
		return Answer{}, auth.NotReady("the trust bundle was not read yet")
	}
	leave, p := s.enter(now)
	if p != nil {
		return Answer{}, p
	}
	defer leave()
	if !known {
		if p := s.limit(from, "", now); p != nil {
			return Answer{}, p
		}
	}
	signed := m.GetRenewal()
	proof, err := identity.OpenRenewal(signed, trust.FleetID)
	if err != nil {
		return Answer{}, refuse(err)
	}
	// A superseded certificate was issued here once: two machines use one identity. The manager refuses it too, and tells people.
	if p := s.judgeRenewal(proof, trust, now); p != nil && p.Name != wire.CertificateSuperseded {
		return Answer{}, p
	}
	if p := s.limitRenewals(proof, now); p != nil {
		return Answer{}, p
	}
	return s.certify(ctx, proof.CSR, signed)
}

func (s *Service) judgeRenewal(proof identity.RenewalProof, trust *store.Trust, now time.Time) *wire.Problem {
	if !trust.IssuedByAgentCA(proof.Certificate) {
		return &wire.Problem{Name: wire.CertificateUnknown, Detail: "No certificate authority of this fleet issued the certificate that is to be renewed. Is this the right gateway?"}
	}
	if now.Before(proof.Certificate.NotBefore) {
		return &wire.Problem{Name: wire.CertificateNotYetValid, Detail: "The certificate that is to be renewed is not valid yet. Compare the clocks."}
	}
	c := auth.Read(proof.Certificate, trust)
	e, there := s.config.Source.EndpointByIdentity(c.IdentityID)
	return auth.JudgeEndpoint(c, e, there, now, renewable(e, proof.CSR.SPKI, now))
}

// renewable are the keys whose certificates may be renewed: those that may be used, and the previous one for good where the newest is the one
// that is asked for again, because its certificate got lost on the way.
func renewable(e store.Endpoint, spki []byte, now time.Time) []store.KeyHash {
	if len(e.Keys) > 1 && e.Keys[0] == sha256.Sum256(spki) {
		return e.Keys
	}
	return auth.Keys(e, now)
}

// limitRenewals counts a renewal whose proof holds, unless it is the newest one again.
func (s *Service) limitRenewals(proof identity.RenewalProof, now time.Time) *wire.Problem {
	this := sha256.Sum256(slices.Concat(proof.Certificate.RawSubjectPublicKeyInfo, proof.CSR.SPKI))
	id := proof.Renewal.GetIdentityId()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.renewals[id]
	if r == nil {
		r = &renewals{}
		s.renewals[id] = r
	}
	if r.newest == this {
		return nil
	}
	if wait, ok := r.pace.Take(s.config.Renewal, now); !ok {
		return throttled("of this endpoint", wait)
	}
	r.newest = this
	return nil
}
