package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// live runs a fleet until a condition, and returns what it says at its end.
func live(t *testing.T, o options, until func() bool) summary {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil && !until() {
			<-tick.C
		}
		cancel()
	}()
	sum, err := run(ctx, &o)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// Every agent is a machine of its own; the odd ones are odd; and after a restart the same fleet goes on.
func TestFleet(t *testing.T) {
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	dir := t.TempDir()
	o := options{
		server: g.URL, token: f.Token(), count: 8, stateDir: filepath.Join(dir, "state"), prefix: "agent", version: "8.0.0", odd: true,
		oddAfter: 200 * time.Millisecond, enrolledFile: filepath.Join(dir, "enrolled"), startRate: 1000, enrollAtOnce: 100, timing: agent.DefaultTiming(), log: logr.Discard(), progress: io.Discard,
	}
	o.timing.HeartbeatInterval = 100 * time.Millisecond

	// seen is what the gateway knows: versions by host, and for an epoch how many instances a host has had.
	seen := func() (versions map[string]string, clones map[string]int) {
		versions, clones = map[string]string{}, map[string]int{}
		instances, hosts := map[string]bool{}, map[string]string{}
		for _, b := range g.Beats() {
			a := b.GetAgent()
			if h := b.GetInventory().GetHostname(); h != "" {
				hosts[a.GetMachineId()] = h
			}
			host := hosts[a.GetMachineId()]
			versions[host] = a.GetVersion()
			if key := a.GetInstanceId(); !instances[key] {
				instances[key] = true
				clones[host+" "+string(rune('0'+a.GetEpoch()))]++
			}
		}
		return versions, clones
	}
	gone := filepath.Join(o.stateDir, "agent-04", goneFile)
	sum := live(t, o, func() bool {
		_, clones := seen()
		_, err := os.Stat(gone)
		return clones["agent-05 2"] == 2 && err == nil && g.Enrolled() == 8 && len(g.Beats()) > 60
	})
	versions, _ := seen()
	if len(versions) != 8 || versions["agent-02"] != oldVersion || versions["agent-01"] != "8.0.0" {
		t.Errorf("hosts and versions: %v", versions)
	}
	if sum.Agents != 8 || sum.Enrolled != 8 || sum.Stopped != 1 || sum.Online != 8 || sum.Connected != 8 || sum.Accepted < 20 || sum.EnrolledSeconds < 0 { // 7, and the clone
		t.Errorf("summary %+v", sum)
	}
	if b, err := os.ReadFile(o.enrolledFile); err != nil || strings.TrimSpace(string(b)) != "8" {
		t.Errorf("the file of the enrolled has %q, %v", b, err)
	}
	if _, err := json.Marshal(sum); err != nil {
		t.Error(err)
	}

	before := len(g.Beats())
	sum = live(t, o, func() bool {
		_, clones := seen()
		return clones["agent-05 3"] == 2 && len(g.Beats()) > before+20
	})
	if g.Enrolled() != 8 || sum.Stopped != 1 || sum.Enrolled != 8 {
		t.Errorf("after a restart: %d enrolments, %+v", g.Enrolled(), sum)
	}
	if _, clones := seen(); clones["agent-04 2"] != 0 || clones["agent-01 2"] != 1 {
		t.Errorf("starts after a restart: %v", clones)
	}
}

