package dispatch

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestOnASession(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		s := w.connect(r, a)
		w.act("hello")
		s.has()
		r.watch()
		pass(10 * time.Millisecond)
		s.has("action:hello")
		w.wrote("hello Sent")
		if d := w.server.stored("hello").Status.Delivery; d.Channel != v1alpha1.ChannelWebSocket || string(d.Gateway) != r.name || d.JournalID != journalID {
			t.Errorf("delivery %+v", d)
		}
		r.watch()
		w.answers(r, a, says("hello", acks), "ack")
		w.answers(r, a, w.done("hello"), "ack")
		w.wrote("hello Succeeded")
		r.watch()
		pass(time.Hour)
		s.has()
		w.wrote()
		if a.work != nil || len(r.active) != 0 {
			t.Error("an agent without open actions is remembered")
		}
	})
}

// A heartbeat over HTTPS brings what is open, and no session is needed.
func TestByHeartbeats(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		if orders, more := w.https(r, a); len(orders) > 0 || more {
			t.Errorf("nothing is open, and it brings %q, %t", orders, more)
		}
		w.act("hello", "again")
		r.watch()
		pass(time.Minute)
		w.wrote() // it waits for a heartbeat
		began := time.Now()
		orders, more := w.https(r, a)
		if !slices.Equal(orders, []string{"action:hello", "action:again"}) || more {
			t.Errorf("it brings %q, %t", orders, more)
		}
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		w.wrote("hello Sent", "again Sent")
		if d := w.server.stored("hello").Status.Delivery; d.Channel != v1alpha1.ChannelHeartbeat {
			t.Errorf("delivery %+v", d)
		}
		r.watch()
		if orders, _ := w.https(r, a, "again"); !slices.Equal(orders, []string{"action:hello"}) {
			t.Errorf("the reply was lost in part, and the next brings %q", orders)
		}
		if orders, _ := w.https(r, a, "hello", "again"); len(orders) > 0 {
			t.Errorf("the agent has both, and gets %q", orders)
		}
		w.wrote()
	})
}

// What does not fit into a reply, or is not written in time, comes with the next.
func TestBoundsOfAReply(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		var names []string
		for n := range 40 {
			names = append(names, fmt.Sprintf("a-%02d", n))
			w.act(names[n])
		}
		r.watch()
		orders, more := w.https(r, a)
		if len(orders) != maxAnswered || !more {
			t.Fatalf("%d orders, more: %t", len(orders), more)
		}
		r.watch()
		orders, more = w.https(r, a, names[:maxAnswered]...)
		if len(orders) != 2 || more {
			t.Errorf("then %q, more: %t; want two, as 32 may be open", orders, more)
		}
		w.wrote(func() (all []string) {
			for _, n := range names[:32] {
				all = append(all, n+" Sent")
			}
			return all
		}()...)
		r.watch()
		w.answers(r, a, w.done(names[0]), "ack")
		if orders, _ := w.https(r, a, names[1:32]...); !slices.Equal(orders, []string{"action:a-32"}) {
			t.Errorf("one has ended, and %q is sent", orders)
		}
	})
	simulate(t, func(w *world) {
		r, a := w.replica()
		w.act("hello")
		r.watch()
		w.server.be(func(s *server) { s.latency = 3 * time.Second })
		began := time.Now()
		orders, more := w.https(r, a)
		if len(orders) > 0 || !more || time.Since(began) != 2*time.Second {
			t.Errorf("%q, more: %t, after %s", orders, more, time.Since(began))
		}
		pass(2 * time.Second)
		w.wrote("hello Sent")
		r.watch()
		if orders, more = w.https(r, a); !slices.Equal(orders, []string{"action:hello"}) || more {
			t.Errorf("the next brings %q, %t", orders, more)
		}
		w.wrote()
		w.act("again")
		r.watch()
		w.server.be(func(s *server) { s.away = true })
		pass(time.Minute)
		if orders, more = w.https(r, a, "hello"); len(orders) > 0 || !more {
			t.Errorf("the API server does not answer: %q, %t", orders, more)
		}
		pass(10 * time.Second)
		if orders, more = w.https(r, a, "hello"); len(orders) > 0 || more {
			t.Errorf("and has not for a while: %q, %t", orders, more)
		}
	})
}

