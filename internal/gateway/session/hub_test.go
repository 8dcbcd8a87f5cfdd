package session

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// What an agent says of the sessions before this one stays recorded, whoever writes what else.
func TestWhyTheOneBeforeDidNotLastStays(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(3, func(m *agentv1.Heartbeat) { m.SessionError = "the connection was cut" })
		w.written()
		w.change(func(e *store.Endpoint) { e.PolicyName = "other" })
		w.wrote()
		if c := w.endpoint().Connection; c.Error != "the connection was cut" {
			t.Errorf("recorded is %q", c.Error)
		}
		w.change(func(e *store.Endpoint) { // the manager took this gateway for gone
			e.Connection.Channel, e.Connection.Gateway, e.Connection.Error = v1alpha1.ChannelNone, "", "its gateway is gone"
		})
		w.wrote("WebSocket+seen")
		if c := w.endpoint().Connection; c.Error != "" {
			t.Errorf("the session is recorded again, with the error %q", c.Error)
		}
		a.wasClosed("")
	})
}

// A session that has ended is recorded as down half a minute later, with its last message's time, unless something was heard meanwhile.
func TestDown(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1)
		pass(time.Minute)
		a.ping()
		last := time.Now()
		pass(20 * time.Second)
		a.leave(wire.CloseAbnormal)
		w.written()
		pass(29 * time.Second)
		w.wrote()
		pass(2 * time.Second)
		w.wrote("None+seen")
		e := w.endpoint()
		if c := e.Connection; c.Channel != v1alpha1.ChannelNone || c.Gateway != "" || c.Session != 1 || time.Since(c.Since) > 2*time.Second || !e.LastSeen.Equal(last) {
			t.Errorf("recorded %+v, last seen %s, want %s", c, e.LastSeen, last)
		}
		pass(time.Hour)
		w.wrote()
	})
	for name, follow := range map[string]func(w *world){
		"the next session":       func(w *world) { w.up(2) },
		"a heartbeat over HTTPS": func(w *world) { w.https(beat(1, short)) },
		"a session at another gateway": func(w *world) {
			w.change(func(e *store.Endpoint) { e.Connection.Session, e.Connection.Gateway = 2, gwOther })
		},
		"the manager": func(w *world) { w.change(func(e *store.Endpoint) { e.Connection.Channel = v1alpha1.ChannelNone }) },
		"its end": func(w *world) {
			w.book.mu.Lock()
			delete(w.book.endpoints, idOf(1))
			w.book.mu.Unlock()
			w.tell()
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				a := w.up(1)
				a.leave(wire.CloseAbnormal)
				pass(10 * time.Second)
				follow(w)
				w.written()
				for range 4 {
					pass(10 * time.Second)
				}
				w.wrote()
			})
		})
	}
}

// For a day: the time is recorded once an hour, at the endpoint's own offset.
func TestSeenIsRefreshedHourly(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1)
		w.written()
		var offsets []time.Duration
		for range 24 * 60 * 2 {
			a.ping()
			a.received()
			pass(30 * time.Second)
			for _, what := range w.written() {
				if what != "seen" {
					t.Fatalf("written: %s", what)
				}
				if age := time.Since(w.endpoint().LastSeen); age > 31*time.Second {
					t.Errorf("what is recorded is %s old", age)
				}
				offsets = append(offsets, time.Duration(time.Now().UnixNano()%int64(time.Hour)).Truncate(time.Minute))
			}
		}
		if n := len(offsets); n < 23 || n > 24 {
			t.Errorf("%d writes in a day", n)
		}
		for _, o := range offsets {
			if d := (o - offsets[0]).Abs(); d > time.Minute {
				t.Errorf("at %s past the hour, and at %s", offsets[0], o)
			}
		}
	})
}

// What is recorded anyway saves the next refresh.
func TestRefreshIsSaved(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1)
		next := nextRefresh(idOf(1), time.Hour, time.Now())
		for time.Until(next) > 10*time.Minute {
			pass(time.Minute)
			a.ping()
		}
		a.beat(beat(1, func(m *agentv1.Heartbeat) { m.JournalFull = true }))
		w.wrote("WebSocket+agent+inventory+seen", "agent+seen")
		for range 60 {
			pass(time.Minute)
			a.ping()
		}
		w.wrote()
		for range 15 {
			pass(time.Minute)
			a.ping()
		}
		w.wrote("seen")
	})
}

func TestRefreshesAreSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(t, "now"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds"))
		period := time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(24*time.Hour)).Draw(t, "period"))
		id := idOf(rapid.IntRange(0, 1e9).Draw(t, "endpoint"))
		first := nextRefresh(id, period, now)
		if d := first.Sub(now); d <= 0 || d > period {
			t.Fatalf("%s from now", d)
		}
		if d := nextRefresh(id, period, first).Sub(first); d != period {
			t.Fatalf("the next but one is %s later", d)
		}
	})
	quarters := map[int64]int{}
	for n := range 4000 {
		quarters[nextRefresh(idOf(n), time.Hour, time.Unix(1_800_000_000, 0)).Unix()%3600/900]++
	}
	for q := range int64(4) {
		if n := quarters[q]; n < 800 || n > 1200 {
			t.Errorf("%d of 4000 in a quarter of the hour", n)
		}
	}
}

func TestRecordIsWrittenAgain(t *testing.T) {
	for name, change := range map[string]func(e *store.Endpoint){
		"the manager took the gateway for gone":  func(e *store.Endpoint) { e.Connection.Channel, e.Connection.Gateway = v1alpha1.ChannelNone, "" },
		"another gateway was late":               func(e *store.Endpoint) { e.Connection.Session, e.Connection.Gateway = 4, gwOther },
		"the API server was set back to nothing": func(e *store.Endpoint) { e.Connection = store.Connection{} },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				a := w.up(5)
				w.written()
				w.change(change)
				a.wasClosed("")
				w.wrote("WebSocket+seen")
				if c := w.endpoint().Connection; c.Session != 5 || c.Gateway != own {
					t.Errorf("recorded %+v", c)
				}
				w.tell()
				w.wrote()
			})
		})
	}
}

func TestAnotherGatewayHasTakenOver(t *testing.T) {
	for name, change := range map[string]func(e *store.Endpoint){
		"the next session": func(e *store.Endpoint) { e.Connection.Session, e.Connection.Gateway = 6, gwOther },
		"a restart": func(e *store.Endpoint) {
			e.Connection.Epoch, e.Connection.ID, e.Connection.Gateway = 6, strings.Repeat("b", 32), gwOther
			e.Connection.InstanceTime, e.Connection.PreviousInstance = time.Now(), strings.Repeat("a", 32)
		},
		"over HTTPS": func(e *store.Endpoint) { e.Connection.Channel, e.Connection.Gateway = v1alpha1.ChannelHeartbeat, "" },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				a := w.up(5)
				w.written()
				w.change(change)
				a.wasClosed("4409 session-replaced")
				pass(time.Minute)
				w.wrote()
			})
		})
	}
	// Told of a restart that was long ago: the silent session of the earlier start is no clone.
	simulate(t, func(w *world) {
		a := w.up(5)
		pass(80 * time.Second)
		w.change(func(e *store.Endpoint) {
			e.Connection.Epoch, e.Connection.ID, e.Connection.Gateway = 6, strings.Repeat("b", 32), gwOther
			e.Connection.InstanceTime, e.Connection.PreviousInstance = time.Now().Add(-70*time.Second), strings.Repeat("a", 32)
		})
		a.wasClosed("4409 session-replaced")
		if c := w.endpoint().Connection; c.ConflictInstance != "" {
			t.Errorf("recorded %+v", c)
		}
	})
}

// A session that is recorded as up here and is not is recorded as down after the usual time, wherever that record comes from.
func TestGhostIsLaid(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1)
		a.leave(wire.CloseNormal)
		pass(40 * time.Second)
		w.wrote("WebSocket+agent+inventory+seen", "None+seen")
		w.change(func(e *store.Endpoint) { e.Connection.Channel, e.Connection.Gateway = v1alpha1.ChannelWebSocket, own })
		pass(29 * time.Second)
		w.wrote()
		pass(2 * time.Second)
		w.wrote("None+seen")
	})
}

