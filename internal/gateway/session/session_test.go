package session

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func (w *world) wrote(want ...string) {
	w.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, w.written()); diff != "" {
		w.Errorf("written (-want +got):\n%s", diff)
	}
}

func (a *agent) wasClosed(want string) {
	a.w.Helper()
	if got := a.closed(); got != want {
		a.w.Errorf("the session ended with %q, want %q", got, want)
	}
}

func TestFirstHeartbeatMakesASession(t *testing.T) {
	for _, text := range []bool{false, true} {
		simulate(t, func(w *world) {
			a := &agent{w: w, in: make(chan []byte, 1), out: make(chan []byte, 1), over: make(chan struct{}), text: text}
			w.start(a, 1, w.cert)
			a.beat(beat(1))
			m := a.received()
			reply := m.GetHeartbeatReply()
			if m.GetRe() != 1 || reply.GetGateway() != own || reply.GetBeacon() == nil || !reply.GetServerTime().AsTime().Equal(time.Now()) {
				t.Errorf("answered with %v", m)
			}
			w.wrote("WebSocket+agent+inventory+seen")
			want := store.Connection{
				Instance: store.Instance{Epoch: 5, ID: strings.Repeat("a", 32), Session: 1}, Channel: v1alpha1.ChannelWebSocket, Gateway: own,
				Since: time.Now(), InstanceTime: time.Now(), RemoteAddress: "192.0.2.7",
			}
			if diff := cmp.Diff(want, w.endpoint().Connection); diff != "" {
				t.Errorf("recorded (-want +got):\n%s", diff)
			}
			a.leave(wire.CloseNormal)
		})
	}
}

func TestHowASessionMustBegin(t *testing.T) {
	ping := &agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}}
	none := &agentv1.AgentMessage{Id: 1}
	zero := &agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: beat(0)}}
	wide := &agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: beat(1, func(m *agentv1.Heartbeat) { m.CapabilitiesTag = strings.Repeat("x", 300) })}}
	for name, first := range map[string]*agentv1.AgentMessage{"a ping": ping, "nothing that is known": none, "of no session": zero, "beyond a bound": wide, "garbage": nil} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				a := w.open()
				if first == nil {
					a.in <- []byte{0xff}
				} else {
					a.send(first)
				}
				a.wasClosed("1007 malformed")
				if n := len(w.hub.all); n != 0 {
					t.Errorf("%d sessions are left", n)
				}
				w.wrote()
			})
		})
	}
}

func TestFirstMessageIsWaitedFor(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.open()
		pass(9 * time.Second)
		a.wasClosed("")
		pass(3 * time.Second)
		a.wasClosed("4408 message-timeout")
		b := w.open()
		pass(9 * time.Second)
		b.beat(beat(1))
		pass(9 * time.Second)
		b.wasClosed("")
	})
}

// Heartbeats on a session write nothing, and neither do pings.
func TestSteadySessionWritesNothing(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1)
		w.wrote("WebSocket+agent+inventory+seen")
		for i := range 100 {
			pass(20 * time.Second)
			if i%10 == 0 { // somebody changes something, and everything is looked at
				w.beats.Changed(idOf(1))
			}
			a.beat(beat(1, short))
			if r := a.received().GetHeartbeatReply(); r == nil || r.Send != nil || r.More || r.Orders != nil {
				t.Fatalf("answered with %v", r)
			}
			a.ping()
			if m := a.received(); m.GetPong() == nil || m.GetRe() != a.nextID {
				t.Fatalf("a ping was answered with %v", m)
			}
		}
		// half an hour and more: one refresh may be among it
		if got := w.written(); len(got) > 1 || len(got) == 1 && got[0] != "seen" {
			t.Errorf("written: %q", got)
		}
		a.send(&agentv1.AgentMessage{}) // of a later version
		if m := a.received(); m != nil || a.closed() != "" {
			t.Errorf("a message of a kind that is not known was answered with %v, closed %q", m, a.closed())
		}
	})
}