// Nothing leaves before the API server has it, whatever happens to the write.
func TestNothingLeavesBeforeItIsWritten(t *testing.T) {
	for name, test := range map[string]func(w *world, r *replica, s *socket){
		"the API server is away": func(w *world, r *replica, s *socket) {
			w.server.be(func(s *server) { s.away = true })
			r.watch()
			pass(time.Minute)
			s.has()
			w.wrote()
			w.server.be(func(s *server) { s.away = false })
			pass(maxPause)
			s.has("action:hello")
			w.wrote("hello Sent")
		},
		"the write is done and not answered": func(w *world, r *replica, s *socket) {
			w.server.be(func(s *server) { s.deaf = 1 })
			r.watch()
			pass(time.Second)
			s.has("action:hello")
			w.wrote("hello Sent")
		},
		"and cancelled before that is known": func(w *world, r *replica, s *socket) {
			w.server.be(func(s *server) { s.deaf, s.latency = 1, 50*time.Millisecond })
			r.watch()
			pass(60 * time.Millisecond)
			w.wrote("hello Sent")
			w.cancel("hello")
			pass(time.Second)
			s.has("action:hello", "cancel:hello") // the manager knows that this gateway has sent it
		},
		"it is refused": func(w *world, r *replica, s *socket) {
			w.server.be(func(s *server) { s.refuses = true })
			r.watch()
			pass(time.Minute)
			s.has()
			w.wrote()
		},
		"cancelled, and the watch lags": func(w *world, r *replica, s *socket) {
			r.lag("hello")
			w.cancel("hello")
			r.onChanged()
			pass(time.Minute)
			s.has()
			w.wrote()
			if w.phase("hello") != v1alpha1.ActionCancelled {
				w.Errorf("it is %s", w.phase("hello"))
			}
		},
		"deleted, and the watch lags": func(w *world, r *replica, s *socket) {
			r.lag("hello")
			w.server.delete("hello")
			r.onChanged()
			pass(time.Minute)
			s.has()
			w.wrote()
		},
		"changed by somebody, and the watch lags": func(w *world, r *replica, s *socket) {
			r.lag("hello")
			w.server.change("hello", func(a *v1alpha1.EndpointAction) { a.Labels = map[string]string{"team": "blue"} })
			r.onChanged()
			pass(time.Second)
			s.has("action:hello")
			w.wrote("hello Sent")
		},
		"sent by another gateway, and the watch lags": func(w *world, r *replica, s *socket) {
			r.lag("hello")
			other, b := w.replica()
			far := w.connect(other, b)
			other.watch()
			pass(time.Second)
			far.has("action:hello")
			w.wrote("hello Sent")
			r.onChanged()
			pass(time.Second)
			s.has("action:hello") // the same bytes into the same journal
			w.wrote()
		},
		"the session ends meanwhile": func(w *world, r *replica, s *socket) {
			r.watch()
			s.end()
			pass(time.Second)
			s.has("action:hello") // into nothing
			w.wrote("hello Sent")
			again := w.connect(r, w.replicas[0].agentOf())
			again.has("action:hello")
			w.wrote()
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				r, a := w.replica()
				s := w.connect(r, a)
				w.act("hello")
				test(w, r, s)
			})
		})
	}
}

