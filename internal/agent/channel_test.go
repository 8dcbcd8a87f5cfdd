package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/agent/status"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// forbid is what a proxy answers that knows no websockets.
func forbid(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
	http.Error(w, "no", http.StatusForbidden)
}

func times(n int, a fleettest.Answer) []fleettest.Answer {
	return slices.Repeat([]fleettest.Answer{a}, n)
}

// connected lives until there is a websocket, and fails if there is none within d.
func (w *world) connected(d time.Duration) {
	w.t.Helper()
	for end := w.boot() + d; w.session.Phase() != session.Up; {
		if w.boot() >= end {
			w.t.Fatalf("no websocket within %s: %+v", d, w.Status().Websocket)
		}
		w.live(time.Second)
	}
}

// websocket fails unless that is its state.
func (w *world) websocket(state, phrase string) {
	w.t.Helper()
	if got := w.Status().Websocket; got.State != state || got.Error != phrase {
		w.t.Fatalf("the websocket is %s, %q, want %s, %q", got.State, got.Error, state, phrase)
	}
}

// beatsOver counts heartbeats by their way, from the nth on.
func (w *world) beatsOver(n int) map[string]int {
	count := map[string]int{}
	for _, way := range w.gateway.Over()[n:] {
		count[way]++
	}
	return count
}

// alwaysOnline lives for d, and fails if the agent is anything but online on the way.
func (w *world) alwaysOnline(d time.Duration) {
	w.t.Helper()
	for end := w.boot() + d; w.boot() < end; w.live(time.Second) {
		w.expect("Online")
	}
}

// In steady state an agent has one connection, the websocket: heartbeats and pings go over it.
func TestOneConnection(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.live(time.Hour)
	w.expect("Online")
	w.websocket(status.Connected, "")
	if got := w.beatsOver(0); got["HTTPS"] != 0 || got["websocket"] < 12 || got["websocket"] > 14 {
		t.Errorf("heartbeats by their way: %v", got)
	}
	if n := w.gateway.Pings(); n < 90 || n > 122 {
		t.Errorf("%d pings in an hour", n)
	}
	if up, conns := w.gateway.Upgrades(), w.gateway.Connections(); up != 1 || conns != 1 {
		t.Errorf("%d websockets, %d connections, want one", up, conns)
	}
	s := w.Status()
	if s.Heartbeat.Over != status.OverWebsocket || s.Websocket.Subprotocol != wire.Subprotocol || s.Websocket.RoundTripMilliseconds == nil ||
		*s.Websocket.ForSeconds < 3500 || s.Server.CipherSuite == "" || !strings.HasPrefix(s.Websocket.URL, "wss://127.0.0.1:") {
		t.Errorf("status %+v %+v", s.Websocket, s.Heartbeat)
	}
	if last := w.gateway.LastBeat(); last.GetAgent().GetSessionNumber() != 1 || last.GetSessionError() != "" {
		t.Errorf("the last heartbeat is of session %d, %q", last.GetAgent().GetSessionNumber(), last.GetSessionError())
	}
}

// Orders that are pushed are obeyed as those of a reply are, and a heartbeat says so at once, also when one was on its way.
func TestOrdersArePushed(t *testing.T) {
	w := newWorld(t)
	w.online()
	before := len(w.gateway.Beats())
	id := w.Status().Endpoint.Identity
	at := w.machine.now().Add(time.Second)
	w.gateway.SetOrders(func(string) []*agentv1.Envelope { return nil })
	w.gateway.Session().Push(w.fleet.Policy(policyID, 3, 20*time.Second), w.fleet.Assignment(id, policyID, at))
	w.hear()
	w.live(time.Second)
	if last := w.gateway.LastBeat(); len(w.gateway.Beats()) != before+1 || last.GetPolicyRevision() != 3 || !last.GetAssignmentIssuedAt().AsTime().Equal(at) {
		t.Errorf("%d heartbeats, the last with revision %d", len(w.gateway.Beats())-before, last.GetPolicyRevision())
	}

	w.hurry()
	w.Step(t.Context()) // a heartbeat is on its way
	w.gateway.Session().Push(w.fleet.Policy(policyID, 4, 30*time.Second))
	w.await("the policy to be told", func() bool { return w.gateway.LastBeat().GetPolicyRevision() == 4 && !w.session.Busy() })

	forger := *fleettest.New(t, w.machine.now)
	forger.ID = w.fleet.ID
	w.gateway.Session().Push(forger.Policy(policyID, 9, time.Second))
	w.hear()
	w.live(time.Minute)
	if s := w.Status(); s.Orders.Rejected != 1 || s.Policy.Revision != 4 || w.gateway.LastBeat().GetRejectedOrders() != 1 {
		t.Errorf("orders %+v, policy %+v", s.Orders, s.Policy)
	}
	w.websocket(status.Connected, "")
}

