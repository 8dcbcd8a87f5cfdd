package agent

import (
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// What a heartbeat can be refused for: the state that a person sees, how long the agent waits, whether it asks for trust or a certificate;
// and that it keeps its identity and comes back by itself.
func TestRefusedHeartbeat(t *testing.T) {
	const m = time.Minute
	for _, c := range []struct {
		problem  wire.Problem
		state    string
		min, max time.Duration // until the next heartbeat, after several refusals
		trust    int
		renewals bool
	}{
		{wire.Problem{Name: wire.CertificateRequired}, "Offline", 0, 15 * m, 1, false},
		{wire.Problem{Name: wire.CertificateUnknown}, "Offline", 0, 15 * m, 1, false},
		{wire.Problem{Name: wire.CertificateNotYetValid}, "Offline", 0, 15 * m, 1, false},
		{wire.Problem{Name: wire.EndpointSuspended}, "Suspended", 13 * m, 17 * m, 0, false},
		{wire.Problem{Name: wire.EndpointBlocked}, "Blocked", 54 * m, 66 * m, 0, false},
		{wire.Problem{Name: wire.EndpointDecommissioned}, "Decommissioned", 54 * m, 66 * m, 0, false},
		{wire.Problem{Name: wire.EndpointUnknown}, "NotEnrolled", 54 * m, 66 * m, 0, false},
		{wire.Problem{Name: wire.IdentityConflict}, "Conflict", 4 * m, 6 * m, 0, false},
		{wire.Problem{Name: wire.ProtocolVersionUnsupported}, "Offline", 20 * 60 * m, 28 * 60 * m, 0, false},
		{wire.Problem{Name: wire.Malformed}, "Offline", 4 * m, 6 * m, 0, false},
		{wire.Problem{Name: wire.PayloadTooLarge}, "Offline", 4 * m, 6 * m, 0, false},
		{wire.Problem{Name: wire.Throttled, RetryAfter: 20 * m}, "Offline", 16 * m, 24 * m, 0, false},
		{wire.Problem{Name: wire.Internal}, "Offline", 0, 5 * m, 0, false},
		{wire.Problem{Name: wire.Overloaded, RetryAfter: 10 * m}, "Offline", 8 * m, 12 * m, 0, false},
		{wire.Problem{Name: wire.Draining}, "Offline", 0, 5 * m, 0, false},
		{wire.Problem{Name: wire.NotReady}, "Offline", 0, 5 * m, 0, false},
		{wire.Problem{Name: "of-the-future"}, "Offline", 0, 5 * m, 0, false},
	} {
		t.Run(string(c.problem.Name), func(t *testing.T) {
			w := newWorldOverHTTPS(t)
			w.online()
			before := w.certificate()
			asked := len(w.gateway.Requests(wire.PathTrust))
			refusals := make([]fleettest.Answer, 8)
			for i := range refusals {
				refusals[i] = fleettest.Refuse(&c.problem)
			}
			w.gateway.Next(wire.PathHeartbeat, refusals...)
			for range refusals {
				w.hurry()
				w.Step(t.Context())
			}
			w.expect(c.state, c.problem.Name)
			if wait := w.beat.due - w.boot(); wait < c.min || wait > c.max {
				t.Errorf("waits %s, want %s to %s", wait, c.min, c.max)
			}
			if got := len(w.gateway.Requests(wire.PathTrust)) - asked; got != c.trust {
				t.Errorf("asked for trust %d times, want %d", got, c.trust)
			}
			if got := len(w.gateway.Requests(wire.PathRenew)) > 0; got != c.renewals {
				t.Errorf("asked for a certificate: %t, want %t", got, c.renewals)
			}
			w.live(c.max + time.Hour)
			w.expect("Online")
			if w.certificate() != before {
				t.Error("the identity has changed")
			}
		})
	}
}

// What an enrolment can be refused for. The agent stops, says why, and tries again when a person asks; the same key asks, so that a token
// that was raised is not used twice.
func TestRefusedEnrolment(t *testing.T) {
	for _, name := range []wire.Name{wire.TokenUnknown, wire.TokenExpired, wire.TokenExhausted, wire.ProofInvalid, wire.EnrollmentDenied, wire.CSRInvalid} {
		t.Run(string(name), func(t *testing.T) {
			w := newWorld(t)
			refuse := fleettest.Refuse(&wire.Problem{Name: name, Detail: "Because."})
			w.gateway.Next(wire.PathEnroll, refuse, refuse)
			w.live(48 * time.Hour)
			w.expect("NotEnrolled", name)
			if s := w.Status(); s.Problems[0].Detail != "Because." || s.Problems[0].RetryInSeconds != nil {
				t.Errorf("says %+v", s.Problems[0])
			}
			w.hurry()
			w.live(time.Hour)
			w.expect("NotEnrolled", name)
			w.hurry()
			w.online()
		})
	}
}

func TestBlockedMachineMayNotEnrol(t *testing.T) {
	w := newWorld(t)
	w.gateway.Next(wire.PathEnroll, fleettest.Refuse(&wire.Problem{Name: wire.EndpointBlocked}))
	w.Step(t.Context())
	w.expect("Blocked", wire.EndpointBlocked)
	w.live(2 * time.Hour)
	w.expect("Online")
}

func TestNoToken(t *testing.T) {
	w := newWorld(t)
	w.crash() // without having saved the token
	w.live(time.Hour)
	w.expect("NotEnrolled", "token-missing")
}

// Backoff is full jitter, grows, and has a ceiling; a Retry-After is a floor, and not the same for all.
func TestBackoff(t *testing.T) {
	timing := DefaultTiming()
	r := timing.react(wire.NotReady, 5*time.Minute)
	for _, c := range []struct {
		failures   int
		retryAfter time.Duration
		random     float64
		want       time.Duration
	}{
		{1, 0, 0, 0},
		{1, 0, 0.999, 2 * time.Second},
		{4, 0, 0.5, 8 * time.Second},
		{100, 0, 0.5, 150 * time.Second},
		{1, 10 * time.Second, 0, 8 * time.Second},
		{1, 10 * time.Second, 0.999, 12 * time.Second},
	} {
		if got := timing.after(r, c.retryAfter, c.failures, c.random); (got - c.want).Abs() > 50*time.Millisecond {
			t.Errorf("failure %d, Retry-After %s, random %v: waits %s, want %s", c.failures, c.retryAfter, c.random, got, c.want)
		}
	}
	if got := timing.after(timing.react(wire.NotReady, 15*time.Second), 0, 100, 0.999); got > 15*time.Second {
		t.Errorf("backs off for %s where heartbeats come every 15s", got)
	}
}

// A machine that says something odd of itself is online all the same, and so is one whose inventory the server does not take.
func TestOddMachine(t *testing.T) {
	w := newWorld(t)
	w.machine.oddity = "a\nb"
	w.online() // the gateway of the tests fails the test if a bound is exceeded
	if b := w.gateway.LastBeat(); b.GetInventory() != nil || b.GetAgent().GetVersion() != "8.0.0" {
		t.Errorf("sent %v", b)
	}
	w = newWorldOverHTTPS(t)
	w.gateway.Next(wire.PathHeartbeat, fleettest.Refuse(&wire.Problem{Name: wire.PayloadTooLarge}))
	w.Step(t.Context())
	w.expect("Offline", wire.PayloadTooLarge)
	w.live(6 * time.Minute)
	w.expect("Online")
	if b := w.gateway.Beats()[0]; b.GetInventory() != nil {
		t.Errorf("sent the same again: %v", b)
	}
}