// lag has a gateway see an action as it is now, and tells nobody.
func (r *replica) lag(name string) {
	a := r.server.stored(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.see(a)
}

// agentOf is the one agent that a gateway remembers.
func (r *replica) agentOf() *Agent {
	r.Dispatcher.mu.Lock()
	defer r.Dispatcher.mu.Unlock()
	for w := range r.active {
		return w.agent
	}
	return nil
}

// A gateway dies between the write and the frame: another sends the same bytes, and writes nothing.
func TestGatewayDiesBeforeTheFrame(t *testing.T) {
	simulate(t, func(w *world) {
		first, a := w.replica()
		s := w.connect(first, a)
		w.act("hello")
		first.watch()
		s.end() // before what was written can leave
		pass(time.Second)
		w.wrote("hello Sent")
		first.stop()
		second, b := w.replica()
		second.watch()
		if orders, _ := w.https(second, b); !slices.Equal(orders, []string{"action:hello"}) {
			t.Errorf("a heartbeat brings %q", orders)
		}
		next := w.connect(second, b)
		next.has("action:hello")
		w.answers(second, b, says("hello", acks), "ack")
		pass(time.Hour)
		next.has()
		w.wrote()
	})
}

// What cannot leave is not written as sent: there is no room, or the session has ended while another action was written.
func TestWhatCannotLeaveStaysPending(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		s := w.connect(r, a)
		s.mu.Lock()
		s.full = true
		s.mu.Unlock()
		w.act("one", "two")
		r.watch()
		pass(time.Minute)
		s.has()
		w.wrote()
		s.mu.Lock()
		s.full = false
		s.mu.Unlock()
		w.server.be(func(s *server) { s.latency = time.Second })
		r.Heard(a, w.beat(), s, time.Now())
		pass(500 * time.Millisecond)
		s.end()
		pass(time.Minute)
		w.wrote("one Sent")
	})
}

// Repetition: on a new session, with a heartbeat that does not list it, and when it was not acknowledged for a while.
func TestRepeats(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		s := w.connect(r, a)
		w.act("hello")
		r.watch()
		pass(time.Second)
		s.has("action:hello")
		r.Heard(a, w.beat(), s, time.Now())
		s.has() // it is on its way
		pass(30 * time.Second)
		s.has("action:hello")
		pass(5 * time.Second)
		r.Heard(a, w.beat(), s, time.Now())
		s.has("action:hello")
		pass(31 * time.Second)
		s.has("action:hello")
		s.end()
		pass(time.Hour / 4)
		s.has()
		s = w.connect(r, a)
		s.has("action:hello")
		w.answers(r, a, says("hello", acks), "ack")
		pass(time.Hour / 4)
		s.has()
		other := w.beat()
		other.Agent.JournalId = "2" + journalID[1:]
		r.Heard(a, other, s, time.Now())
		pass(time.Minute)
		s.has() // another journal is never sent it again
		w.wrote("hello Sent")
	})
}

// An agent whose journal is new gets no order that is older; nor does one that does not know the time.
func TestJournals(t *testing.T) {
	simulate(t, func(w *world) {
		w.act("hello")
		pass(time.Minute)
		r, a := w.replica()
		r.watch()
		s := &socket{w: w}
		heard := func(change func(*agentv1.AgentInfo)) {
			m := w.beat()
			change(m.Agent)
			r.Heard(a, m, s, time.Now())
			pass(time.Second)
		}
		heard(func(i *agentv1.AgentInfo) { i.JournalId = "" })
		heard(func(i *agentv1.AgentInfo) { i.JournalCreatedAt = nil })
		heard(func(i *agentv1.AgentInfo) { i.JournalCreatedAt.Seconds += 30 })
		s.has()
		w.wrote()
		heard(func(*agentv1.AgentInfo) {})
		s.has("action:hello")
	})
}

// Past the deadline nothing is sent for the first time; what was sent is repeated until it must be reported.
func TestDeadlines(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		w.act("early", "late")
		r.watch()
		if orders, _ := w.https(r, a); len(orders) != 2 {
			t.Fatal(orders)
		}
		w.act("never")
		r.watch()
		pass(time.Hour - 4*time.Second)
		if orders, _ := w.https(r, a); !slices.Equal(orders, []string{"action:early", "action:late"}) {
			t.Errorf("after the starting deadline: %q", orders)
		}
		pass(time.Hour)
		if orders, _ := w.https(r, a); len(orders) > 0 {
			t.Errorf("after the report deadline: %q", orders)
		}
		w.wrote("early Sent", "late Sent")
	})
}

