package session

import (
	"slices"
	"time"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Kind is how an attempt at a session, or a session, came to its end.
type Kind int

// Kinds of ends.
const (
	// Left: this agent ended it, for a reason of its own. No fault.
	Left Kind = iota
	// Unreachable: there was no TLS connection to the server.
	Unreachable
	// Refused: the upgrade was not answered, or with anything but 101.
	Refused
	// Closed: the server ended it with a close frame.
	Closed
	// Lost: it was cut, or fell silent.
	Lost
)

// End is why there is no session.
type End struct {
	Kind Kind
	// Problem is what the server said, nil where it said nothing.
	Problem *wire.Problem
	// Phrase completes the sentence "There is no websocket: ...", here, in heartbeats and so in kubectl.
	Phrase string
	// Detail says the same to the person on the machine at more length, "" where there is no more to say.
	Detail string
}

// ofIdentity are the problems by which the server refuses this identity, whatever way it comes: HTTPS would be told the same.
var ofIdentity = []wire.Name{
	wire.CertificateRequired, wire.CertificateUnknown, wire.CertificateNotYetValid, wire.CertificateExpired, wire.CertificateSuperseded,
	wire.EndpointSuspended, wire.EndpointBlocked, wire.EndpointDecommissioned, wire.EndpointUnknown,
	wire.SessionReplaced, wire.IdentityConflict, wire.TLSEMSRequired,
}

// busy are the problems of a server that will take this agent later.
var busy = []wire.Name{wire.Throttled, wire.Overloaded, wire.Draining, wire.NotReady, wire.Internal}

// unsupported are the problems that only another version of the agent, or of the server, gets over.
var unsupported = []wire.Name{wire.AgentVersionUnsupported, wire.ProtocolVersionUnsupported, wire.SubprotocolUnsupported}

// Name of the problem that the server gave, "" for none.
func (e End) Name() wire.Name {
	if e.Problem == nil {
		return ""
	}
	return e.Problem.Name
}

// OfIdentity tells whether the server refuses this identity, over HTTPS as well: then the next attempt is when the refusal says, and not
// the backoff of the websocket.
func (e End) OfIdentity() bool { return slices.Contains(ofIdentity, e.Name()) }

// Unsupported tells whether there will be no websocket between this agent and this server.
func (e End) Unsupported() bool { return slices.Contains(unsupported, e.Name()) }

// degrades tells whether HTTPS is worth trying at once: the server, or something on the way, lets requests through and no websocket.
func (e End) degrades() bool {
	return e.Unsupported() || e.Kind == Refused && !e.OfIdentity() && !slices.Contains(busy, e.Name())
}

// wait is how long until the next attempt: full jitter up to a ceiling that each failure in a row doubles, but never below what the server
// asked for. failures counts from 1, random is in [0,1), beside says that heartbeats go by HTTPS.
func (t *Timing) wait(e End, failures int, beside bool, random float64) time.Duration {
	// Above the floor, not around it; and spread, or all that were given the same would come back as one.
	floor := Jitter(t.AtLeast(e), 0.1, random) * 10 / 9
	switch {
	case e.Unsupported():
		return Jitter(96*t.RefusedRetry, 0.1, random)
	case e.hasTurn(): // it is given to another if nobody comes
		return floor
	}
	limit := t.RetryMax
	if beside {
		limit = max(t.RetryMaxBeside, t.RetryMax)
	}
	ceiling := limit
	if shift := min(max(failures-1, 0), 30); t.RetryBase<<shift < limit && t.RetryBase<<shift > 0 {
		ceiling = t.RetryBase << shift
	}
	return max(time.Duration(random*float64(ceiling)), floor)
}

// hasTurn tells whether the server, in a storm, has said when it will take this agent.
func (e End) hasTurn() bool {
	return e.Kind == Refused && e.Problem != nil && e.Problem.RetryAfter > 0 && (e.Problem.Name == wire.Overloaded || e.Problem.Name == wire.Throttled)
}

// AtLeast is a floor of the backoff.
func (t *Timing) AtLeast(e End) time.Duration {
	switch {
	case e.Problem == nil:
		return 0
	case e.Kind == Closed && (e.Problem.Name == wire.Throttled || e.Problem.Name == wire.SessionReplaced):
		return max(e.Problem.RetryAfter, t.Floor)
	default:
		return e.Problem.RetryAfter
	}
}

// Jitter is d ± a share of it; random is in [0,1).
func Jitter(d time.Duration, share, random float64) time.Duration {
	return time.Duration(float64(d) * (1 - share + 2*share*random))
}