// A proxy that answers every upgrade with 403: heartbeats go over HTTPS at their interval and say why, the upgrade is tried beside them, ever
// more seldom, and the endpoint is online all the time. Once the proxy lets it through, it is back within its backoff.
func TestUpgradeIsForbidden(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.gateway.Next(wire.PathSession, times(1000, forbid)...)
	before := len(w.gateway.Beats())
	w.gateway.Session().Cut()
	w.hear()
	w.alwaysOnline(2 * time.Hour)
	const phrase = "the upgrade was answered with 403"
	w.websocket(status.Disconnected, phrase)
	if last := w.gateway.LastBeat(); last.GetSessionError() != phrase || last.GetAgent().GetSessionNumber() < 5 {
		t.Errorf("the last heartbeat says %q after session %d", last.GetSessionError(), last.GetAgent().GetSessionNumber())
	}
	if got := w.beatsOver(before); got["websocket"] != 0 || got["HTTPS"] < 23 || got["HTTPS"] > 27 {
		t.Errorf("heartbeats by their way: %v", got)
	}
	s := w.Status().Websocket
	if s.Attempt < 15 || s.Attempt > 30 || *s.NextAttemptInSeconds > 900 || s.Detail != "the server, or a proxy on the way, answered the upgrade with 403 Forbidden" {
		t.Errorf("after two hours: %+v", s)
	}
	first := w.gateway.Beats()[before]
	if gap := first.GetSentAt().AsTime().Sub(noon); gap > 3*time.Minute || first.GetSessionError() != phrase {
		t.Errorf("the first heartbeat after it is %s old, and says %q", gap, first.GetSessionError())
	}
	w.gateway.Unbend(wire.PathSession)
	w.connected(15 * time.Minute)
	w.live(time.Second)
	if last := w.gateway.LastBeat(); last.GetSessionError() != "" || w.Status().Heartbeat.Over != status.OverWebsocket {
		t.Errorf("back, it says %q", last.GetSessionError())
	}
	w.gateway.AwaitConnections(1) // the one for HTTPS is let go
}

// A server that was away for long: whichever way is tried first brings back the other, within seconds.
func TestServerComesBack(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.gateway.Stop()
	w.hear()
	w.live(time.Hour)
	w.expect("Offline", "server-unreachable")
	w.gateway.Start(w.fleet.ServerCA, fleettest.Serving(w.machine.now(), w.machine.now().Add(time.Hour)))
	w.session.Postpone(w.boot() + 10*time.Minute) // HTTPS is first
	for w.Status().State != "Online" {
		w.live(time.Second)
	}
	w.connected(4 * time.Second)
}

// A renewal may take longer than a gateway waits for the first message of a websocket: it waits for the dial under way.
func TestRenewalWaitsForTheDial(t *testing.T) {
	w := newWorld(t)
	w.online()
	release := make(chan struct{})
	w.gateway.Next(wire.PathSession, func(rw http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
		<-release
		real(rw, r)
	})
	w.gateway.Session().Cut()
	w.hear()
	w.deaf = toDials
	w.live(2 * time.Second)
	w.renewal.due, w.renewal.waiting = w.boot(), true // it was accepted, and is to be asked for again
	if wait := w.Step(t.Context()); wait <= 0 || len(w.gateway.Requests(wire.PathRenew)) > 0 {
		t.Errorf("while it dials: %d renewals, the next step in %s", len(w.gateway.Requests(wire.PathRenew)), wait)
	}
	close(release)
	w.deaf = toNothing
	w.live(2 * time.Second)
	w.websocket(status.Connected, "")
	if n := len(w.gateway.Requests(wire.PathRenew)); n != 1 {
		t.Errorf("%d renewals", n)
	}
}