// To cancel is said on every contact until the end, and the order itself no more.
func TestCancels(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		s := w.connect(r, a)
		w.act("hello")
		r.watch()
		pass(time.Second)
		s.has("action:hello")
		w.cancel("hello")
		r.watch()
		s.has("cancel:hello")
		pass(time.Minute)
		s.has()
		r.Heard(a, w.beat(), s, time.Now())
		s.has("cancel:hello")
		w.answers(r, a, says("hello", runs), "ack")
		r.Heard(a, w.beat("hello"), s, time.Now())
		s.has("cancel:hello")
		if orders, _ := w.https(r, a, "hello"); !slices.Equal(orders, []string{"cancel:hello"}) {
			t.Errorf("a heartbeat brings %q", orders)
		}
		s = w.connect(r, a, "hello")
		s.has("cancel:hello")
		w.answers(r, a, w.result("hello", agentv1.Outcome_OUTCOME_CANCELLED), "ack")
		if w.phase("hello") != v1alpha1.ActionCancelled {
			t.Errorf("it is %s", w.phase("hello"))
		}
		r.watch()
		r.Heard(a, w.beat(), s, time.Now())
		s.has()
	})
}

// An endpoint whose identity two machines use, or that takes no part, gets nothing; its results are taken.
func TestHeldEndpoints(t *testing.T) {
	for name, hold := range map[string]func(*store.Endpoint){
		"conflict":  func(e *store.Endpoint) { e.Connection.ConflictInstance = "x" },
		"suspended": func(e *store.Endpoint) { e.Lifecycle = v1alpha1.LifecycleSuspended },
		"another":   func(e *store.Endpoint) { e.Name = "other" },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				r, a := w.replica()
				s := w.connect(r, a)
				w.act("before")
				r.watch()
				pass(time.Second)
				s.has("action:before")
				r.hold(hold)
				w.act("hello")
				r.watch()
				pass(time.Minute)
				r.Heard(a, w.beat(), s, time.Now())
				s.has()
				w.wrote("before Sent")
				w.answers(r, a, w.done("before"), "ack")
				w.wrote("before Succeeded")
				r.hold(func(e *store.Endpoint) { *e = w.endpoint })
				r.Look(a, s)
				pass(time.Second)
				s.has("action:hello")
			})
		})
	}
}

// Running is written when it lasts, its progress now and then.
func TestProgress(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		s := w.connect(r, a)
		w.act("quick", "slow", "listed")
		r.watch()
		pass(time.Second)
		s.has("action:quick", "action:slow", "action:listed")
		r.watch()
		w.server.takeWrites()
		w.answers(r, a, says("quick", runs), "ack")
		w.answers(r, a, w.done("quick"), "ack")
		w.answers(r, a, says("slow", runs), "ack")
		beat := w.beat("slow", "listed")
		beat.OpenActions[1].Phase = runs
		r.Heard(a, beat, s, time.Now())
		pass(500 * time.Millisecond)
		w.wrote("quick Succeeded")
		pass(3 * time.Second)
		w.wrote("slow Running", "listed Running")
		if d := w.server.stored("slow").Status.Delivery; d.AcknowledgedTime == nil || d.StartedTime == nil {
			t.Errorf("delivery %+v", d)
		}
		for percent := range 60 {
			u := says("slow", runs)
			u.Percent = uint32(percent)
			w.answers(r, a, u, "ack")
		}
		writes := w.server.takeWrites()
		if len(writes) < 1 || len(writes) > 2 || w.server.stored("slow").Status.Progress == "" {
			t.Errorf("in a minute: %q, %q", writes, w.server.stored("slow").Status.Progress)
		}
		pass(time.Hour / 4)
		if writes := w.server.takeWrites(); len(writes) > 1 {
			t.Errorf("nothing was new, and written was %q", writes)
		}
	})
}

