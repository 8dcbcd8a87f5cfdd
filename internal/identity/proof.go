package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// ErrProof is wrapped when an enrolment or a renewal does not prove what it must.
var ErrProof = errors.New("the proof does not hold")

// OpenEnrollment verifies an enrolment with the token's public key and checks what can be checked without a clock: fleet, token and
// request. Errors wrap ErrProof or ErrCSR.
func OpenEnrollment(e *agentv1.Envelope, tokenKey crypto.PublicKey, fleetID, tokenUID string) (*agentv1.Enrollment, CSR, error) {
	p := &agentv1.Enrollment{}
	if err := envelope.Open(e, envelope.Enrollment, p, tokenKey); err != nil {
		return nil, CSR{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if err := wire.CheckEnrollment(p); err != nil {
		return nil, CSR{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if p.GetFleetId() != fleetID || p.GetTokenUid() != tokenUID {
		return nil, CSR{}, fmt.Errorf("%w: it was made for another fleet or token", ErrProof)
	}
	csr, err := ParseCSR(p.GetCsr())
	return p, csr, err
}

// EnrollmentToken reads which token an enrolment claims to use, before anything is verified: only good to look the token up.
func EnrollmentToken(e *agentv1.Envelope) (tokenUID string, err error) {
	if err := envelope.Check(e, envelope.Enrollment); err != nil {
		return "", fmt.Errorf("%w: %w", ErrProof, err)
	}
	p := &agentv1.Enrollment{}
	if err := envelope.Parse(e.GetPayload(), p); err != nil {
		return "", fmt.Errorf("%w: %w", ErrProof, err)
	}
	if !IsUUID(p.GetTokenUid()) {
		return "", fmt.Errorf("%w: token_uid is no UID", ErrProof)
	}
	return p.GetTokenUid(), nil
}

// RenewalProof is a renewal that proves possession of the key of the certificate inside. Whether that certificate was issued here, and is
// still good for this, is the caller's to judge.
type RenewalProof struct {
	Renewal     *agentv1.Renewal
	Certificate *x509.Certificate
	CSR         CSR
}

// OpenRenewal verifies that the key of the certificate inside signed e, that the certificate names fleet and identity as the payload
// does, and that the request is acceptable. Errors wrap ErrProof or ErrCSR.
func OpenRenewal(e *agentv1.Envelope, fleetID string) (RenewalProof, error) {
	if err := envelope.Check(e, envelope.Renewal); err != nil {
		return RenewalProof{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	p := &agentv1.Renewal{}
	if err := envelope.Parse(e.GetPayload(), p); err != nil {
		return RenewalProof{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if err := wire.CheckRenewal(p); err != nil {
		return RenewalProof{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	cert, err := x509.ParseCertificate(p.GetCertificate())
	if err != nil {
		return RenewalProof{}, fmt.Errorf("%w: the certificate inside: %w", ErrProof, err)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return RenewalProof{}, fmt.Errorf("%w: the certificate's key is not ECDSA", ErrProof)
	}
	if err := envelope.Verify(e, envelope.Renewal, key); err != nil {
		return RenewalProof{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	fleet, id, err := ParseURI(cert)
	if err != nil {
		return RenewalProof{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if fleet != fleetID || p.GetFleetId() != fleetID || p.GetIdentityId() != id {
		return RenewalProof{}, fmt.Errorf("%w: it was made for another fleet or identity", ErrProof)
	}
	csr, err := ParseCSR(p.GetCsr())
	return RenewalProof{Renewal: p, Certificate: cert, CSR: csr}, err
}