func TestSilenceEndsASession(t *testing.T) {
	for name, test := range map[string]struct {
		policy string // of the endpoint
		held   func(*agentv1.Heartbeat)
		want   time.Duration
	}{
		"no policy":                        {"", nil, 100 * time.Second},
		"its policy pings every 15 s":      {"demo", func(m *agentv1.Heartbeat) { m.PolicyId, m.PolicyRevision = idOf(900), 1 }, 70 * time.Second},
		"it has another revision as yet":   {"demo", func(m *agentv1.Heartbeat) { m.PolicyId, m.PolicyRevision = idOf(900), 2 }, 520 * time.Second},
		"it has another policy as yet":     {"demo", func(m *agentv1.Heartbeat) { m.PolicyId, m.PolicyRevision = idOf(901), 1 }, 520 * time.Second},
		"it has not got its policy as yet": {"demo", nil, 100 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				w.change(func(e *store.Endpoint) { e.PolicyName = test.policy })
				a := w.up(1, func(m *agentv1.Heartbeat) {
					if test.held != nil {
						test.held(m)
					}
				})
				pass(test.want - time.Second)
				a.wasClosed("")
				a.ping()
				pass(test.want)
				a.wasClosed("")
				pass(2 * time.Second)
				a.wasClosed("4408 message-timeout")
			})
		})
	}
}

func TestFloods(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1)
		for range 400 { // as many as allowed, for 20 s
			a.ping()
			if a.received().GetPong() == nil {
				t.Fatalf("20 messages a second: %q", a.closed())
			}
			pass(50 * time.Millisecond)
		}
		pass(time.Second)
		for range 60 {
			a.ping()
			a.received()
		}
		a.wasClosed("")
		a.ping()
		a.wasClosed("1008 throttled")
	})
}

func TestNinthUnansweredMessage(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1)
		s := w.hub.sessions[idOf(1)]
		ping, err := wire.Protobuf.Marshal(&agentv1.AgentMessage{Id: 2, Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}})
		if err != nil {
			t.Fatal(err)
		}
		handle := func() *wire.Problem {
			out, p := s.Handle(time.Now(), ping, nil)
			if p == nil && len(out) == 0 {
				t.Error("no answer")
			}
			return p
		}
		for range 8 {
			if p := handle(); p != nil {
				t.Fatalf("within the eight: %v", p)
			}
		}
		s.Answered()
		if p := handle(); p != nil {
			t.Fatalf("one was answered: %v", p)
		}
		if p := handle(); p == nil || p.Name != wire.Throttled {
			t.Errorf("the ninth: %v", p)
		}
		a.leave(wire.CloseNormal)
	})
}

// Heartbeats that come too often are refused one by one; the session goes on.
func TestTooManyHeartbeats(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1)
		for range 4 {
			a.beat(beat(1, short))
			if a.received().GetHeartbeatReply() == nil {
				t.Fatal("refused within the burst")
			}
		}
		a.beat(beat(1, short))
		m := a.received()
		if m.GetRe() != 6 || !strings.HasSuffix(m.GetProblem().GetType(), "/throttled") || m.GetProblem().GetRetryAfter() != 10 {
			t.Errorf("answered with %v", m)
		}
		a.wasClosed("")
		pass(10 * time.Second)
		a.beat(beat(1, short))
		if a.received().GetHeartbeatReply() == nil {
			t.Error("refused after waiting as told")
		}
	})
}

func TestSessionStaysTheInstances(t *testing.T) {
	for name, other := range map[string]func(*agentv1.Heartbeat){
		"another session": func(m *agentv1.Heartbeat) { m.Agent.SessionNumber = 2 }, "another start": func(m *agentv1.Heartbeat) { m.Agent.Epoch = 6 },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				a := w.up(1)
				a.beat(beat(1, other))
				a.wasClosed("1007 malformed")
			})
		})
	}
}

