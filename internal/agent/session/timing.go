package session

import (
	"time"

	"github.com/spf13/pflag"
)

// Timing is how long an agent waits for what on its websocket. The zero value is no timing: start from DefaultTiming.
type Timing struct {
	// RetryBase is the ceiling of the first backoff; each failure in a row doubles it, up to RetryMax, or RetryMaxBeside while heartbeats go
	// by HTTPS.
	RetryBase, RetryMax, RetryMaxBeside time.Duration
	// RefusedRetry is when to try again after a refusal that only a person can lift; 96 times it where the version is not served.
	RefusedRetry time.Duration
	// Floor of the backoff after the server found too many messages, or another session of this identity.
	Floor time.Duration
	// Stable is how long a session lasts that makes good the failures before it.
	Stable time.Duration
	// Dial bounds an attempt until the websocket is open.
	Dial time.Duration
	// Grace is how long a heartbeat that is due waits for an attempt under way before it goes by HTTPS.
	Grace time.Duration
	// Ping is how long nothing is sent before a ping is, until a policy says otherwise.
	Ping time.Duration
	// Answer is how late the answer to a message may be. Silence, beyond twice the ping interval, is how long nothing may come at all.
	Answer, Silence time.Duration
	// Look is how often a machine that waits looks whether it has slept: timers stand still while it does.
	Look time.Duration
}

// DefaultTiming is the protocol's.
func DefaultTiming() Timing {
	return Timing{
		RetryBase: time.Second, RetryMax: 5 * time.Minute, RetryMaxBeside: 15 * time.Minute, RefusedRetry: 15 * time.Minute, Floor: time.Minute,
		Stable: time.Minute, Dial: 20 * time.Second, Grace: 10 * time.Second, Ping: 30 * time.Second, Answer: 20 * time.Second,
		Silence: 40 * time.Second, Look: 10 * time.Second,
	}
}

// AddFlags lets a person, or a test that scales time, change t. RetryBase, RetryMax and RefusedRetry are the agent's own.
func (t *Timing) AddFlags(f *pflag.FlagSet) {
	f.DurationVar(&t.RetryMaxBeside, "websocket-retry-max", t.RetryMaxBeside, "longest backoff of the websocket while heartbeats go by HTTPS")
	f.DurationVar(&t.Floor, "websocket-floor", t.Floor, "least wait after the server ended the websocket for a flood, or for another session of this machine")
	f.DurationVar(&t.Stable, "websocket-stable", t.Stable, "how long a websocket must last for the backoff to start anew")
	f.DurationVar(&t.Dial, "websocket-dial", t.Dial, "longest wait for a websocket to open")
	f.DurationVar(&t.Grace, "websocket-grace", t.Grace, "how long a heartbeat that is due waits for the websocket before it goes by HTTPS")
	f.DurationVar(&t.Ping, "websocket-ping", t.Ping, "silence before a ping is sent, until a policy says otherwise")
	f.DurationVar(&t.Answer, "websocket-answer", t.Answer, "how late an answer may be before the websocket is given up")
	f.DurationVar(&t.Silence, "websocket-silence", t.Silence, "how long beyond two pings nothing may come before the websocket is given up")
	f.DurationVar(&t.Look, "websocket-look", t.Look, "how often an idle agent looks whether the machine has slept")
}

// Valid tells whether an agent could live by t.
func (t *Timing) Valid() bool {
	return min(t.RetryBase, t.RetryMaxBeside, t.RefusedRetry, t.Stable, t.Dial, t.Ping, t.Answer, t.Silence, t.Look) > 0 &&
		min(t.Floor, t.Grace) >= 0 && t.RetryMax >= t.RetryBase
}
