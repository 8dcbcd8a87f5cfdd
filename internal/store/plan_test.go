package store

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

func conn(epoch int64, id string, session int64) Connection {
	return Connection{Instance: Instance{epoch, instanceOf(id), session}, Channel: v1alpha1.ChannelHeartbeat, InstanceTime: enrolled}
}

func conflicting(c Connection, id string) Connection {
	c.ConflictInstance = instanceOf(id)
	return c
}

func TestWhoseStateStands(t *testing.T) {
	c := conn
	none := Connection{}
	for name, tc := range map[string]struct {
		replaces, mine, stored Connection
		want                   bool
	}{
		"what was judged is what is stored":          {c(5, "A", 1), c(6, "B", 1), c(5, "A", 1), true},
		"the first connection":                       {none, c(1, "A", 1), none, true},
		"an accepted instance, lower than the other": {conflicting(c(9, "B", 1), "A"), c(5, "A", 2), conflicting(c(9, "B", 1), "A"), true},
		"the manager has set the channel":            {c(5, "A", 1), c(5, "A", 2), func() Connection { x := c(5, "A", 1); x.Channel = v1alpha1.ChannelNone; return x }(), true},
		"another replica has written the same":       {c(4, "Z", 1), c(5, "A", 1), c(5, "A", 1), true},
		"another replica has a lower session":        {c(4, "Z", 1), c(5, "A", 3), c(5, "A", 2), true},
		"another replica has a higher session":       {c(4, "Z", 1), c(5, "A", 3), c(5, "A", 4), false},
		"another replica has a higher epoch":         {c(4, "Z", 1), c(5, "A", 3), c(6, "B", 1), false},
		"another replica has a lower epoch":          {c(3, "Y", 1), c(5, "A", 1), c(4, "Z", 9), true},
		"another replica has a fork":                 {c(4, "Z", 1), c(5, "A", 1), c(5, "B", 1), false},
		"another replica has found a conflict":       {c(5, "A", 1), c(5, "A", 2), conflicting(c(5, "A", 1), "B"), false},
		"it was removed: enrolled again":             {c(5, "A", 1), c(5, "A", 2), none, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := change{replaces: tc.replaces, connection: &tc.mine}
			if got := c.stands(tc.stored); got != tc.want {
				t.Errorf("%t, want %t", got, tc.want)
			}
		})
	}
}

// on is a session, at a gateway.
func on(session int64, gateway string) Connection {
	c := conn(5, "A", session)
	c.Channel, c.Gateway = v1alpha1.ChannelWebSocket, gateway
	return c
}

func off(c Connection) Connection {
	c.Channel, c.Gateway = v1alpha1.ChannelNone, ""
	return c
}

// Sessions come and go at several gateways, and what is said of them may be late.
func TestWhatStandsOfSessions(t *testing.T) {
	heartbeat, none := conn(5, "A", 3), off(on(3, ""))
	other := conn(6, "B", 1)
	for name, tc := range map[string]struct {
		replaces, mine, stored Connection
		want                   bool
	}{
		"down, and it is the one":                            {on(3, "a"), none, on(3, "a"), true},
		"down, and somebody has found a conflict":            {on(3, "a"), none, conflicting(on(3, "a"), "B"), true},
		"down, and the next is up":                           {on(3, "a"), none, on(4, "a"), false},
		"down, and the next is up elsewhere":                 {on(3, "a"), none, on(4, "b"), false},
		"down, and another gateway has the same":             {on(3, "a"), none, on(3, "b"), false},
		"down, and a heartbeat came":                         {on(3, "a"), none, heartbeat, false},
		"down, and it is known":                              {on(3, "a"), none, none, false},
		"down, and a restart is up":                          {on(3, "a"), none, other, false},
		"down, and an instance of a lower epoch is accepted": {on(3, "a"), none, conn(2, "C", 1), false},
		"down, and enrolled again":                           {on(3, "a"), none, Connection{}, false},
		"up and down before it was written":                  {on(2, "b"), none, on(2, "b"), true},
		"up and down before it was written, and the next is": {on(2, "b"), none, on(4, "b"), false},
		"up again after it was taken for down":               {none, on(3, "a"), none, true},
		"up again, and a heartbeat has come":                 {none, on(3, "a"), heartbeat, false},
		"up, and its agent has said that it is over":         {on(2, "b"), on(3, "a"), heartbeat, false},
		"up, and the next is":                                {on(2, "b"), on(3, "a"), on(4, "b"), false},
		"up, after the one before":                           {on(2, "b"), on(3, "a"), on(2, "b"), true},
		"up, while another gateway has the same":             {on(2, "b"), on(3, "a"), on(3, "b"), false},
		"a conflict while there is no session":               {none, conflicting(none, "B"), none, true},
		"a conflict, and a session is up again":              {none, conflicting(none, "B"), on(3, "a"), true},
		"a conflict, and another has found one":              {none, conflicting(none, "B"), conflicting(none, "C"), false},
		"a conflict while there is one, which is down":       {on(3, "a"), conflicting(on(3, "a"), "B"), none, true},
		"a conflict, and a heartbeat came":                   {on(3, "a"), conflicting(on(3, "a"), "B"), heartbeat, true},
		"a conflict, and the next session is up":             {on(3, "a"), conflicting(on(3, "a"), "B"), on(4, "a"), false},
		"the end of a conflict, and the session is down":     {conflicting(on(3, "a"), "B"), on(3, "a"), conflicting(none, "B"), true},
		"a heartbeat after the session":                      {on(3, "a"), heartbeat, on(3, "a"), true},
		"a heartbeat after the session, which is down":       {on(3, "a"), heartbeat, none, true},
		"a heartbeat, and the next session is up":            {on(3, "a"), heartbeat, on(4, "a"), false},
	} {
		t.Run(name, func(t *testing.T) {
			c := changeOf(Report{Replaces: tc.replaces, Connection: &tc.mine})
			if tc.mine == none {
				c.gateway = "a"
			}
			if got := c.stands(tc.stored); got != tc.want {
				t.Errorf("%t, want %t", got, tc.want)
			}
		})
	}
}