// The fleet takes content; the one with the bad disk takes the first, and says of the second why it does not.
func TestFleetTakesContent(t *testing.T) {
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	var offer atomic.Pointer[agentv1.Envelope]
	put := func(version string) {
		file := fleettest.Bundle(version, 10_000)
		g.Have(file, "")
		offer.Store(f.Offer(version, file, nil))
	}
	put("1041")
	began := time.Now()
	g.SetOrders(func(id string) []*agentv1.Envelope {
		return []*agentv1.Envelope{f.Assignment(id, "", began), offer.Load()}
	})
	o := options{
		server: g.URL, token: f.Token(), count: 4, stateDir: t.TempDir(), prefix: "agent", version: "8.0.0", odd: true, oddAfter: time.Hour,
		startRate: 1000, enrollAtOnce: 100, timing: agent.DefaultTiming(), log: logr.Discard(), progress: io.Discard,
	}
	o.timing.HeartbeatInterval = 100 * time.Millisecond
	// told is how many agents say last that they run a version, and whether one says that it failed.
	told := func(version string) (n int, failed bool) {
		last := map[string]*agentv1.Heartbeat{}
		for _, b := range g.Beats() {
			last[b.GetAgent().GetMachineId()] = b
		}
		for _, b := range last {
			if b.GetContent().GetVersion() == version {
				n++
			}
			failed = failed || b.GetContent().GetVersion() == "1041" && b.GetContent().GetReason() == "DigestDiffers"
		}
		return n, failed
	}
	second := false
	live(t, o, func() bool {
		if n, _ := told("1041"); !second && n == 4 {
			second = true
			put("1042")
		}
		n, failed := told("1042")
		return n == 3 && failed
	})
	if n, failed := told("1042"); n != 3 || !failed {
		t.Errorf("%d have the second version; one failed: %t", n, failed)
	}
}

// A fleet that loses its server comes back by itself, and says how long that took.
func TestFleetComesBack(t *testing.T) {
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	const count = 20
	o := options{
		server: g.URL, token: f.Token(), count: count, stateDir: t.TempDir(), prefix: "agent", version: "8.0.0", startRate: 1000, enrollAtOnce: 100,
		timing: agent.DefaultTiming(), log: logr.Discard(), progress: io.Discard,
	}
	o.timing.RetryBase, o.timing.RetryMax = 50*time.Millisecond, 200*time.Millisecond
	var all, stopped, restarted, back time.Time
	sum := live(t, o, func() bool {
		connected := len(g.Sessions()) == count
		switch {
		case all.IsZero() && connected:
			all = time.Now()
		case stopped.IsZero() && connected && time.Since(all) > time.Second: // it has seen that
			g.Stop()
			stopped = time.Now()
		case !stopped.IsZero() && restarted.IsZero() && time.Since(stopped) > time.Second: // and that: it looks every 100 ms
			g.Start(f.ServerCA, fleettest.Serving(time.Now().Add(-time.Hour), time.Now().Add(time.Hour)))
			restarted = time.Now()
		case !restarted.IsZero() && back.IsZero() && connected && g.Upgrades() >= 2*count:
			back = time.Now()
		}
		return !back.IsZero() && time.Since(back) > 2*time.Second // it looks now and then
	})
	if sum.Connected != count || sum.Lost < count || sum.Reconnects < count || sum.Opened != sum.Lost+count {
		t.Errorf("summary %+v", sum)
	}
	if len(sum.Outages) != 1 || sum.Outages[0].BackSeconds <= 0 || sum.Outages[0].BackSeconds > 15 || sum.Outages[0].Connected > count*9/10 {
		t.Errorf("outages %+v", sum.Outages)
	}
}

// A fleet does not enrol as one: the next agents start when those before them have their identities.
func TestFleetEnrollsAFewAtOnce(t *testing.T) {
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	const count, atOnce = 30, 4
	var now, most atomic.Int32
	slow := func(w http.ResponseWriter, r *http.Request, answer http.HandlerFunc) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		<-time.After(20 * time.Millisecond)
		answer(w, r)
	}
	for range count {
		g.Next(wire.PathEnroll, slow)
	}
	sum := live(t, options{
		server: g.URL, token: f.Token(), count: count, stateDir: t.TempDir(), prefix: "agent", version: "8.0.0", startRate: 1000, enrollAtOnce: atOnce,
		noWebsocket: true, timing: agent.DefaultTiming(), log: logr.Discard(), progress: io.Discard,
	}, func() bool { return g.Enrolled() == count && len(g.Beats()) >= count })
	if n := most.Load(); n < 2 || n > atOnce {
		t.Errorf("%d enrolled at once, %d may", n, atOnce)
	}
	if g.Enrolled() != count {
		t.Errorf("%d of %d have enrolled: %+v", g.Enrolled(), count, sum)
	}
}

