// Package problem names what can keep an agent from its server, and says it in words: what it means, and what a person should do.
package problem

import (
	"errors"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Problems that no server sends: the agent finds them itself. In status and logs they stand beside those of the protocol.
const (
	ServerUnreachable    wire.Name = "server-unreachable"     // no connection, or no answer in time
	ServerUntrusted      wire.Name = "server-untrusted"       // its certificate is not of this fleet's server CA, or not for this name
	ServerClockDisagrees wire.Name = "server-clock-disagrees" // its certificate is not valid at the signed time
	ServerNotOfFleet     wire.Name = "server-not-of-fleet"    // its trust does not lead back to the pinned root
	ProxyRefused         wire.Name = "proxy-refused"          // the proxy cannot be reached, or did not open the tunnel
	ReplyMalformed       wire.Name = "reply-malformed"        // an answer that is not of this protocol
	CertificateRefused   wire.Name = "certificate-refused"    // the certificate that came is not the one that was asked for
	TokenMissing         wire.Name = "token-missing"          // no identity, and no token to get one
	TrustMissing         wire.Name = "trust-missing"          // an identity, but the file with the trust was damaged, and no pin is left
	StateUnwritable      wire.Name = "state-unwritable"
	ClockSkewed          wire.Name = "clock-skewed"
)

// Of is err as a problem; an error that is none is one of the agent itself, named so.
func Of(err error) *wire.Problem {
	if p, ok := errors.AsType[*wire.Problem](err); ok {
		return p
	}
	return &wire.Problem{Name: wire.Internal, Detail: err.Error()}
}

// New is a problem with what happened as its detail.
func New(name wire.Name, detail string) *wire.Problem {
	return &wire.Problem{Name: name, Detail: wire.CutText(detail, 1<<10)}
}
