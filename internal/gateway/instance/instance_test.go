package instance

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/store"
)

const grace = time.Minute

var (
	enrolled = time.Unix(1_800_000_000, 0)
	since    = enrolled.Add(time.Hour) // when A was first seen
	soon     = since.Add(30 * time.Second)
	later    = since.Add(2 * time.Minute)
)

func recorded(change func(*store.Connection)) store.Connection {
	c := store.Connection{Instance: store.Instance{Epoch: 5, ID: "A", Session: 3}, InstanceTime: since, PreviousInstance: "Z"}
	if change != nil {
		change(&c)
	}
	return c
}

func TestJudge(t *testing.T) {
	conflict := func(c *store.Connection) { c.ConflictInstance, c.ConflictReason = "B", v1alpha1.ConflictForked }
	for _, test := range []struct {
		name     string
		recorded store.Connection
		accepted string
		in       store.Instance
		at       time.Time
		want     Verdict
		record   store.Connection
	}{
		{
			"the first contact",
			store.Connection{},
			"",
			store.Instance{Epoch: 1, ID: "A"},
			soon,
			Newer,
			store.Connection{Instance: store.Instance{Epoch: 1, ID: "A"}, InstanceTime: soon},
		},
		{
			"the first contact after enrolling again, with a lower epoch", recorded(func(c *store.Connection) {
				c.InstanceTime, c.ConflictInstance = enrolled.Add(-time.Hour), "B"
			}), "",
			store.Instance{Epoch: 1, ID: "N"},
			soon,
			Newer,
			store.Connection{Instance: store.Instance{Epoch: 1, ID: "N"}, InstanceTime: soon},
		},
		{
			"a gateway whose clock is behind the enrolment",
			store.Connection{},
			"",
			store.Instance{Epoch: 1, ID: "A"},
			enrolled.Add(-time.Minute),
			Newer,
			store.Connection{Instance: store.Instance{Epoch: 1, ID: "A"}, InstanceTime: enrolled},
		},
		{"the same again", recorded(nil), "", store.Instance{Epoch: 5, ID: "A", Session: 3}, later, Current, recorded(nil)},
		{
			"a newer session", recorded(nil), "",
			store.Instance{Epoch: 5, ID: "A", Session: 4},
			soon,
			Current, recorded(func(c *store.Connection) { c.Session = 4 }),
		},
		{"an older session", recorded(nil), "", store.Instance{Epoch: 5, ID: "A", Session: 2}, later, Late, recorded(nil)},
		{
			"a restart", recorded(nil), "",
			store.Instance{Epoch: 6, ID: "R"},
			soon,
			Newer,
			store.Connection{Instance: store.Instance{Epoch: 6, ID: "R"}, InstanceTime: soon, PreviousInstance: "A"},
		},
		{"the instance before, soon: a late packet", recorded(nil), "", store.Instance{Epoch: 4, ID: "Z"}, soon, Late, recorded(nil)},
		{"one before that, soon", recorded(nil), "", store.Instance{Epoch: 3, ID: "Y"}, soon, Late, recorded(nil)},
		{
			"the instance before, later: set back", recorded(nil), "",
			store.Instance{Epoch: 4, ID: "Z"},
			later,
			Conflicting, recorded(func(c *store.Connection) { c.ConflictInstance, c.ConflictReason = "Z", v1alpha1.ConflictRolledBack }),
		},
		{
			"a lower epoch, later: set back", recorded(nil), "",
			store.Instance{Epoch: 2, ID: "Y"},
			later,
			Conflicting, recorded(func(c *store.Connection) { c.ConflictInstance, c.ConflictReason = "Y", v1alpha1.ConflictRolledBack }),
		},
		{
			"another instance of the epoch, at once: a fork", recorded(nil), "",
			store.Instance{Epoch: 5, ID: "B"},
			soon,
			Conflicting, recorded(conflict),
		},
		{"the fork again", recorded(conflict), "", store.Instance{Epoch: 5, ID: "B"}, later, Conflicting, recorded(conflict)},
		{"a third one", recorded(conflict), "", store.Instance{Epoch: 5, ID: "C"}, later, Conflicting, recorded(conflict)},
		{"the recorded one while there is a conflict", recorded(conflict), "", store.Instance{Epoch: 5, ID: "A", Session: 3}, later, Current, recorded(conflict)},
		{
			"a restart does not end a conflict", recorded(conflict), "",
			store.Instance{Epoch: 6, ID: "R"},
			later,
			Newer,
			store.Connection{Instance: store.Instance{Epoch: 6, ID: "R"}, InstanceTime: later, PreviousInstance: "A", ConflictInstance: "B", ConflictReason: v1alpha1.ConflictForked},
		},
		{"the recorded one is accepted", recorded(conflict), "A", store.Instance{Epoch: 5, ID: "A", Session: 3}, later, Current, recorded(nil)},
		{
			"the other one is accepted", recorded(conflict), "B",
			store.Instance{Epoch: 5, ID: "B"},
			later,
			Newer,
			store.Connection{Instance: store.Instance{Epoch: 5, ID: "B"}, InstanceTime: later, PreviousInstance: "A"},
		},
		{
			"one with a lower epoch is accepted", recorded(conflict), "B",
			store.Instance{Epoch: 2, ID: "B"},
			soon,
			Newer,
			store.Connection{Instance: store.Instance{Epoch: 2, ID: "B"}, InstanceTime: soon, PreviousInstance: "A"},
		},
		{"the other one is accepted, and the recorded one speaks first", recorded(conflict), "B", store.Instance{Epoch: 5, ID: "A", Session: 3}, later, Current, recorded(conflict)},
		{
			"a late packet of the accepted one, which has restarted",
			store.Connection{Instance: store.Instance{Epoch: 6, ID: "R"}, InstanceTime: since, PreviousInstance: "A"},
			"A",
			store.Instance{Epoch: 5, ID: "A", Session: 3},
			soon,
			Late,
			store.Connection{Instance: store.Instance{Epoch: 6, ID: "R"}, InstanceTime: since, PreviousInstance: "A"},
		},
		{"after accepting A, B is refused and nothing recorded", recorded(nil), "A", store.Instance{Epoch: 5, ID: "B"}, soon, Conflicting, recorded(nil)},
		{
			"after accepting A, the one that it took over from is refused in spite of its higher epoch",
			recorded(func(c *store.Connection) { c.PreviousInstance = "B" }), "A",
			store.Instance{Epoch: 9, ID: "B"},
			later,
			Conflicting, recorded(func(c *store.Connection) { c.PreviousInstance = "B" }),
		},
		{
			"after accepting A, a restart takes over all the same", recorded(nil), "A",
			store.Instance{Epoch: 6, ID: "R"},
			later,
			Newer,
			store.Connection{Instance: store.Instance{Epoch: 6, ID: "R"}, InstanceTime: later, PreviousInstance: "A"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := store.Endpoint{Connection: test.recorded, AcceptInstance: test.accepted, EnrolledTime: enrolled}
			got, record := Judge(e, Contact{Instance: test.in, At: test.at}, grace)
			if got != test.want {
				t.Errorf("verdict %d, want %d", got, test.want)
			}
			if diff := cmp.Diff(test.record, record); diff != "" {
				t.Errorf("to record (-want +got):\n%s", diff)
			}
		})
	}
}

