package outbox

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
)

const start = time.Hour

func box() *Box { return &Box{Repeat: 30 * time.Second, Progress: 30 * time.Second} }

func (b *Box) expect(t *testing.T, at time.Duration, want string) Update {
	t.Helper()
	u, ok := b.Due(at)
	got := ""
	if ok {
		got = fmt.Sprint(u.UID, " ", u.Phase, " ", u.Percent)
	}
	if got != want {
		t.Errorf("at %s: %q, want %q", at-start, got, want)
	}
	return u
}

// A result is told again and again until the server has it.
func TestResult(t *testing.T) {
	b := box()
	b.Tell(Update{UID: "a", Phase: Finished}, start, false)
	const a = "a ACTION_PHASE_FINISHED 0"
	for at := start; at < start+3*time.Minute; at += 30 * time.Second {
		b.Sent(b.expect(t, at, a), at, 0.5)
		b.expect(t, at+30*time.Second-1, "")
	}
	at := start + 3*time.Minute
	b.Sent(b.expect(t, at, a), at, 0)
	b.expect(t, at+24*time.Second, a)
	b.Sent(b.expect(t, at+24*time.Second, a), at+24*time.Second, 0.999999)
	b.expect(t, at+59*time.Second, "")
	b.Again(at + 30*time.Second) // another websocket
	b.expect(t, at+30*time.Second, a)
	b.Sent(Update{UID: "a", Phase: Finished}, at+30*time.Second, 0.5)
	b.Refused("a", at+31*time.Second, 5*time.Minute)
	b.expect(t, at+5*time.Minute+30*time.Second, "")
	b.expect(t, at+5*time.Minute+31*time.Second, a)
	b.Settled("a")
	if b.expect(t, at+time.Hour, ""); b.Next() != session.Never {
		t.Errorf("something is due at %s", b.Next())
	}
}

// Everything else is told once; what it has come to since takes its place.
func TestPhases(t *testing.T) {
	b := box()
	b.Tell(Update{UID: "a", Phase: Acknowledged}, start, false)
	b.Sent(b.expect(t, start, "a ACTION_PHASE_ACKNOWLEDGED 0"), start, 0.5)
	b.Tell(Update{UID: "a", Phase: Running}, start+2*time.Second, false)
	b.expect(t, start+time.Second, "")
	running := b.expect(t, start+2*time.Second, "a ACTION_PHASE_RUNNING 0")
	b.Sent(running, start+2*time.Second, 0.5)
	b.Tell(Update{UID: "a", Phase: Running, Percent: 10}, start+3*time.Second, false)
	b.Tell(Update{UID: "a", Phase: Running, Percent: 20}, start+4*time.Second, false)
	b.expect(t, start+31*time.Second, "")
	b.Again(start + 5*time.Second) // a heartbeat says that it runs
	b.expect(t, start+31*time.Second, "")
	b.expect(t, start+32*time.Second, "a ACTION_PHASE_RUNNING 20")
	b.Tell(Update{UID: "a", Phase: Finished}, start+32*time.Second, false)
	b.Sent(running, start+32*time.Second, 0.5) // late word of what was sent before
	b.expect(t, start+32*time.Second, "a ACTION_PHASE_FINISHED 0")

	b.Tell(Update{UID: "b", Phase: Finished}, start, true) // asked for again, and long settled
	b.Sent(b.expect(t, start+40*time.Second, "b ACTION_PHASE_FINISHED 0"), start, 0.5)
	b.expect(t, start+40*time.Second, "a ACTION_PHASE_FINISHED 0")
}

// Whatever is told, sent, refused and acknowledged in whatever order: a result that was not settled comes up again within its repetition, or
// the time that the server asked for, and nothing comes up that was settled.
func TestWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, now := box(), start
		open := map[string]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now += time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second
			uid := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "uid")
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0:
				if !open[uid] {
					b.Tell(Update{UID: uid, Phase: rapid.SampledFrom([]agentv1.ActionPhase{Acknowledged, Running}).Draw(t, "phase")}, now, false)
				}
			case 1:
				b.Tell(Update{UID: uid, Phase: Finished}, now, false)
				open[uid] = true
			case 2:
				if u, ok := b.Due(now); ok {
					b.Sent(u, now, rapid.Float64Range(0, 0.999).Draw(t, "random"))
				}
			case 3:
				b.Refused(uid, now, time.Duration(rapid.IntRange(0, 60).Draw(t, "wait"))*time.Second)
			case 4:
				b.Settled(uid)
				delete(open, uid)
			case 5:
				b.Again(now)
			}
		}
		due := map[string]bool{}
		for range 10 {
			if u, ok := b.Due(now + 2*time.Minute); ok && u.Phase == Finished {
				due[u.UID] = true
				b.Settled(u.UID)
			} else if ok {
				b.Sent(u, now+2*time.Minute, 0.5)
			}
		}
		if len(due) != len(open) {
			t.Fatalf("due %v, open %v", due, open)
		}
	})
}