func TestWhichOfTwoSessionsWins(t *testing.T) {
	restart := func(m *agentv1.Heartbeat) { m.Agent.InstanceId, m.Agent.Epoch = strings.Repeat("b", 32), 6 }
	clone := func(m *agentv1.Heartbeat) { m.Agent.InstanceId = strings.Repeat("c", 32) }
	old := func(m *agentv1.Heartbeat) { m.Agent.InstanceId, m.Agent.Epoch = strings.Repeat("d", 32), 4 }
	for name, test := range map[string]struct {
		wait         time.Duration
		second       *agentv1.Heartbeat
		first, other string // how the sessions end
		conflict     v1alpha1.ConflictReason
	}{
		"the next session":              {0, beat(3), "4409 session-replaced", "", ""},
		"the session before":            {0, beat(1), "", "4409 session-replaced", ""},
		"a restart":                     {0, beat(1, restart), "4409 session-replaced", "", ""},
		"a clone":                       {0, beat(7, clone), "", "4409 identity-conflict; retry=300", v1alpha1.ConflictForked},
		"a late packet of an old start": {10 * time.Second, beat(7, old), "", "4409 session-replaced", ""},
		"a machine that was set back":   {61 * time.Second, beat(7, old), "", "4409 identity-conflict; retry=300", v1alpha1.ConflictRolledBack},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				first := w.up(2)
				pass(test.wait)
				second := w.open()
				second.beat(test.second)
				first.wasClosed(test.first)
				second.wasClosed(test.other)
				if got := w.endpoint().Connection.ConflictReason; got != test.conflict {
					t.Errorf("the conflict's reason is %q, want %q", got, test.conflict)
				}
				if len(w.hub.all) != 1 || len(w.hub.sessions) != 1 || w.hub.sessions[idOf(1)] != w.hub.all[0] {
					t.Errorf("%d sessions, %d of them up", len(w.hub.all), len(w.hub.sessions))
				}
				w.written()
				for range 4 { // the one that stays does so in peace
					pass(30 * time.Second)
					if first.closed() == "" {
						first.ping()
					} else {
						second.ping()
					}
				}
				w.wrote()
				if len(w.hub.sessions) != 1 {
					t.Error("the one that won has ended")
				}
			})
		})
	}
}

// Nobody gets orders while two machines use the identity.
func TestNoOrdersInAConflict(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1)
		b := w.open()
		b.beat(beat(1, func(m *agentv1.Heartbeat) { m.Agent.InstanceId = strings.Repeat("c", 32) }))
		b.wasClosed("4409 identity-conflict; retry=300")
		w.change(func(e *store.Endpoint) { e.PolicyName = "demo" })
		if m := a.received(); m != nil {
			t.Errorf("sent %v", m)
		}
		a.beat(beat(1, short))
		if r := a.received().GetHeartbeatReply(); r == nil || len(r.GetOrders()) > 0 {
			t.Errorf("answered with %v", r)
		}
		w.change(func(e *store.Endpoint) { e.AcceptInstance = strings.Repeat("a", 32) }) // a person has decided
		if m := a.received(); len(m.GetOrders().GetOrders()) != 1 {
			t.Errorf("sent %v, want the policy", m)
		}
		if c := w.endpoint().Connection; c.ConflictInstance != "" || c.ConflictReason != "" {
			t.Errorf("recorded %+v", c)
		}
		a.wasClosed("")
	})
}

// A person may decide for the machine that is not the recorded one: then the other's session ends.
func TestTheOtherMachineIsAccepted(t *testing.T) {
	simulate(t, func(w *world) {
		clone := func(m *agentv1.Heartbeat) { m.Agent.InstanceId = strings.Repeat("c", 32) }
		a := w.up(1)
		w.open().beat(beat(1, clone))
		w.change(func(e *store.Endpoint) { e.AcceptInstance = strings.Repeat("c", 32) })
		a.wasClosed("") // until the accepted one comes
		b := w.open()
		b.beat(beat(2, clone))
		b.wasClosed("")
		a.wasClosed("4409 session-replaced")
		if c := w.endpoint().Connection; c.ID != strings.Repeat("c", 32) || c.ConflictInstance != "" || c.Session != 2 {
			t.Errorf("recorded %+v", c)
		}
	})
}