func TestDrain(t *testing.T) {
	simulate(t, func(w *world) {
		w.hub.config.Upgrades = limit.PerSecond(1, 100) // so that few sessions are many
		var agents []*agent
		for n := range 4 {
			w.enrol(n + 1)
			cert := *w.cert
			cert.IdentityID = idOf(n + 1)
			a := w.openOf(n+1, &cert)
			a.beat(beat(1))
			a.received()
			agents = append(agents, a)
		}
		waits := w.open()
		synctest.Wait()
		w.written()
		began := time.Now()
		done := make(chan struct{})
		go func() { w.hub.Drain(context.Background()); close(done) }()
		synctest.Wait()
		if p := w.hub.Admit(time.Now()); p == nil || p.Name != wire.Draining {
			t.Errorf("admitted: %v", p)
		}
		w.open().wasClosed("1012 draining; retry=1")
		open := func() (n int) {
			for _, a := range agents {
				if got := a.closed(); got == "" {
					n++
				} else if !strings.HasPrefix(got, "1012 draining; retry=") {
					t.Errorf("closed with %q", got)
				}
			}
			return n
		}
		for open() > 1 {
			pass(100 * time.Millisecond)
		}
		if took := time.Since(began); took < 2*time.Second || took > 5*time.Second {
			t.Errorf("all but one were closed within %s", took)
		}
		for open() > 0 || waits.closed() == "" {
			pass(100 * time.Millisecond)
		}
		moved := func(e *store.Endpoint) { e.Connection.Session, e.Connection.Gateway = 2, gwOther }
		w.change(moved) // to another gateway, one of the four
		w.wrote()
		<-done
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("it waited for %s", took)
		}
		w.wrote("None+seen", "None+seen", "None+seen")
		if c := w.endpoint().Connection; c.Channel != v1alpha1.ChannelWebSocket || c.Gateway != gwOther {
			t.Errorf("recorded %+v", c)
		}
	})
	simulate(t, func(w *world) { // it has moved at once: no waiting for longer
		a := w.up(1)
		began := time.Now()
		go func() {
			<-a.over
			<-time.After(time.Second)
			w.apply(func(e *store.Endpoint) { e.Connection.Session, e.Connection.Gateway = 2, gwOther })
		}()
		w.hub.Drain(context.Background())
		if took := time.Since(began); took > 1200*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		w.wrote("WebSocket+agent+inventory+seen")
	})
	simulate(t, func(w *world) { // one machine, and the time is up: no waiting
		a := w.up(1)
		began := time.Now()
		w.hub.Drain(canceled())
		a.wasClosed("1012 draining; retry=1")
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %s", took)
		}
		w.wrote("WebSocket+agent+inventory+seen", "None+seen")
	})
}

// A session whose first heartbeat comes while the gateway drains is not recorded as up.
func TestNoSessionBeginsWhileDraining(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.open()
		synctest.Wait()
		w.hub.mu.Lock()
		w.hub.draining = true
		w.hub.mu.Unlock()
		a.beat(beat(1))
		a.wasClosed("1012 draining; retry=1")
		w.wrote()
	})
}

// Whatever comes at once, in the end there is one session, the highest, and it is the one that is recorded.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.hub.config.Upgrades = limit.PerSecond(1e6, 1e6)
		const most = 60
		var agents []*agent
		var group sync.WaitGroup
		r := rand.New(rand.NewPCG(1, 2))
		for _, n := range r.Perm(most) {
			a := &agent{w: w, in: make(chan []byte, 10), out: make(chan []byte, 100), over: make(chan struct{})}
			agents = append(agents, a)
			e := w.endpoint()
			first, err := wire.Protobuf.Marshal(&agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: beat(n+1, short)}})
			if err != nil {
				t.Fatal(err)
			}
			a.in <- first
			group.Go(func() {
				w.start(a, 1, w.cert)
				w.hub.Changed(e.IdentityID)
				w.hub.sweep(time.Now())
			})
		}
		group.Wait()
		synctest.Wait()
		open := 0
		for _, a := range agents {
			if a.closed() == "" {
				open++
			}
		}
		c := w.endpoint().Connection
		if s := w.hub.sessions[idOf(1)]; open != 1 || len(w.hub.all) != 1 || s == nil || s.instance.Session != most || c.Session != most || c.Channel != v1alpha1.ChannelWebSocket {
			t.Errorf("%d are open, recorded is %+v", open, c)
		}
		w.hub.Drain(canceled())
		w.stop()
	})
}

func TestMetricsAreWellMadeAndBounded(t *testing.T) {
	r := prometheus.NewRegistry()
	m, err := NewMetrics(r)
	if err != nil {
		t.Fatal(err)
	}
	for code := range 5000 {
		m.closed(wire.CloseCode(code))
	}
	if problems, err := testutil.GatherAndLint(r); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(r, "rollcall_gateway_sessions_closed_total"); err != nil || n != len(codes)+1 {
		t.Errorf("%d series, %v", n, err)
	}
}

func TestSessionsAreCounted(t *testing.T) {
	simulate(t, func(w *world) {
		count := func(want int) {
			t.Helper()
			synctest.Wait()
			if got := testutil.ToFloat64(w.hub.metrics.up); got != float64(want) {
				t.Errorf("%g sessions, want %d", got, want)
			}
		}
		count(0)
		w.open()
		count(0)
		w.up(1)
		count(1)
		a := w.up(2)
		count(1)
		a.leave(wire.CloseNormal)
		count(0)
		got := fmt.Sprint(testutil.ToFloat64(w.hub.metrics.heartbeats), testutil.ToFloat64(w.hub.metrics.ends.WithLabelValues("4409")), testutil.ToFloat64(w.hub.metrics.ends.WithLabelValues("1000")))
		if got != "2 1 1" {
			t.Errorf("heartbeats, ends with 4409 and with 1000: %s", got)
		}
	})
}
