package wire

import (
	"strconv"
	"strings"
	"time"
)

// CloseCode is why a session ends: a status code of RFC 6455 (7.4), or one of this protocol, from 4400.
type CloseCode uint16

// The codes that this protocol sends. docs/protocol.md says how an agent reacts to each.
const (
	CloseNormal          CloseCode = 1000 // the agent stops
	CloseGoingAway       CloseCode = 1001 // the machine goes down
	CloseProtocol        CloseCode = 1002 // RFC 6455 was violated
	CloseUnsupportedData CloseCode = 1003 // text where binary was agreed, or the other way round
	CloseInvalidPayload  CloseCode = 1007 // the message does not decode
	ClosePolicy          CloseCode = 1008 // too much or too many
	CloseTooBig          CloseCode = 1009 // the message is larger than MaxAgentMessageBytes or MaxServerMessageBytes
	CloseInternal        CloseCode = 1011
	CloseDraining        CloseCode = 1012
	CloseOverloaded      CloseCode = 1013
	CloseCertificate     CloseCode = 4401 // expired, superseded or unknown
	CloseNotActive       CloseCode = 4403 // the endpoint is suspended, blocked or decommissioned
	CloseTimeout         CloseCode = 4408 // no message in time
	CloseReplaced        CloseCode = 4409 // by a newer session, or two machines use the identity
	CloseUnknown         CloseCode = 4410 // the endpoint was deleted
	CloseVersion         CloseCode = 4426 // the version of the agent or of the protocol is not served

	// CloseNoStatus and CloseAbnormal are never sent: the peer's close frame had no code, or there was none.
	CloseNoStatus CloseCode = 1005
	CloseAbnormal CloseCode = 1006
)

// MaxCloseReason is how long the reason in a close frame can be, in bytes (RFC 6455, 5.5).
const MaxCloseReason = 123

// closeCodes are the problems that end a session, with the code of each.
var closeCodes = map[Name]CloseCode{
	CertificateRequired:        CloseCertificate,
	CertificateUnknown:         CloseCertificate,
	CertificateNotYetValid:     CloseCertificate,
	CertificateExpired:         CloseCertificate,
	CertificateSuperseded:      CloseCertificate,
	EndpointSuspended:          CloseNotActive,
	EndpointBlocked:            CloseNotActive,
	EndpointDecommissioned:     CloseNotActive,
	EndpointUnknown:            CloseUnknown,
	SessionReplaced:            CloseReplaced,
	IdentityConflict:           CloseReplaced,
	MessageTimeout:             CloseTimeout,
	AgentVersionUnsupported:    CloseVersion,
	ProtocolVersionUnsupported: CloseVersion,
	Malformed:                  CloseInvalidPayload,
	MediaTypeUnsupported:       CloseUnsupportedData,
	PayloadTooLarge:            CloseTooBig,
	Throttled:                  ClosePolicy,
	Internal:                   CloseInternal,
	Draining:                   CloseDraining,
	Overloaded:                 CloseOverloaded,
	NotReady:                   CloseOverloaded,
}

// codeNames is the problem that a code stands for when the reason names none that is known.
var codeNames = map[CloseCode]Name{
	CloseNormal:          Draining,
	CloseGoingAway:       Draining,
	CloseProtocol:        Malformed,
	CloseUnsupportedData: MediaTypeUnsupported,
	CloseInvalidPayload:  Malformed,
	ClosePolicy:          Throttled,
	CloseTooBig:          PayloadTooLarge,
	CloseDraining:        Draining,
	CloseOverloaded:      Overloaded,
	CloseCertificate:     CertificateExpired,
	CloseNotActive:       EndpointSuspended,
	CloseTimeout:         MessageTimeout,
	CloseReplaced:        SessionReplaced,
	CloseUnknown:         EndpointUnknown,
	CloseVersion:         AgentVersionUnsupported,
}

const retryPrefix = "; retry="

// Close is how a session ends with the problem: the code, and the reason "<name>[; retry=<seconds>]".
func (p *Problem) Close() (CloseCode, string) {
	code, ok := closeCodes[p.Name]
	switch {
	case ok:
	case p.Status() < 500:
		code = ClosePolicy
	default:
		code = CloseInternal
	}
	reason := string(p.Name)
	if !isProblemName(reason) {
		reason = string(nameOf(code))
	}
	if p.RetryAfter > 0 {
		reason += retryPrefix + strconv.FormatInt(int64((min(p.RetryAfter, maxRetryAfter)+time.Second-1)/time.Second), 10)
	}
	return code, reason
}

// ParseClose reads how a session was ended by the other side. A reason that names no problem known here gives the one that the code stands
// for, and its words as Detail; a code that is not known either gives Internal.
func ParseClose(code CloseCode, reason string) *Problem {
	name, retry, _ := strings.Cut(reason, retryPrefix)
	p := &Problem{Name: Name(name)}
	if _, known := problems[p.Name]; !known {
		p.Name = nameOf(code)
		p.Detail = CutText(reason, MaxCloseReason)
	}
	if seconds, err := strconv.ParseUint(retry, 10, 32); err == nil {
		p.RetryAfter = min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	return p
}

func nameOf(code CloseCode) Name {
	if name, ok := codeNames[code]; ok {
		return name
	}
	return Internal
}
