package wire

import (
	"errors"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// Bounds of what an agent's certificate is made from, and of a trust reply.
const (
	MaxCSRBytes         = 1 << 10
	MaxCertificateBytes = 2 << 10
	MaxTrustPerReply    = 8
)

// CheckEnrollRequest tells whether m keeps to its bounds. Nothing is verified.
func CheckEnrollRequest(m *agentv1.EnrollRequest) error {
	return signed("enrollment", m.GetEnrollment(), envelope.Enrollment).err()
}

// CheckRenewRequest tells whether m keeps to its bounds. Nothing is verified.
func CheckRenewRequest(m *agentv1.RenewRequest) error {
	return signed("renewal", m.GetRenewal(), envelope.Renewal).err()
}

// CheckEnrollment tells whether the payload of an enrolment keeps to its bounds.
func CheckEnrollment(m *agentv1.Enrollment) error {
	return first(
		uuid("fleet_id", m.GetFleetId(), false),
		uuid("token_uid", m.GetTokenUid(), false),
		size("csr", m.GetCsr(), MaxCSRBytes),
		text("hostname", m.GetHostname(), 1, MaxHostname),
		digits("machine_id", m.GetMachineId(), 64, true),
		version("agent_version", m.GetAgentVersion()),
		moment("created_at", m.GetCreatedAt(), true),
	).err()
}

// CheckRenewal tells whether the payload of a renewal keeps to its bounds.
func CheckRenewal(m *agentv1.Renewal) error {
	return first(
		uuid("fleet_id", m.GetFleetId(), false),
		uuid("identity_id", m.GetIdentityId(), false),
		size("certificate", m.GetCertificate(), MaxCertificateBytes),
		size("csr", m.GetCsr(), MaxCSRBytes),
		moment("created_at", m.GetCreatedAt(), true),
	).err()
}

// CheckTrustReply tells whether m keeps to its bounds. Nothing is verified.
func CheckTrustReply(m *agentv1.TrustReply) error {
	return each("bundles", m.GetBundles(), 0, MaxTrustPerReply, func(e *agentv1.Envelope) *BoundError {
		return signed("", e, envelope.Trust)
	}).err()
}

// CheckCertificateReply tells whether m keeps to its bounds.
func CheckCertificateReply(m *agentv1.CertificateReply) error {
	return size("certificate", m.GetCertificate(), MaxCertificateBytes).err()
}

// signed checks an envelope that must be there and of type t.
func signed(field string, e *agentv1.Envelope, t envelope.Type) *BoundError {
	switch err := envelope.Check(e, t); {
	case err == nil:
		return nil
	case errors.Is(err, envelope.ErrType):
		return &BoundError{field, "an envelope of type " + string(t)}
	default:
		return &BoundError{field, "an envelope within its bounds (" + err.Error() + ")"}
	}
}