// An agent from before websockets: refused by name, served by heartbeats, and tried again a day later.
func TestOldAgent(t *testing.T) {
	w := newWorld(t)
	w.Version = "6.0.4"
	refuse := fleettest.Refuse(&wire.Problem{Name: wire.AgentVersionUnsupported, Minimum: "6.1", Detail: "Agent 6.0.4 is too old for the websocket."})
	tried := 0
	w.gateway.Next(wire.PathSession, times(1000, func(rw http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
		tried++
		refuse(rw, r, real)
	})...)
	w.online()
	const sentence = "agent 6.0.4: the websocket needs 6.1 or later"
	w.websocket(status.Unsupported, sentence)
	if got := w.gateway.LastBeat().GetSessionError(); got != sentence {
		t.Errorf("the heartbeat says %q", got)
	}
	w.alwaysOnline(50 * time.Hour)
	if tried != 3 {
		t.Errorf("tried %d times in 50 hours, want 3", tried)
	}
	if got := w.beatsOver(0); got["HTTPS"] < 550 || got["websocket"] != 0 {
		t.Errorf("heartbeats by their way: %v", got)
	}
}

// The policy wants no websocket, and later wants one again, while the agent is connected.
func TestPolicyDisablesTheWebsocket(t *testing.T) {
	w := newWorld(t)
	at := w.machine.now()
	policy := func(revision uint64, disabled bool) {
		sealed, err := envelope.Seal(w.fleet.Order, envelope.Policy, &agentv1.Policy{
			FleetId: w.fleet.ID, PolicyId: policyID, Revision: revision, IssuedAt: timestamppb.New(w.machine.now()), WebsocketDisabled: disabled,
		})
		if err != nil {
			t.Fatal(err)
		}
		w.gateway.SetOrders(func(id string) []*agentv1.Envelope {
			return []*agentv1.Envelope{w.fleet.Assignment(id, policyID, at), sealed}
		})
	}
	policy(1, false)
	w.online()
	w.websocket(status.Connected, "")
	policy(2, true)
	w.live(6 * time.Minute)
	w.websocket(status.Disabled, "")
	w.expect("Online")
	last := w.gateway.LastBeat()
	if n := w.gateway.Connections(); n > 1 || len(w.gateway.Sessions()) != 0 || last.GetPolicyRevision() != 2 || last.GetSessionError() != "" || last.GetAgent().GetSessionNumber() != 1 {
		t.Errorf("%d connections; the last heartbeat: %v", n, last)
	}
	w.live(time.Hour)
	if w.gateway.Upgrades() != 1 {
		t.Errorf("%d websockets", w.gateway.Upgrades())
	}
	policy(3, false)
	w.live(6 * time.Minute)
	w.websocket(status.Connected, "")
	if last := w.gateway.LastBeat(); last.GetPolicyRevision() != 3 || last.GetAgent().GetSessionNumber() != 2 {
		t.Errorf("the last heartbeat: %v", last)
	}
}

// A renewed certificate is shown to the server at once, by a TLS session that resumes none of the old one's.
func TestRenewsWhileConnected(t *testing.T) {
	w := newWorld(t)
	w.gateway.Lifetime = time.Hour
	w.online()
	first := w.leaf().SerialNumber
	w.alwaysOnline(44 * time.Minute)
	w.websocket(status.Connected, "")
	if w.leaf().SerialNumber.Cmp(first) == 0 || w.gateway.Upgrades() != 2 || w.gateway.Session().Resumed || w.gateway.Connections() != 1 {
		t.Errorf("%d websockets, the last resumed: %t; %d connections", w.gateway.Upgrades(), w.gateway.Session().Resumed, w.gateway.Connections())
	}
	// The gateway of the tests takes the new certificate only.
	if got := w.beatsOver(0); got["HTTPS"] != 0 {
		t.Errorf("heartbeats by their way: %v", got)
	}
}