// A conflict takes no session down, and brings none back.
func TestAConflictChangesNoChannel(t *testing.T) {
	all := map[string]Connection{"none": off(on(3, "")), "a session": on(3, "b"), "heartbeats": conn(5, "A", 3)}
	for found, replaces := range all {
		mine := conflicting(replaces, "B")
		c := changeOf(Report{Replaces: replaces, Connection: &mine})
		for what, stored := range all {
			if diff := cmp.Diff(conflicting(stored, "B"), c.over(state{connection: stored}).connection); diff != "" {
				t.Errorf("found while there was %s, now %s: %s", found, what, diff)
			}
		}
		end := changeOf(Report{Replaces: mine, Connection: &replaces})
		for what, stored := range all {
			if diff := cmp.Diff(stored, end.over(state{connection: conflicting(stored, "B")}).connection); diff != "" {
				t.Errorf("ended while there was %s, now %s: %s", found, what, diff)
			}
		}
	}
}

// A conflict that is found of what is not written yet goes along with it.
func TestAConflictIsMergedWithWhatItIsFoundOf(t *testing.T) {
	before, up, down := on(2, "b"), on(3, "a"), off(on(3, "a"))
	for name, tc := range map[string]struct{ replaces, waits, stored, want Connection }{
		"a session that is up":                       {before, up, before, conflicting(up, "B")},
		"a session that is down":                     {up, down, up, conflicting(down, "B")},
		"a session that is down, and the next is up": {up, down, on(4, "b"), on(4, "b")},
	} {
		c := changeOf(Report{Replaces: tc.replaces, Connection: &tc.waits})
		mine := conflicting(tc.waits, "B")
		c.merge(changeOf(Report{Replaces: tc.waits, Connection: &mine}))
		if diff := cmp.Diff(tc.want.normal(), c.over(state{connection: tc.stored}).connection); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A session that is down takes nothing else along: a conflict that another gateway has found stays.
func TestDownChangesTheChannelOnly(t *testing.T) {
	mine := off(on(3, "a"))
	mine.Since = enrolled
	c := changeOf(Report{Replaces: on(3, "a"), Connection: &mine})
	stored := conflicting(on(3, "a"), "B")
	stored.ConflictReason, stored.RemoteAddress = v1alpha1.ConflictForked, "10.1.2.3"
	want := off(stored)
	want.Since = enrolled
	if diff := cmp.Diff(want, c.over(state{connection: stored}).connection); diff != "" {
		t.Error(diff)
	}
}

// What is reported one after the other before anything is written is written as one: here, a session that came and went.
func TestUpAndDownAreMerged(t *testing.T) {
	before, up, down := on(2, "b"), on(3, "a"), off(on(3, "a"))
	c := changeOf(Report{Replaces: before, Connection: &up})
	c.merge(changeOf(Report{Replaces: up, Connection: &down}))
	for name, tc := range map[string]struct {
		stored Connection
		want   v1alpha1.Channel
	}{
		"over what was there":           {before, v1alpha1.ChannelNone},
		"over itself, which is written": {up, v1alpha1.ChannelNone},
		"over the next":                 {on(4, "b"), v1alpha1.ChannelWebSocket},
	} {
		if got := c.over(state{connection: tc.stored}).connection; got.Channel != tc.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
	next := on(4, "a")
	c.merge(changeOf(Report{Replaces: down, Connection: &next}))
	if got := c.over(state{connection: before}).connection; got != next.normal() {
		t.Errorf("and the next: %+v", got)
	}
}

// What is said of an agent counts only while its instance does; a conflict that another replica found does not take it away.
func TestFactsStandWithTheirInstance(t *testing.T) {
	facts := change{replaces: conn(5, "A", 1), agent: newBlock(&v1alpha1.EndpointAgent{Version: "8.0.0"})}
	if !facts.stands(conflicting(conn(5, "A", 1), "B")) {
		t.Error("an instance in conflict is still there")
	}
	if facts.stands(conn(6, "B", 1)) {
		t.Error("facts of an earlier start would be written over those of a later one")
	}
}

// apply does to e what the API server would.
func apply(t testing.TB, e *v1alpha1.Endpoint, patch []byte) error {
	t.Helper()
	ops, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatalf("%s: %v", patch, err)
	}
	before, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	after, err := ops.Apply(before)
	if err != nil {
		return err
	}
	*e = v1alpha1.Endpoint{}
	return json.Unmarshal(after, e)
}

// reportOf is something that an agent may say.
func reportOf(r *rand.Rand, e *v1alpha1.Endpoint, seen time.Time) Report {
	out := Report{Ref: refOf(e), Replaces: connectionOf(e.Status.Connection)}
	if r.IntN(3) > 0 {
		out.Seen = seen
	}
	if r.IntN(3) == 0 {
		c := out.Replaces
		c.Channel = v1alpha1.ChannelHeartbeat
		switch r.IntN(4) {
		case 0: // a restart
			c.Epoch++
			c.ID, c.PreviousInstance, c.Since, c.InstanceTime = instanceOf(r.Uint64()), c.ID, seen, seen
		case 1: // a clone
			c.ConflictInstance = instanceOf(r.Uint64())
		case 3: // a session begins, or is down
			c.Channel, c.Gateway, c.Session = v1alpha1.ChannelWebSocket, "gw-a", c.Session+1
			if out.Replaces.Channel == v1alpha1.ChannelWebSocket {
				c.Channel, c.Gateway, c.Session = v1alpha1.ChannelNone, "", out.Replaces.Session
			}
		case 2: // a person has accepted another, whatever its epoch
			c.Epoch, c.ID, c.ConflictInstance, c.InstanceTime = r.Int64N(20), instanceOf(r.Uint64()), "", seen
		}
		out.Connection = &c
	}
	if r.IntN(3) == 0 {
		out.Agent = &v1alpha1.EndpointAgent{Version: v1alpha1.Text([]string{"8.0.0", "8.0.1"}[r.IntN(2)]), PolicyRevision: r.Int64N(3)}
	}
	if r.IntN(3) == 0 {
		out.Inventory = &v1alpha1.EndpointInventory{Hostname: "laptop", CPUs: r.Int32N(3)}
	}
	return out
}

// A patch makes exactly what was planned, and what was written once is not written again.
func TestPatchesDoWhatWasPlanned(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 600 {
		e := machine(t, 1)
		for _, absent := range []func(){
			func() { e.Status.Connection = nil }, func() { e.Status.Agent = nil }, func() { e.Status.Inventory = nil }, func() { e.Status.LastSeenTime = nil },
			func() { e.Status.Connection = &v1alpha1.EndpointConnection{Channel: v1alpha1.ChannelNone} },
			func() {
				if e.Status.Connection != nil {
					e.Status.Connection.Channel, e.Status.Connection.Gateway = v1alpha1.ChannelWebSocket, "gw-b"
				}
			},
		} {
			if r.IntN(3) == 0 {
				absent()
			}
		}
		rep := reportOf(r, e, enrolled.Add(time.Duration(r.IntN(1000))*time.Hour+time.Duration(r.IntN(1e9))))
		c := changeOf(rep)
		before := stateOf(e)
		want := c.over(before)
		patch, blocks := c.patch(rep.Ref, before)
		if (patch == nil) != (want == before) || (patch == nil) != (len(blocks) == 0) {
			t.Fatalf("from %+v to %+v by %s (%q)", before, want, patch, blocks)
		}
		if patch == nil {
			continue
		}
		if err := apply(t, e, patch); err != nil {
			t.Fatalf("%s: %v", patch, err)
		}
		if diff := cmp.Diff(want, stateOf(e), cmp.AllowUnexported(state{})); diff != "" {
			t.Fatalf("%s: %s", patch, diff)
		}
		if again, _ := c.patch(rep.Ref, newRecord(e).state()); again != nil {
			t.Fatalf("it would be written again: %s", again)
		}
	}
}

func TestPatchIsRefusedWhereSomethingElseIsStored(t *testing.T) {
	rep := Report{Ref: newRecord(machine(t, 1)).endpoint().Ref, Replaces: newRecord(machine(t, 1)).connection()}
	next := conn(13, "next", 1)
	rep.Connection = &next
	c := changeOf(rep)
	patch, _ := c.patch(rep.Ref, stateOf(machine(t, 1)))
	if err := apply(t, machine(t, 1), patch); err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]func(*v1alpha1.Endpoint){
		"another object":   func(e *v1alpha1.Endpoint) { e.UID = "other" },
		"another identity": func(e *v1alpha1.Endpoint) { e.Status.Identity.ID = "other" },
		"no identity":      func(e *v1alpha1.Endpoint) { e.Status.Identity = nil },
		"another epoch":    func(e *v1alpha1.Endpoint) { e.Status.Connection.Epoch++ },
		"another instance": func(e *v1alpha1.Endpoint) { e.Status.Connection.InstanceID = instanceOf("other") },
		"another session":  func(e *v1alpha1.Endpoint) { e.Status.Connection.SessionNumber = 0 },
		"a conflict":       func(e *v1alpha1.Endpoint) { e.Status.Connection.ConflictInstanceID = instanceOf("other") },
		"another channel":  func(e *v1alpha1.Endpoint) { e.Status.Connection.Channel = v1alpha1.ChannelNone },
		"another gateway":  func(e *v1alpha1.Endpoint) { e.Status.Connection.Gateway = "gw-b" },
		"no connection":    func(e *v1alpha1.Endpoint) { e.Status.Connection = nil },
	} {
		t.Run(name, func(t *testing.T) {
			e := machine(t, 1)
			other(e)
			if err := apply(t, e, patch); err == nil {
				t.Error("it was written")
			}
		})
	}
	first := change{connection: &next}
	patch, _ = first.patch(Ref{UID: string(machine(t, 1).UID)}, state{})
	if err := apply(t, machine(t, 1), patch); err == nil {
		t.Error("a first connection was written over another")
	}
}

// However reports are merged, and whatever was written in between, what is stored in the end is the newest of each block.
func TestMergedChangesAreTheNewestOfEach(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 150 {
		stored, judged := machine(t, 1), machine(t, 1)
		var pending change
		var flying *change
		write := func(c change) {
			patch, _ := c.patch(refOf(stored), stateOf(stored))
			if patch == nil {
				return
			}
			if err := apply(t, stored, patch); err != nil {
				t.Fatalf("%s: %v", patch, err)
			}
		}
		for step := range 12 {
			rep := reportOf(r, judged, enrolled.Add(time.Duration(600+step)*time.Hour))
			c := changeOf(rep)
			if p, _ := c.patch(refOf(judged), stateOf(judged)); p != nil { // what each gateway would see at once
				if err := apply(t, judged, p); err != nil {
					t.Fatal(err)
				}
			}
			pending.merge(c)
			switch {
			case flying == nil && r.IntN(2) == 0:
				copied := pending
				flying = &copied
			case flying != nil && r.IntN(2) == 0:
				write(*flying)
				pending.without(*flying)
				flying = nil
			}
		}
		if flying != nil {
			write(*flying)
			pending.without(*flying)
		}
		write(pending)
		if diff := cmp.Diff(stateOf(judged), stateOf(stored), cmp.AllowUnexported(state{})); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestLesserChanges(t *testing.T) {
	next := conn(13, "next", 1)
	c := change{seen: enrolled, connection: &next, agent: &block{}, inventory: &block{}}
	var got [][]string
	for range 3 {
		c, _ = c.lesser()
		got = append(got, c.blocks())
	}
	want := [][]string{{blockConnection, blockSeen}, {blockSeen}, {blockSeen}}
	if !slices.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("%q, want %q", got, want)
	}
}
