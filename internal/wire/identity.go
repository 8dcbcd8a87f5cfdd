package wire

import (
	"errors"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// Bounds of what an agent's certificate is made from, and of trust.
const (
	MaxCSRBytes         = 1 << 10
	MaxCertificateBytes = 2 << 10
	MaxTrustPerReply    = 8
	MinTrustKeys        = 2
	MaxTrustKeys        = 16
	MaxKeyBytes         = 2 << 10
	MaxKeyUses          = 4
	MaxTrustCAs         = 4
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

// CheckTrustBundle tells whether the payload of a trust bundle keeps to its bounds.
func CheckTrustBundle(m *agentv1.TrustBundle) error {
	certificate := func(der []byte) *BoundError { return size("", der, MaxCertificateBytes) }
	return first(
		uuid("fleet_id", m.GetFleetId(), false),
		number("version", m.GetVersion(), 1, MaxNumber),
		moment("issued_at", m.GetIssuedAt(), false),
		each("keys", m.GetKeys(), MinTrustKeys, MaxTrustKeys, func(k *agentv1.TrustKey) *BoundError {
			return first(
				size("spki", k.GetSpki(), MaxKeyBytes),
				each("uses", k.GetUses(), 1, MaxKeyUses, func(agentv1.KeyUse) *BoundError { return nil }),
			)
		}),
		each("server_ca", m.GetServerCa(), 1, MaxTrustCAs, certificate),
		each("agent_ca", m.GetAgentCa(), 1, MaxTrustCAs, certificate),
		moment("reset_time_floor", m.GetResetTimeFloor(), true),
	).err()
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