// What the other side may do to a websocket that is up, each with what becomes of it.
func TestClosed(t *testing.T) {
	const s, m = time.Second, time.Minute
	for _, c := range []struct {
		code     wire.CloseCode
		reason   string
		state    string
		phrase   string
		min, max time.Duration // until the next attempt
		renews   bool
	}{
		{1000, "", "Online", "the server closed it with 1000 (draining)", 0, s, false},
		{1002, "malformed", "Online", "the server closed it with 1002 (malformed)", 0, s, false},
		{1003, "", "Online", "the server closed it with 1003 (media-type-unsupported)", 0, s, false},
		{1007, "malformed", "Online", "the server closed it with 1007 (malformed)", 0, s, false},
		{1008, "throttled", "Online", "the server closed it with 1008 (throttled)", m, 74 * s, false},
		{1009, "payload-too-large", "Online", "the server closed it with 1009 (payload-too-large)", 0, s, false},
		{1011, "", "Online", "the server closed it with 1011 (internal)", 0, s, false},
		{1012, "draining; retry=20", "Online", "the server closed it with 1012 (draining)", 20 * s, 25 * s, false},
		{1013, "overloaded; retry=20", "Online", "the server closed it with 1013 (overloaded)", 20 * s, 25 * s, false},
		{4401, "certificate-expired", "Online", "", 0, 0, true},
		{4401, "certificate-superseded", "Online", "", 0, 0, true},
		{4403, "endpoint-suspended", "Suspended", "the server closed it with 4403 (endpoint-suspended)", 13 * m, 17 * m, false},
		{4403, "endpoint-blocked", "Blocked", "the server closed it with 4403 (endpoint-blocked)", 54 * m, 66 * m, false},
		{4403, "endpoint-decommissioned", "Decommissioned", "the server closed it with 4403 (endpoint-decommissioned)", 54 * m, 66 * m, false},
		{4408, "message-timeout", "Online", "the server closed it with 4408 (message-timeout)", 0, s, false},
		{4409, "session-replaced", "Offline", "the server closed it with 4409 (session-replaced)", 48 * s, 80 * s, false},
		{4409, "identity-conflict; retry=300", "Conflict", "the server closed it with 4409 (identity-conflict)", 4 * m, 6 * m, false},
		{4410, "endpoint-unknown", "NotEnrolled", "the server closed it with 4410 (endpoint-unknown)", 54 * m, 66 * m, false},
	} {
		t.Run(fmt.Sprintf("%d %s", c.code, c.reason), func(t *testing.T) {
			w := newWorld(t)
			w.online()
			w.live(2 * time.Minute)
			before := w.certificate()
			w.gateway.Session().Close(c.code, c.reason)
			w.hear()
			w.Step(t.Context())
			if got := len(w.gateway.Requests(wire.PathRenew)) > 0; got != c.renews {
				t.Fatalf("asked for a certificate: %t", got)
			}
			if !c.renews {
				st := w.Status()
				if st.State != c.state || st.Websocket.State != status.Disconnected || st.Websocket.Error != c.phrase {
					t.Errorf("%s; %+v", st.State, st.Websocket)
				}
				if wait := w.session.View().Due - w.boot(); wait < c.min || wait > c.max {
					t.Errorf("the next attempt is in %s, want in %s to %s", wait, c.min, c.max)
				}
				if w.certificate() != before {
					t.Error("the identity has changed")
				}
			}
			w.connected(70 * time.Minute)
			w.live(s)
			w.expect("Online")
			if w.gateway.Upgrades() != 2 {
				t.Errorf("%d websockets", w.gateway.Upgrades())
			}
			if got := w.beatsOver(0)["HTTPS"]; got != 0 {
				t.Errorf("%d heartbeats over HTTPS: those would have been answered alike", got)
			}
		})
	}
}

// 1009: what was too much is not sent again.
func TestTooBigIsNotSentAgain(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.gateway.SetReply(func(r *agentv1.HeartbeatReply) { r.Send = []agentv1.Section{agentv1.Section_SECTION_INVENTORY} })
	w.live(6 * time.Minute)
	w.gateway.SetReply(nil)
	w.gateway.Session().Close(wire.CloseTooBig, "payload-too-large")
	w.hear()
	w.live(time.Minute)
	if last := w.gateway.LastBeat(); last.GetInventory() != nil || w.gateway.Upgrades() != 2 {
		t.Errorf("after %d websockets the inventory is sent again", w.gateway.Upgrades())
	}
}

