package agent

import (
	"crypto/x509"
	"encoding/binary"
	"math"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Timing is how long an agent waits for what. The zero value is no timing: start from DefaultTiming.
type Timing struct {
	// HeartbeatInterval holds until a policy says otherwise.
	HeartbeatInterval time.Duration
	// RetryBase is the first backoff, RetryMax the longest.
	RetryBase, RetryMax time.Duration
	// RefusedRetry is when to ask again after a refusal that only a person can lift: a suspension, say. A third of it after a conflict,
	// four times it where hope is small, 96 times it where the protocol itself is no longer served.
	RefusedRetry time.Duration
	// ActionRepeat is after how long the result of an action is told again, ± 20 %, until the server has it; and how long a full disk is left
	// alone. ActionRunning is how long an action runs before that is told; ActionProgress how long from one word of its progress to the next.
	ActionRepeat, ActionRunning, ActionProgress time.Duration
	// ContentRetry is how long after content that was not good it is tried again, ± 20 %, twice as long each time up to 64 times that.
	ContentRetry time.Duration
	// Websocket has its own; RetryBase, RetryMax and RefusedRetry in it are those above.
	Websocket session.Timing
}

// DefaultTiming is the protocol's.
func DefaultTiming() Timing {
	return Timing{
		HeartbeatInterval: 5 * time.Minute, RetryBase: time.Second, RetryMax: 5 * time.Minute, RefusedRetry: 15 * time.Minute,
		ActionRepeat: 30 * time.Second, ActionRunning: 2 * time.Second, ActionProgress: 30 * time.Second,
		ContentRetry: time.Minute,
		Websocket:    session.DefaultTiming(),
	}
}

// websocket is the timing of the websocket, complete.
func (t Timing) websocket() session.Timing {
	w := t.Websocket
	w.RetryBase, w.RetryMax, w.RefusedRetry = t.RetryBase, t.RetryMax, t.RefusedRetry
	return w
}

// never is a moment that does not come, until somebody asks.
const never = session.Never

// reaction is what an agent does about a problem. It never gives up its identity.
type reaction struct {
	wait  time.Duration // fixed; 0: back off, up to limit
	limit time.Duration
	trust bool // ask for newer trust, once until things go well again
	renew bool // ask for a new certificate
	stop  bool // only a person can help
}

// react is the protocol's table of problems. interval is the heartbeats' own, never waited beyond for what heals by itself.
func (t Timing) react(name wire.Name, interval time.Duration) reaction {
	transient := reaction{limit: min(t.RetryMax, interval)}
	switch name {
	case wire.CertificateRequired, wire.CertificateUnknown, wire.CertificateNotYetValid:
		return reaction{limit: t.RefusedRetry, trust: true}
	case wire.CertificateExpired, wire.CertificateSuperseded:
		return reaction{wait: t.RefusedRetry, renew: true}
	case wire.EndpointSuspended:
		return reaction{wait: t.RefusedRetry}
	case wire.EndpointBlocked, wire.EndpointDecommissioned, wire.EndpointUnknown, wire.TLSEMSRequired:
		return reaction{wait: 4 * t.RefusedRetry}
	case wire.IdentityConflict:
		return reaction{wait: t.RefusedRetry / 3}
	case wire.ProtocolVersionUnsupported:
		return reaction{wait: 96 * t.RefusedRetry}
	case wire.TokenUnknown, wire.TokenExpired, wire.TokenExhausted, wire.ProofInvalid, wire.EnrollmentDenied, wire.CSRInvalid, problem.TokenMissing:
		return reaction{stop: true}
	case wire.Malformed, wire.NotFound, wire.MethodNotAllowed, wire.LengthRequired, wire.MediaTypeUnsupported, wire.PayloadTooLarge:
		return reaction{wait: interval}
	case problem.ServerUntrusted:
		return reaction{limit: t.RefusedRetry, trust: true}
	case problem.ServerNotOfFleet, problem.CertificateRefused:
		return reaction{limit: t.RefusedRetry}
	case problem.TrustMissing:
		return reaction{wait: t.RefusedRetry}
	default: // unreachable, overloaded, draining, not ready, throttled, and what the future brings
		return transient
	}
}

// after is how long a reaction waits: random is in [0,1), failures counts from 1. Backoff is full jitter. The server's Retry-After is a
// floor, ± 20 %, so that a thousand agents that got the same one do not come back as one.
func (t Timing) after(r reaction, retryAfter time.Duration, failures int, random float64) time.Duration {
	if r.stop {
		return never
	}
	wait := session.Jitter(r.wait, 0.1, random)
	if r.wait == 0 {
		ceiling := r.limit
		if shift := min(failures, 30); t.RetryBase<<shift < ceiling && t.RetryBase<<shift > 0 {
			ceiling = t.RetryBase << shift
		}
		wait = time.Duration(random * float64(ceiling))
	}
	return max(wait, session.Jitter(retryAfter, 0.2, random))
}

// renewAt is when to renew a certificate: at two thirds of its lifetime ± 5 % of it. Which is decided by its serial number: a restarted
// agent thinks the same, and a fleet that was enrolled in one minute does not renew in one.
func renewAt(cert *x509.Certificate) time.Time {
	var serial [8]byte
	b := cert.SerialNumber.Bytes()
	copy(serial[:], b[max(0, len(b)-len(serial)):])
	random := float64(binary.BigEndian.Uint64(serial[:])) / math.MaxUint64
	lifetime := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotBefore.Add(lifetime*2/3 + session.Jitter(lifetime/20, 1, random) - lifetime/20)
}