// Two ways of the same instance: whoever has heard of the later session, or that one is over, is right.
func TestJudgeOfSessions(t *testing.T) {
	at := func(channel v1alpha1.Channel, gateway string) store.Connection {
		return recorded(func(c *store.Connection) { c.Channel, c.Gateway = channel, gateway })
	}
	here, there := at(v1alpha1.ChannelWebSocket, "here"), at(v1alpha1.ChannelWebSocket, "there")
	heartbeat, none := at(v1alpha1.ChannelHeartbeat, ""), at(v1alpha1.ChannelNone, "")
	for _, test := range []struct {
		name     string
		recorded store.Connection
		gateway  string // empty: over HTTPS
		session  int64
		want     Verdict
	}{
		{"its own session goes on", here, "here", 3, Current},
		{"the next session", here, "here", 4, Current},
		{"the next session of another gateway", there, "here", 4, Current},
		{"the session before", here, "here", 2, Late},
		{"a session that another gateway has", there, "here", 3, Late},
		{"a session that was taken for down", none, "here", 3, Current},
		{"a session before one that is down", none, "here", 2, Late},
		{"a session that is over, as its agent said", heartbeat, "here", 3, Late},
		{"the session after one that is over", heartbeat, "here", 4, Current},
		{"over HTTPS: the session is over", here, "", 3, Current},
		{"over HTTPS: the session of another gateway is over", there, "", 3, Current},
		{"over HTTPS, from before the session", here, "", 2, Late},
		{"over HTTPS, with attempts that failed", here, "", 5, Current},
		{"over HTTPS again", heartbeat, "", 3, Current},
		{"over HTTPS, late", heartbeat, "", 2, Late},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := Contact{Instance: test.recorded.Instance, Gateway: test.gateway, At: soon}
			in.Session = test.session
			got, record := Judge(store.Endpoint{Connection: test.recorded, EnrolledTime: enrolled}, in, grace)
			if got != test.want {
				t.Errorf("verdict %d, want %d", got, test.want)
			}
			if want := max(test.recorded.Session, test.session); record.Session != want {
				t.Errorf("session %d is to be recorded, want %d", record.Session, want)
			}
		})
	}
}

// One machine that only ever restarts, and whose packets may arrive up to grace late, is never taken for two.
func TestNoConflictForOneMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := store.Endpoint{EnrolledTime: enrolled}
		now := since
		epoch := int64(1)
		type packet struct {
			store.Instance
			sent time.Time
		}
		var under []packet
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "pause")) * time.Second)
			if rapid.Bool().Draw(t, "restart") {
				epoch++
			}
			under = append(under, packet{store.Instance{Epoch: epoch, ID: string(rune('a' + epoch))}, now})
			for i := 0; i < len(under); { // some arrive, in any order, all within grace
				p := under[i]
				if now.Sub(p.sent) < grace/2 && rapid.Bool().Draw(t, "delayed") {
					i++
					continue
				}
				under = append(under[:i], under[i+1:]...)
				if now.Sub(p.sent) > grace {
					continue // lost
				}
				v, c := Judge(e, Contact{Instance: p.Instance, At: now}, grace)
				if v == Conflicting || c.ConflictInstance != "" {
					t.Fatalf("one machine was taken for two: %+v after %+v", p, e.Connection)
				}
				e.Connection = c
			}
		}
	})
}

// Two machines with one identity that both go on speaking are found out, whatever their epochs.
func TestCloneIsFoundOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := store.Endpoint{EnrolledTime: enrolled}
		machines := []store.Instance{
			{Epoch: int64(rapid.IntRange(1, 5).Draw(t, "epoch of A")), ID: "A"}, {Epoch: int64(rapid.IntRange(1, 5).Draw(t, "epoch of B")), ID: "B"},
		}
		now := since
		for range 6 {
			for _, m := range machines {
				now = now.Add(5 * time.Minute)
				_, e.Connection = Judge(e, Contact{Instance: m, At: now}, grace)
			}
		}
		if e.Connection.ConflictInstance == "" {
			t.Fatalf("not found out: %+v", e.Connection)
		}
	})
}