// A version that is served no more: heartbeats by HTTPS, and the websocket tried again a day later.
func TestVersionNoLongerServed(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.gateway.Session().Close(wire.CloseVersion, "agent-version-unsupported")
	w.hear()
	w.alwaysOnline(time.Hour)
	w.websocket(status.Unsupported, "agent 8.0.0: the websocket needs 6.1 or later")
	if wait := w.session.View().Due - w.boot(); wait < 20*time.Hour {
		t.Errorf("tries again in %s", wait)
	}
}

// The other side is still there for TCP, and answers nothing any more: noticed after 20 s, tried anew, and after three times heartbeats go
// another way. The endpoint is online all the time, and when the websocket works again, it is used.
func TestHalfOpen(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.live(2 * time.Minute)
	before := len(w.gateway.Beats())
	w.gateway.Mute.Store(true)
	w.gateway.Disordered.Store(true)
	w.deaf = toAnswers
	w.live(51 * time.Second)
	if got := w.Status().Websocket; got.LostCount != 1 || got.Error != "no answer came for 20s" {
		t.Fatalf("after 51s: %+v", got)
	}
	w.alwaysOnline(30 * time.Minute)
	w.websocket(status.Disconnected, "no answer came for 20s")
	if ways := w.beatsOver(before); ways["HTTPS"] < 4 {
		t.Errorf("heartbeats by their way: %v", ways)
	}
	w.gateway.Mute.Store(false)
	w.deaf = toNothing
	w.connected(16 * time.Minute)
}

// Pings are swallowed, heartbeats are not.
func TestPingsAreSwallowed(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.gateway.MutePings.Store(true)
	for range 600 {
		w.deaf = toNothing
		if w.session.Phase() == session.Up && !w.session.BeatUnanswered() {
			w.deaf = toAnswers
		}
		w.expect("Online")
		w.live(time.Second)
	}
	if got := w.Status().Websocket; got.LostCount < 3 || w.gateway.LastBeat().GetSessionError() == "" && w.beatsOver(0)["HTTPS"] == 0 {
		t.Errorf("after ten minutes: %+v, %v", got, w.beatsOver(0))
	}
}

// A proxy that cuts every connection after 20 s: the websocket comes back, after ever longer, and heartbeats go meanwhile by HTTPS.
func TestIsCutAgainAndAgain(t *testing.T) {
	w := newWorld(t)
	w.online()
	for range 3600 {
		if v := w.session.View(); v.Phase == session.Up && w.boot()-v.Since >= 20*time.Second {
			w.gateway.Session().Cut()
			w.hear()
		}
		w.live(time.Second)
		w.expect("Online")
	}
	got := w.Status().Websocket
	if got.LostCount < 15 || got.LostCount > 35 || got.State == status.Disconnected && got.Error != "the connection was cut" {
		t.Errorf("in an hour: %+v", got)
	}
	if ways := w.beatsOver(0); ways["HTTPS"] < 3 || ways["HTTPS"]+ways["websocket"] < 15 {
		t.Errorf("heartbeats by their way: %v", ways)
	}
}

// A machine that sleeps: for a moment, and it finds out at once whether the other side is still there; for an hour, and it is not.
func TestMachineSleeps(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.live(10 * time.Second)
	pings := w.gateway.Pings()
	w.machine.sleep(5 * time.Second) // no ping is due by itself
	w.live(time.Millisecond)
	if got := w.gateway.Pings() - pings; got != 1 || w.gateway.Upgrades() != 1 {
		t.Errorf("after 5s of sleep: %d pings, %d websockets", got, w.gateway.Upgrades())
	}
	w.live(time.Minute)
	old := w.gateway.Session()
	w.machine.sleep(time.Hour)
	w.live(2 * time.Second)
	w.websocket(status.Connected, "")
	w.expect("Online")
	if w.gateway.Upgrades() != 2 || slices.Contains(w.gateway.Sessions(), old) {
		t.Errorf("after an hour of sleep: %d websockets", w.gateway.Upgrades())
	}
	if last := w.gateway.LastBeat(); w.machine.now().Sub(last.GetSentAt().AsTime()) > 3*time.Second {
		t.Error("no heartbeat came after the sleep")
	}
}

