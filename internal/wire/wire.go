// Package wire is the agent protocol as it meets the network: routes, bodies and headers, the bounds of every message, and the problem
// documents that refuse what exceeds them. Gateway and agent share it; it keeps no state and starts nothing.
package wire

import "google.golang.org/protobuf/proto"

// Routes of version 1.
const (
	PathPrefix    = "/agent/v1"
	PathTrust     = PathPrefix + "/trust"
	PathEnroll    = PathPrefix + "/enroll"
	PathRenew     = PathPrefix + "/renew"
	PathHeartbeat = PathPrefix + "/heartbeat"
	PathActions   = PathPrefix + "/actions"
)

// Headers and query parameters.
const (
	// HeaderAgentVersion is in every request: the agent's semantic version.
	HeaderAgentVersion = "Rollcall-Agent-Version"
	// QueryAfter of PathTrust is the newest trust version that the agent holds, 0 for none.
	QueryAfter = "after"
)

// Bodies, in bytes. A reader stops one byte past them.
const (
	MaxHeaderBytes      = 8 << 10
	MaxEnrollBytes      = 16 << 10
	MaxRenewBytes       = 16 << 10
	MaxHeartbeatBytes   = 64 << 10
	MaxActionsBytes     = 256 << 10
	MaxTrustReply       = 256 << 10
	MaxHeartbeatReply   = 1 << 20
	MaxAcksBytes        = 256 << 10
	MaxCertificateReply = 4 << 10
	MaxProblemBytes     = 16 << 10
)

// Message is a message of api/agent/v1.
type Message interface {
	proto.Message
	MarshalVT() ([]byte, error)
}
