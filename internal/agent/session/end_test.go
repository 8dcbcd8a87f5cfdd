package session

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

func timing() Timing {
	t := DefaultTiming()
	t.RetryBase, t.RetryMax, t.RefusedRetry = time.Second, 5*time.Minute, 15*time.Minute
	return t
}

// closed is how a session ends with a code and a reason, as an agent reads them.
func closed(code wire.CloseCode, reason string) End {
	return End{Kind: Closed, Problem: wire.ParseClose(code, reason), Phrase: "closed"}
}

// The protocol's table of close codes, and of what an upgrade may be refused for: the shortest and the longest wait until the next attempt
// after several failures, whether heartbeats go by HTTPS meanwhile, and whether this identity is what is refused.
func TestReactions(t *testing.T) {
	const s, m, h = time.Second, time.Minute, time.Hour
	refused := func(p *wire.Problem) End { return End{Kind: Refused, Problem: p, Phrase: "refused"} }
	for _, c := range []struct {
		name               string
		end                End
		shortest, longest  time.Duration
		degrades, identity bool
	}{
		{"1000", closed(1000, ""), 0, 32 * s, false, false},
		{"1001", closed(1001, ""), 0, 32 * s, false, false},
		{"1002 protocol", closed(1002, "malformed"), 0, 32 * s, false, false},
		{"1003 frame kind", closed(1003, ""), 0, 32 * s, false, false},
		{"1007 payload", closed(1007, "malformed"), 0, 32 * s, false, false},
		{"1008 flood", closed(1008, "throttled"), m, 74 * s, false, false},
		{"1009 too big", closed(1009, "payload-too-large"), 0, 32 * s, false, false},
		{"1011 internal", closed(1011, "internal"), 0, 32 * s, false, false},
		{"1012 draining", closed(1012, "draining; retry=100"), 100 * s, 123 * s, false, false},
		{"1013 overloaded", closed(1013, "overloaded; retry=50"), 50 * s, 62 * s, false, false},
		{"4401 expired", closed(4401, "certificate-expired"), 0, 32 * s, false, true},
		{"4401 unknown", closed(4401, "certificate-unknown"), 0, 32 * s, false, true},
		{"4403 suspended", closed(4403, "endpoint-suspended"), 0, 32 * s, false, true},
		{"4403 blocked", closed(4403, "endpoint-blocked"), 0, 32 * s, false, true},
		{"4408 silence", closed(4408, "message-timeout"), 0, 32 * s, false, false},
		{"4409 replaced", closed(4409, "session-replaced"), m, 74 * s, false, true},
		{"4409 conflict", closed(4409, "identity-conflict; retry=300"), 5 * m, 370 * s, false, true},
		{"4410 deleted", closed(4410, ""), 0, 32 * s, false, true},
		{"4426 version", closed(4426, "agent-version-unsupported"), 21 * h, 27 * h, true, false},
		{"a code of the future", closed(4999, "later; retry=60"), m, 74 * s, false, false},
		{"upgrade: a proxy's answer", refused(&wire.Problem{Name: "reply-malformed"}), 0, 32 * s, true, false},
		{"upgrade: a proxy's answer that asks to wait", refused(&wire.Problem{Name: "reply-malformed", RetryAfter: m}), m, 74 * s, true, false},
		{"upgrade: not answered", End{Kind: Refused}, 0, 32 * s, true, false},
		{"upgrade: an old agent", refused(&wire.Problem{Name: wire.AgentVersionUnsupported}), 21 * h, 27 * h, true, false},
		{"upgrade: an old gateway", refused(&wire.Problem{Name: wire.NotFound}), 0, 32 * s, true, false},
		{"upgrade: no subprotocol", refused(&wire.Problem{Name: wire.SubprotocolUnsupported}), 21 * h, 27 * h, true, false},
		{"upgrade: a storm", refused(&wire.Problem{Name: wire.Overloaded, RetryAfter: 5 * s}), 5 * s, 6200 * time.Millisecond, false, false},
		{"upgrade: a storm, no turn", refused(&wire.Problem{Name: wire.Overloaded}), 0, 32 * s, false, false},
		{"upgrade: too often", refused(&wire.Problem{Name: wire.Throttled, RetryAfter: 5 * s}), 5 * s, 6200 * time.Millisecond, false, false},
		{"upgrade: draining", refused(&wire.Problem{Name: wire.Draining}), 0, 32 * s, false, false},
		{"upgrade: suspended", refused(&wire.Problem{Name: wire.EndpointSuspended}), 0, 32 * s, false, true},
		{"nobody there", End{Kind: Unreachable}, 0, 32 * s, false, false},
		{"cut", End{Kind: Lost}, 0, 32 * s, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			timing := timing()
			const failures = 6 // a ceiling of 32 s
			shortest, longest := timing.wait(c.end, failures, false, 0), timing.wait(c.end, failures, false, 0.999999)
			if shortest < c.shortest || longest > c.longest || longest < c.longest*9/10 {
				t.Errorf("waits %s to %s, want %s to %s", shortest, longest, c.shortest, c.longest)
			}
			if c.end.degrades() != c.degrades || c.end.OfIdentity() != c.identity {
				t.Errorf("degrades %t, of identity %t", c.end.degrades(), c.end.OfIdentity())
			}
		})
	}
}

// Backoff is full jitter: from nothing to a ceiling that doubles; the longest is longer while heartbeats go by HTTPS.
func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		timing := timing()
		failures, random := rapid.IntRange(1, 1000).Draw(t, "failures"), rapid.Float64Range(0, 0.999999).Draw(t, "random")
		beside := rapid.Bool().Draw(t, "beside")
		floor := time.Duration(rapid.IntRange(0, 3600).Draw(t, "retry")) * time.Second
		end := closed(1012, "draining")
		end.Problem.RetryAfter = floor
		limit := timing.RetryMax
		if beside {
			limit = timing.RetryMaxBeside
		}
		ceiling := limit
		if failures < 20 {
			ceiling = min(limit, time.Second<<(failures-1))
		}
		want := time.Duration(random * float64(ceiling))
		got := timing.wait(end, failures, beside, random)
		if got < floor || got < want || got > max(want, floor*5/4) {
			t.Fatalf("waits %s, with a ceiling of %s and a floor of %s", got, ceiling, floor)
		}
	})
}