func TestHTTPSHeartbeatEndsTheSession(t *testing.T) {
	for name, test := range map[string]struct {
		m      *agentv1.Heartbeat
		answer wire.Name
		closed string
		writes []string
	}{
		"that it says is over":           {beat(2, short), "", "4409 session-replaced", []string{"Heartbeat+seen"}},
		"and one after it":               {beat(3, short), "", "4409 session-replaced", []string{"Heartbeat+seen"}},
		"not if it was sent before":      {beat(1, short), wire.SessionReplaced, "", nil},
		"with why there is no websocket": {beat(2, short, func(m *agentv1.Heartbeat) { m.SessionError = "broken" }), "", "4409 session-replaced", []string{"Heartbeat+seen"}},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				a := w.up(2)
				w.written()
				if got := w.https(test.m); got != test.answer {
					t.Errorf("answered with %q, want %q", got, test.answer)
				}
				a.wasClosed(test.closed)
				w.wrote(test.writes...)
				c := w.endpoint().Connection
				if test.closed == "" {
					return
				}
				if c.Channel != v1alpha1.ChannelHeartbeat || c.Gateway != "" || c.Error != test.m.GetSessionError() {
					t.Errorf("recorded %+v", c)
				}
				pass(time.Minute)
				w.wrote() // it is not down
				late := w.open()
				late.beat(beat(2)) // what was under way on the dead session
				late.wasClosed("4409 session-replaced")
				b := w.up(4)
				w.wrote("WebSocket+seen")
				if c := w.endpoint().Connection; c.Error != "" {
					t.Errorf("an error beside a session: %q", c.Error)
				}
				b.wasClosed("")
			})
		})
	}
}

func TestRevocationEndsASessionAtOnce(t *testing.T) {
	for want, change := range map[string]func(*store.Endpoint){
		"4403 endpoint-suspended":      func(e *store.Endpoint) { e.Lifecycle = v1alpha1.LifecycleSuspended },
		"4403 endpoint-blocked":        func(e *store.Endpoint) { e.Lifecycle = v1alpha1.LifecycleBlocked },
		"4403 endpoint-decommissioned": func(e *store.Endpoint) { e.Lifecycle = v1alpha1.LifecycleDecommissioned },
		"4401 certificate-superseded":  func(e *store.Endpoint) { e.Keys = []store.KeyHash{{1}} },
	} {
		t.Run(want, func(t *testing.T) {
			simulate(t, func(w *world) {
				a, waits := w.up(1), w.open()
				w.change(change)
				a.wasClosed(want)
				if c := w.endpoint().Connection; strings.HasPrefix(want, "4403") != (c.Channel == v1alpha1.ChannelNone) { // nobody is to wait for that
					t.Errorf("the channel is %s", c.Channel)
				}
				waits.wasClosed("") // it has said nothing yet
				waits.beat(beat(2))
				waits.wasClosed(want)
			})
		})
	}
	simulate(t, func(w *world) {
		a := w.up(1)
		w.book.mu.Lock()
		delete(w.book.endpoints, idOf(1))
		w.book.mu.Unlock()
		w.tell()
		a.wasClosed("4410 endpoint-unknown")
	})
	simulate(t, func(w *world) {
		a, waits := w.up(1), w.open()
		trust := *w.book.trust.Trust
		trust.AgentCAs = nil
		w.book.trust = &store.Trust{Trust: &trust}
		w.hub.Changed("")
		a.wasClosed("4401 certificate-unknown")
		waits.wasClosed("4401 certificate-unknown")
	})
}

func TestExpiredCertificateEndsASession(t *testing.T) {
	simulate(t, func(w *world) {
		cert := *w.cert
		cert.NotAfter = time.Now().Add(90 * time.Minute)
		a := w.openOf(1, &cert)
		a.beat(beat(1))
		for range 90 {
			a.wasClosed("")
			pass(time.Minute - time.Millisecond)
			a.ping()
		}
		a.wasClosed("")
		pass(3 * time.Second)
		a.wasClosed("4401 certificate-expired")
	})
}