// A pong that comes after the session was given up is of no consequence to the next.
func TestLatePong(t *testing.T) {
	w := newWorld(t)
	w.online()
	old := w.session.Number()
	w.gateway.MutePings.Store(true) // and no heartbeat of the next session, which may be there before this is over
	w.gateway.Disordered.Store(true)
	w.deaf = toAnswers
	w.live(52 * time.Second)
	w.gateway.MutePings.Store(false)
	w.deaf = toNothing
	w.connected(time.Minute)
	for _, event := range []session.Event{
		{Number: old, Message: &agentv1.ServerMessage{Re: 2, Body: &agentv1.ServerMessage_Pong{Pong: &agentv1.Pong{}}}},
		{Number: old, Err: http.ErrServerClosed},
	} {
		w.came = append(w.came, event)
		w.Step(t.Context())
	}
	w.websocket(status.Connected, "")
}

// A dial that hangs keeps no heartbeat: it goes by HTTPS beside it. When the websocket opens while HTTPS hangs, the heartbeat goes there.
func TestDialHangs(t *testing.T) {
	w := newWorld(t)
	w.online()
	release := make(chan struct{})
	hang := func(rw http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
		<-release
		real(rw, r)
	}
	w.gateway.Next(wire.PathSession, hang)
	before := len(w.gateway.Beats())
	w.gateway.Session().Cut()
	w.hear()
	w.deaf = toDials
	w.live(7 * time.Minute)
	w.expect("Online")
	if ways := w.beatsOver(before); ways["HTTPS"] < 1 || ways["websocket"] != 0 {
		t.Errorf("beside the dial: %v", ways)
	}
	hung, over := make(chan struct{}), make(chan struct{})
	defer close(over)
	w.gateway.Next(wire.PathHeartbeat, func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
		close(hung)
		<-over
	})
	go func() {
		<-hung
		close(release)
	}()
	w.hurry()
	w.machine.pass(w.session.Timing.Grace)
	w.Step(t.Context()) // would hang for 45 s
	w.deaf = toNothing
	w.connected(time.Second)
	if w.expect("Online"); w.Status().Heartbeat.FailedCount != 0 {
		t.Error("the heartbeat that made room counts as failed")
	}
}

// A server that does not keep to the protocol is no reason to spin, or to end.
func TestNonsenseOnTheWebsocket(t *testing.T) {
	message := func(m *agentv1.ServerMessage) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, c := range map[string]struct {
		bytes []byte
		ends  bool
	}{
		"no protobuf":                {[]byte{0xff, 0xff}, true},
		"out of bounds":              {message(&agentv1.ServerMessage{Body: &agentv1.ServerMessage_HeartbeatReply{HeartbeatReply: &agentv1.HeartbeatReply{Gateway: "a\x00"}}}), true},
		"orders, and there are none": {message(&agentv1.ServerMessage{Body: &agentv1.ServerMessage_Orders{Orders: &agentv1.Orders{}}}), true},
		"too big":                    {make([]byte, wire.MaxServerMessageBytes+1), true},
		"empty":                      {nil, false},
		"of the future":              {[]byte{0x9a, 0x06, 1, 'x'}, false},
		"the answer to nothing":      {message(&agentv1.ServerMessage{Re: 99, Body: &agentv1.ServerMessage_HeartbeatReply{HeartbeatReply: &agentv1.HeartbeatReply{}}}), false},
		"a problem with nothing":     {message(&agentv1.ServerMessage{Body: &agentv1.ServerMessage_Problem{Problem: (&wire.Problem{Name: wire.Internal}).Proto()}}), false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.online()
			w.gateway.Session().Raw(c.bytes)
			w.hear()
			w.Step(t.Context())
			if ended := w.session.Phase() != session.Up; ended != c.ends {
				t.Errorf("the session ended: %t", ended)
			}
			w.connected(5 * time.Second)
			w.live(time.Minute)
			w.expect("Online")
			if n := len(w.gateway.Beats()); n > 3 {
				t.Errorf("%d heartbeats", n)
			}
		})
	}
}