// A fleet does what it is told, each agent once; and ends processes, made-up ones, only where it says that it can.
func TestFleetActs(t *testing.T) {
	f := fleettest.New(t, time.Now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	const count = 20
	var mu sync.Mutex
	uids := map[string][]string{} // by identity: a heartbeat, then two ends of the same process
	orders := map[string][]*agentv1.Envelope{}
	end := func(m *agentv1.Action) {
		m.Parameters = &agentv1.Action_TerminateProcess{TerminateProcess: &agentv1.TerminateProcess{Executable: "/usr/bin/sleep"}}
	}
	g.SetOrders(func(id string) []*agentv1.Envelope {
		mu.Lock()
		defer mu.Unlock()
		if orders[id] == nil {
			orders[id] = []*agentv1.Envelope{f.Assignment(id, "", time.Unix(1, 0))}
			for _, change := range []func(*agentv1.Action){nil, end, end} {
				order, uid := f.Action(id, func(m *agentv1.Action) {
					m.IssuedAt = timestamppb.New(f.Now().Add(time.Minute)) // later than its journal was made, whichever of its first heartbeats this answers
					if change != nil {
						change(m)
					}
				})
				orders[id], uids[id] = append(orders[id], order), append(uids[id], uid)
			}
		}
		return slices.Clone(orders[id])
	})
	for _, terminate := range []bool{true, false} {
		clear(uids)
		clear(orders)
		o := options{
			server: g.URL, token: f.Token(), count: count, stateDir: t.TempDir(), prefix: "agent", version: "8.0.0", startRate: 1000, enrollAtOnce: 100,
			timing: agent.DefaultTiming(), log: logr.Discard(), progress: io.Discard, terminate: terminate,
		}
		live(t, o, func() bool {
			mu.Lock()
			all := slices.Concat(slices.Collect(maps.Values(uids))...)
			mu.Unlock() // the gateway asks for orders with a lock of its own
			return len(all) == 3*count && !slices.ContainsFunc(all, func(uid string) bool { return len(g.Results(uid)) == 0 })
		})
		reasons := map[string]int{}
		for _, id := range uids {
			for i, uid := range id {
				for _, r := range g.Results(uid) {
					reasons[fmt.Sprint(min(i, 1), " ", r.GetReason())]++
					if i > 0 && terminate && (!strings.HasPrefix(r.GetMessage(), "simulated: ") || len(r.GetProcesses()) > 0) {
						t.Errorf("it does not say that it was made up: %v", r)
					}
				}
			}
		}
		want := map[string]int{"0 Done": count, "1 Unsupported": 2 * count}
		if terminate {
			want = map[string]int{"0 Done": count, "1 Done": count, "1 NoSuchProcess": count}
		}
		if !maps.Equal(reasons, want) {
			t.Errorf("ends %v, want %v", reasons, want)
		}
	}
}

func TestOutages(t *testing.T) {
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	var o outages
	for second, connected := range []int{0, 50, 99, 100, 99, 95, 100, 99, 40, 3, 60, 99, 100, 100} {
		said := o.observe(at.Add(time.Duration(second)*time.Second), connected, 100)
		if (said != "") != (second == 12) {
			t.Errorf("at %d it says %q", second, said)
		}
	}
	if want := []outage{{Began: at.Add(7 * time.Second), Connected: 3, BackSeconds: 5}}; !slices.Equal(o.all, want) {
		t.Errorf("outages %+v, want %+v", o.all, want)
	}
	if o.observe(at.Add(time.Minute), 0, 100); len(o.all) != 2 || o.all[1].BackSeconds != -1 {
		t.Errorf("outages %+v", o.all)
	}
}

func TestParse(t *testing.T) {
	for want, args := range map[string][]string{
		"--server and --state-dir are needed": {},
		"--count is 1 to 100000":              {"--server=https://x", "--state-dir=/x", "--count=0"},
		"https://host:port":                   {"--server=x", "--state-dir=/x"},
		"unknown flag":                        {"--nonsense"},
		"read the enrolment token":            {"--server=https://x", "--state-dir=/x", "--token-file=/nonsense"},
	} {
		if _, err := parse(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}
