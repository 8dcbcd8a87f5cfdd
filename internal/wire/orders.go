package wire

import (
	"fmt"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// Bounds of orders and of the answer that carries them.
const (
	MaxOrders      = 32
	MaxOrdersBytes = 768 << 10
	MaxFeatures    = 32
	MaxSections    = 8

	MinHeartbeatInterval = time.Second
	MaxHeartbeatInterval = 24 * time.Hour
	MinReportInterval    = 10 * time.Minute
	MaxReportInterval    = 24 * time.Hour
	MinPingInterval      = 15 * time.Second
	MaxPingInterval      = 4 * time.Minute

	MaxNamespace        = 63
	MaxDisabledActions  = 12
	MaxIsolationAllow   = 64
	MaxWindows          = 14
	MaxTimeZone         = 64
	MaxContentDelayDays = 90

	MaxReleaseVersion   = 39
	MaxShare            = 10_000
	MaxArtifacts        = 16
	MaxArtifactBytes    = 4 << 30
	MaxPlatform         = 64
	MaxMediaType        = 128
	MaxReleaseSignature = 1 << 10
	MaxWithdrawn        = 16
)

// CheckHeartbeatReply tells whether m keeps to its bounds. Nothing is verified, and orders of unknown types are let through: the agent
// ignores them.
func CheckHeartbeatReply(m *agentv1.HeartbeatReply) error { return heartbeatReply(m).err() }

func heartbeatReply(m *agentv1.HeartbeatReply) *BoundError {
	return first(
		moment("server_time", m.GetServerTime(), true),
		newestBeacon(m.GetBeacon()),
		orders(m.GetOrders(), 0),
		each("send", m.GetSend(), 0, MaxSections, func(agentv1.Section) *BoundError { return nil }),
		each("features", m.GetFeatures(), 0, MaxFeatures, func(s string) *BoundError { return text("", s, 1, MaxText) }),
		text("gateway", m.GetGateway(), 0, MaxText),
	)
}

// newestBeacon is an envelope of its type, or unset.
func newestBeacon(e *agentv1.Envelope) *BoundError {
	if e == nil {
		return nil
	}
	return signed("beacon", e, envelope.Beacon)
}

// orders are lo to MaxOrders, of whatever types.
func orders(all []*agentv1.Envelope, lo int) *BoundError {
	total := 0
	for _, e := range all {
		total += e.SizeVT()
	}
	if total > MaxOrdersBytes {
		return &BoundError{"orders", fmt.Sprintf("at most %d bytes together", MaxOrdersBytes)}
	}
	return each("orders", all, lo, MaxOrders, func(e *agentv1.Envelope) *BoundError {
		return signed("", e, envelope.Type(e.GetPayloadType()))
	})
}

// CheckBeacon tells whether the payload of a beacon keeps to its bounds.
func CheckBeacon(m *agentv1.Beacon) error {
	return first(
		uuid("fleet_id", m.GetFleetId(), false),
		moment("issued_at", m.GetIssuedAt(), false),
		number("trust_version", m.GetTrustVersion(), 1, MaxNumber),
	).err()
}

// CheckAssignment tells whether the payload of an assignment keeps to its bounds.
func CheckAssignment(m *agentv1.Assignment) error {
	return first(
		uuid("fleet_id", m.GetFleetId(), false),
		uuid("identity_id", m.GetIdentityId(), false),
		text("namespace", m.GetNamespace(), 1, MaxNamespace),
		moment("issued_at", m.GetIssuedAt(), false),
		uuid("policy_id", m.GetPolicyId(), true),
	).err()
}

// CheckOffer tells whether the payload of an offer keeps to its bounds. Whether its versions are some is not looked at.
func CheckOffer(m *agentv1.Offer) error {
	return first(
		uuid("fleet_id", m.GetFleetId(), false),
		text("namespace", m.GetNamespace(), 1, MaxNamespace),
		uuid("release_uid", m.GetReleaseUid(), false),
		text("version", m.GetVersion(), 1, MaxReleaseVersion),
		number("sequence", m.GetSequence(), 1, MaxNumber),
		number("share", uint64(m.GetShare()), 0, MaxShare),
		moment("issued_at", m.GetIssuedAt(), false),
		moment("released_at", m.GetReleasedAt(), false),
		each("artifacts", m.GetArtifacts(), 1, MaxArtifacts, artifact),
		each("withdrawn", m.GetWithdrawn(), 0, MaxWithdrawn, func(s string) *BoundError { return text("", s, 1, MaxReleaseVersion) }),
	).err()
}

func artifact(m *agentv1.Artifact) *BoundError {
	return first(
		text("platform", m.GetPlatform(), 0, MaxPlatform),
		digits("sha256", m.GetSha256(), 64, false),
		number("size", m.GetSize(), 1, MaxArtifactBytes),
		text("media_type", m.GetMediaType(), 1, MaxMediaType),
		size("signature", []byte(m.GetSignature()), MaxReleaseSignature),
	)
}

// CheckPolicy tells whether the payload of a policy keeps to its bounds.
func CheckPolicy(m *agentv1.Policy) error {
	return first(
		uuid("fleet_id", m.GetFleetId(), false),
		uuid("policy_id", m.GetPolicyId(), false),
		number("revision", m.GetRevision(), 1, MaxNumber),
		moment("issued_at", m.GetIssuedAt(), false),
		span("heartbeat_interval", m.GetHeartbeatInterval(), MinHeartbeatInterval, MaxHeartbeatInterval),
		span("report_interval", m.GetReportInterval(), MinReportInterval, MaxReportInterval),
		each("disabled_actions", m.GetDisabledActions(), 0, MaxDisabledActions, func(s string) *BoundError {
			return text("", s, 1, MaxCapabilityName)
		}),
		each("isolation_allow", m.GetIsolationAllow(), 0, MaxIsolationAllow, network),
		text("content_version", m.GetContentVersion(), 0, MaxVersion),
		number("content_delay_days", uint64(m.GetContentDelayDays()), 0, MaxContentDelayDays),
		each("windows", m.GetWindows(), 0, MaxWindows, window),
		span("ping_interval", m.GetPingInterval(), MinPingInterval, MaxPingInterval),
	).err()
}

func window(m *agentv1.MaintenanceWindow) *BoundError {
	return first(
		each("days", m.GetDays(), 0, 7, func(d uint32) *BoundError { return number("", uint64(d), 0, 6) }),
		number("start_minute", uint64(m.GetStartMinute()), 0, 24*60-1),
		number("duration_minutes", uint64(m.GetDurationMinutes()), 15, 24*60),
		text("time_zone", m.GetTimeZone(), 0, MaxTimeZone),
	)
}