// A heartbeat on a websocket that is answered by a problem, or by what is no answer, fails and is not repeated at once.
func TestHeartbeatIsRefusedOnTheWebsocket(t *testing.T) {
	throttled := (&wire.Problem{Name: wire.Throttled, RetryAfter: time.Minute, Detail: "Slow down."}).Proto()
	for want, answer := range map[wire.Name]*agentv1.ServerMessage{
		wire.Throttled:    {Body: &agentv1.ServerMessage_Problem{Problem: throttled}},
		"reply-malformed": {Body: &agentv1.ServerMessage_Pong{Pong: &agentv1.Pong{}}},
	} {
		w := newWorld(t)
		w.online()
		w.live(10 * time.Second) // no ping is due
		w.gateway.Mute.Store(true)
		w.hurry()
		w.Step(t.Context())
		answer.Re = w.session.LastID()
		w.gateway.Session().Say(answer)
		w.hear()
		w.gateway.Mute.Store(false)
		w.Step(t.Context())
		w.expect("Offline", want)
		if wait := w.beat.due - w.boot(); want == wire.Throttled && wait < 48*time.Second {
			t.Errorf("throttled, it waits %s", wait)
		}
		w.live(6 * time.Minute)
		w.expect("Online")
		w.websocket(status.Connected, "")
	}
}

// Through a CONNECT proxy, and when the proxy does not let it through.
func TestWebsocketThroughProxy(t *testing.T) {
	w := newWorld(t)
	proxy := fleettest.NewProxy(t)
	w.Proxy = proxy.URL
	w.online()
	w.websocket(status.Connected, "")
	tunnels := proxy.Tunnels.Load()
	proxy.Refuse.Store(http.StatusProxyAuthRequired)
	w.gateway.Session().Cut()
	w.hear()
	w.live(6 * time.Minute)
	w.expect("Offline", "proxy-refused")
	if got := w.Status().Websocket.Error; !strings.Contains(got, "answered CONNECT with 407") {
		t.Errorf("no websocket: %s", got)
	}
	proxy.Refuse.Store(0)
	w.live(6 * time.Minute)
	w.expect("Online")
	w.websocket(status.Connected, "")
	if proxy.Tunnels.Load() == tunnels {
		t.Error("it went by another way")
	}
}

// The refusal of an identity is asked for by one request, not by one for each way.
func TestUpgradeRefusedForTheIdentity(t *testing.T) {
	w := newWorld(t)
	w.online()
	suspended := fleettest.Refuse(&wire.Problem{Name: wire.EndpointSuspended, Detail: "Suspended by a person."})
	asked := 0
	w.gateway.Next(wire.PathSession, times(100, func(rw http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
		asked++
		suspended(rw, r, real)
	})...)
	https := 0
	w.gateway.Next(wire.PathHeartbeat, times(100, func(rw http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
		https++
		suspended(rw, r, real)
	})...)
	w.gateway.Session().Close(wire.CloseNotActive, "endpoint-suspended")
	w.hear()
	w.live(3 * time.Hour)
	w.expect("Suspended", wire.EndpointSuspended)
	if got := w.Status().Problems[0].Detail; got != "Suspended by a person." {
		t.Errorf("said %q", got)
	}
	if asked < 10 || asked > 14 || https != 0 {
		t.Errorf("asked %d times for a websocket, %d times for a heartbeat", asked, https)
	}
}

// Check-in over the websocket returns when the heartbeat was answered, by the goroutine that owns the engine; and stopping closes it properly.
func TestCheckinOverTheWebsocket(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.Run(ctx) }()
	for i := range 20 {
		before := len(w.gateway.Beats())
		if err := w.Checkin(ctx); err != nil {
			t.Fatal(err)
		}
		if s := w.Status(); s.State != "Online" || len(w.gateway.Beats()) <= before || i > 0 && s.Websocket.State != status.Connected {
			t.Errorf("after check-in %d: %s, %d heartbeats, %+v", i, s.State, len(w.gateway.Beats())-before, s.Websocket)
		}
	}
	cancel()
	<-stopped
}