// What an agent said it has must be in its heartbeats.
func TestMissing(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		s := w.connect(r, a)
		w.act("forgotten", "acknowledged")
		r.watch()
		pass(time.Second)
		s.has("action:forgotten", "action:acknowledged")
		w.answers(r, a, says("forgotten", runs), "ack")
		w.answers(r, a, says("acknowledged", acks), "ack")
		pass(3 * time.Second)
		w.wrote("forgotten Sent", "acknowledged Sent", "forgotten Running")
		missing := func() bool { return w.server.stored("forgotten").Status.Delivery.MissingTime != nil }
		beat := func(list ...string) {
			r.Heard(a, w.beat(list...), s, time.Now())
			pass(10 * time.Second)
		}
		beat("acknowledged")
		beat("acknowledged", "forgotten")
		beat("acknowledged")
		if missing() {
			t.Error("it was listed in between")
		}
		full := w.beat()
		for range wire.MaxOpenActions {
			full.OpenActions = append(full.OpenActions, &agentv1.ActionState{ActionUid: uidOf("other")})
		}
		r.Heard(a, full, s, time.Now())
		pass(time.Second)
		if missing() {
			t.Error("a heartbeat has no room for all")
		}
		s.has()
		beat("acknowledged")
		if !missing() {
			t.Error("it is not missing")
		}
		w.wrote("forgotten Running")
		beat()
		s.has()
		beat()
		s.has("action:acknowledged") // this is known here alone, so it is as for any other gateway
	})
}

// The agent moves to another gateway while it has an action.
func TestSessionMovesDuringAnAction(t *testing.T) {
	simulate(t, func(w *world) {
		first, a := w.replica()
		second, b := w.replica()
		s := w.connect(first, a)
		w.act("hello")
		first.watch()
		pass(time.Second)
		s.has("action:hello")
		w.answers(first, a, says("hello", acks), "ack")
		s.end()
		second.watch()
		moved := w.connect(second, b, "hello")
		pass(time.Minute)
		moved.has()
		w.answers(second, b, says("hello", runs), "ack")
		// The first has not heard of anything since, and a result that it is told late changes nothing.
		result := w.done("hello")
		w.answers(second, b, result, "ack")
		w.wrote("hello Sent", "hello Succeeded")
		w.answers(first, a, result, "ack")
		w.wrote()
	})
}

// After etcd was restored to before an action was sent, its agent has it: it is written as sent, and not sent.
func TestActionThatTheAgentHasAlready(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		w.act("hello", "new")
		r.watch()
		s := w.connect(r, a, "hello")
		pass(time.Minute)
		s.has("action:new", "action:new")
		w.wrote("hello Sent", "new Sent")
	})
}

func TestDrain(t *testing.T) {
	simulate(t, func(w *world) {
		r, a := w.replica()
		s := w.connect(r, a)
		w.act("hello", "more")
		r.watch()
		pass(time.Second)
		s.has("action:hello", "action:more")
		w.server.be(func(s *server) { s.latency = time.Second })
		is := w.report(r, a, w.done("hello"))
		ended := make(chan struct{})
		go func() { r.stop(); close(ended) }()
		synctest.Wait()
		w.answers(r, a, w.done("more"), "draining")
		<-ended
		if is() != "ack" || w.phase("hello") != v1alpha1.ActionSucceeded {
			t.Errorf("what was under way: %s, %s", is(), w.phase("hello"))
		}
		if orders, more := w.https(r, a); len(orders) > 0 || more {
			t.Errorf("afterwards a heartbeat brings %q, %t", orders, more)
		}
	})
	simulate(t, func(w *world) {
		r, a := w.replica()
		w.connect(r, a)
		w.act("hello")
		r.watch()
		pass(time.Second)
		w.server.be(func(s *server) { s.latency = time.Hour })
		is := w.report(r, a, w.done("hello"))
		synctest.Wait()
		began := time.Now()
		r.stop()
		if took := time.Since(began); took != 5*time.Second || is() != "not-ready" {
			t.Errorf("it ended after %s, and the agent was told %s", took, is())
		}
	})
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	m, err := NewMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	m.transition("8")
	m.unfit.Inc()
	m.latency.WithLabelValues(string(v1alpha1.ChannelWebSocket)).Observe(1)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	if _, err := NewMetrics(registry); err == nil {
		t.Error("registered twice")
	}
}