func TestOrdersArePushed(t *testing.T) {
	simulate(t, func(w *world) {
		w.change(func(e *store.Endpoint) { e.PolicyName = "demo" })
		has := func(revision uint64) func(*agentv1.Heartbeat) {
			return func(m *agentv1.Heartbeat) { m.PolicyId, m.PolicyRevision = idOf(900), revision }
		}
		a := w.up(1, has(1))
		w.tell()
		if m := a.received(); m != nil {
			t.Errorf("sent %v though it has everything", m)
		}
		policy := func(revision int64) {
			w.book.mu.Lock()
			w.book.policy.Revision, w.book.policy.Order = revision, sealed(envelope.Policy, int(revision))
			w.book.mu.Unlock()
			w.beats.AnyChanged()
			w.hub.PolicyChanged()
		}
		policy(2)
		m := a.received()
		if o := m.GetOrders(); m.GetRe() != 0 || len(o.GetOrders()) != 1 || string(o.GetOrders()[0].GetPayload()) != "{2}" || o.GetBeacon() == nil || o.GetServerTime() == nil {
			t.Errorf("sent %v", m)
		}
		w.tell()
		if m := a.received(); m != nil {
			t.Errorf("sent again: %v", m)
		}
		a.beat(beat(1, short, has(1))) // it has not taken it over: the heartbeat brings it
		if r := a.received().GetHeartbeatReply(); len(r.GetOrders()) != 1 {
			t.Errorf("answered with %v", r)
		}
		a.beat(beat(1, short, has(2)))
		if r := a.received().GetHeartbeatReply(); len(r.GetOrders()) != 0 {
			t.Errorf("answered with %v", r)
		}
		policy(3)
		if m := a.received(); len(m.GetOrders().GetOrders()) != 1 {
			t.Errorf("sent %v", m)
		}
	})
}

// Agents that do not read keep nobody else from their orders, nor from being revoked.
func TestAgentThatDoesNotRead(t *testing.T) {
	simulate(t, func(w *world) {
		stuck, other := w.up(1), w.second()
		stuck.stuck = make(chan struct{})
		for id := 1; id <= 2; id++ {
			w.book.mu.Lock()
			e := w.book.endpoints[idOf(id)]
			e.PolicyName = "demo"
			w.book.endpoints[idOf(id)] = e
			w.book.mu.Unlock()
		}
		w.hub.PolicyChanged()
		if m := other.received(); len(m.GetOrders().GetOrders()) != 1 {
			t.Errorf("sent %v", m)
		}
		w.change(func(e *store.Endpoint) { e.Lifecycle = v1alpha1.LifecycleBlocked })
		stuck.wasClosed("4403 endpoint-blocked")
	})
}

// second is a session of identity 2.
func (w *world) second() *agent {
	w.enrol(2)
	cert := *w.cert
	cert.IdentityID = idOf(2)
	a := w.openOf(2, &cert)
	a.beat(beat(1))
	if a.received().GetHeartbeatReply() == nil {
		w.Fatal(a.closed())
	}
	return a
}

func TestNothingIsDoneForASessionThatIsOver(t *testing.T) {
	simulate(t, func(w *world) {
		a := w.up(1)
		s := w.hub.sessions[idOf(1)]
		a.leave(wire.CloseAbnormal)
		w.written()
		m, err := wire.Protobuf.Marshal(&agentv1.AgentMessage{Id: 2, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: beat(1)}})
		if err != nil {
			t.Fatal(err)
		}
		if out, p := s.Handle(time.Now(), m, nil); len(out) > 0 || p != nil {
			t.Errorf("answered with %q, %v", out, p)
		}
		w.wrote()
	})
}

// What is more than a heartbeat is decoded whole.
func TestPeek(t *testing.T) {
	message := usual(7)
	ping, err := wire.Protobuf.Marshal(&agentv1.AgentMessage{Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		message []byte
		found   bool
	}{
		"a heartbeat": {message, true}, "and a ping after it": {append(slices.Clone(message), ping...), false}, "two": {append(slices.Clone(message), message...), false},
		"cut off": {message[:len(message)-1], false}, "no id": {message[2:], false}, "id 0": {append([]byte{8, 0}, message[2:]...), false}, "nothing": {nil, false},
	} {
		w := &work{}
		if w.peek(test.message); (w.raw != nil) != test.found || test.found && w.reply.Re != 7 {
			t.Errorf("%s: found %t, id %d", name, w.raw != nil, w.reply.Re)
		}
	}
}

func TestBufferIsAppendedTo(t *testing.T) {
	m := &agentv1.ServerMessage{Re: 7, Body: pong}
	for _, json := range []bool{false, true} {
		out, p := encode(m, []byte("before"), json)
		got := &agentv1.ServerMessage{}
		if p != nil || !slices.Equal(out[:6], []byte("before")) || codec(json).Unmarshal(out[6:], got) != nil || got.GetRe() != 7 || got.GetPong() == nil {
			t.Errorf("%q, %v", out, p)
		}
	}
}
