package endpoint

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/policy"
)

func TestOnline(t *testing.T) {
	const never = -1
	for _, tt := range []struct {
		name   string
		given  []fact
		status metav1.ConditionStatus
		reason string
		next   int // second; never
	}{
		{"nobody has enrolled", []fact{notEnrolled}, "Unknown", reasonNotEnrolled, never},
		{"enrolled, not heard of yet", []fact{neverSeen}, "Unknown", reasonNeverSeen, never},
		{"heard of", nil, "True", reasonHeartbeats, 121},
		{"until its deadline", []fact{now(120)}, "True", reasonHeartbeats, 121},
		{"and a second more, for the API cuts times", []fact{now(121), listened(-999, 121)}, "False", reasonMissed, never},
		{"past it, but no gateway was seen alive since: soon", []fact{now(121), wasOnline, listened(-999, 120)}, "True", reasonHeartbeats, 122},
		{"long past it", []fact{now(9999)}, "False", reasonMissed, never},
		{"gateways came back: it has the silence that it is allowed", []fact{now(200), wasOnline, listened(150, 199)}, "True", reasonHeartbeats, 240},
		{"until then", []fact{now(240), wasOnline, listened(150, 239)}, "True", reasonHeartbeats, 241},
		{"and no longer", []fact{now(241), wasOnline, listened(150, 240)}, "False", reasonMissed, never},
		{"gateways are gone or the API server is away: it stays as it was", []fact{now(500), wasOnline, listened(-999, 100)}, "True", reasonHeartbeats, 575},
		{"this manager has just begun", []fact{now(500), wasOnline, neverListened}, "True", reasonHeartbeats, 575},
		{"no gateway, for sure, but not for long", []fact{now(279), wasOnline, listened(-999, 100), missing(100)}, "True", reasonHeartbeats, 354},
		{"and for longer than a restart takes", []fact{now(280), wasOnline, listened(-999, 100), missing(100)}, "Unknown", reasonNoGateway, 355},
		{"whose deadline is not over is online even so", []fact{now(60), wasOnline, listened(-999, -600), missing(-600)}, "True", reasonHeartbeats, 121},
		{"gateways are back after that", []fact{now(500), listened(480, 499), was(metav1.Condition{
			Type: v1alpha1.EndpointOnline, Status: metav1.ConditionUnknown, Reason: reasonNoGateway,
		})}, "Unknown", reasonWaiting, 570},
		{"offline", []fact{now(500), wasOffline(121), channel(v1alpha1.ChannelNone)}, "False", reasonMissed, never},
		{"offline stays so, though its policy is more patient now", []fact{now(500), wasOffline(121), channel(v1alpha1.ChannelNone), func(f *facts) {
			f.Status.Policy.OfflineAfterSeconds = 9999
		}}, "False", reasonMissed, never},
		{"offline stays so, though no gateway is there now", []fact{now(500), wasOffline(121), channel(v1alpha1.ChannelNone), neverListened, missing(0)}, "False", reasonMissed, never},
		{"heard of again", []fact{now(500), wasOffline(121), channel(v1alpha1.ChannelHeartbeat), func(f *facts) { f.Status.LastSeenTime = since(499) }}, "True", reasonHeartbeats, 620},
		{"heard of again, by a gateway that had not noticed", []fact{now(500), wasOffline(121), channel(v1alpha1.ChannelNone), func(f *facts) {
			f.Status.LastSeenTime = since(499)
		}}, "True", reasonHeartbeats, 620},
		{"a session has no deadline", []fact{now(9999), session}, "True", reasonHeartbeats, never},
		{"not even without gateways: its own may be known to be gone, and then it has no session", []fact{now(9999), session, neverListened, missing(0)}, "True", reasonHeartbeats, never},
		{"a session of one that was never seen", []fact{neverSeen, func(f *facts) { f.Status.Connection = &v1alpha1.EndpointConnection{} }, session}, "True", reasonHeartbeats, never},
		{"a session of one that was offline", []fact{now(500), wasOffline(121), session}, "True", reasonHeartbeats, never},
		{"a session of no gateway is none", []fact{now(9999), channel(v1alpha1.ChannelWebSocket)}, "False", reasonMissed, never},
		{"a session has ended: its deadline counts from then", []fact{now(3000), wasOnline, sessionEnded(2990, "")}, "True", reasonHeartbeats, 3111},
		{"until then", []fact{now(3110), wasOnline, sessionEnded(2990, "")}, "True", reasonHeartbeats, 3111},
		{"and no longer", []fact{now(3111), wasOnline, sessionEnded(2990, ""), listened(-999, 3111)}, "False", reasonMissed, never},
		{"given up with its gateway", []fact{now(3110), wasOnline, sessionEnded(2990, "its gateway is gone")}, "True", reasonHeartbeats, 3111},
		{"given up with its gateway, before any heartbeat was written", []fact{neverSeen, func(f *facts) {
			f.Status.Connection = &v1alpha1.EndpointConnection{}
		}, sessionEnded(0, "its gateway is gone")}, "True", reasonHeartbeats, 121},
		{"offline, and the manager missed a session meanwhile", []fact{now(500), wasOffline(121), sessionEnded(490, "")}, "True", reasonHeartbeats, 611},
		{"heard of again, by a gateway whose clock is slow", []fact{now(200), wasOffline(170), channel(v1alpha1.ChannelHeartbeat), func(f *facts) {
			f.Status.LastSeenTime = since(100)
		}}, "True", reasonHeartbeats, 221},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := given(tt.given...)
			c, next := online(f)
			if c.Status != tt.status || c.Reason != tt.reason || c.Message == "" && c.Status != "True" {
				t.Errorf("Online is %s/%s %q, want %s/%s", c.Status, c.Reason, c.Message, tt.status, tt.reason)
			}
			want := time.Time{}
			if tt.next != never {
				want = at(tt.next)
			}
			if tt.next == 122 || tt.next == 241 { // in a tenth of a Lease's duration
				want = f.now.Add(f.gatewayLease / 10)
			}
			if !next.Equal(want) {
				t.Errorf("judged again at %s, want %s", next.Format(time.StampMilli), want.Format(time.StampMilli))
			}
		})
	}
}

func TestOfflineSaysSinceWhen(t *testing.T) {
	c, _ := online(given(now(9999)))
	if want := "last heartbeat 2026-11-24 12:00:00Z, at least 3 missed"; c.Message != want {
		t.Errorf("%q, want %q", c.Message, want)
	}
	// Its policy is another now, which it has not applied: how many of the old one's heartbeats were missed is not known.
	c, _ = online(given(now(9999), func(f *facts) { f.Status.Policy.OfflineAfterSeconds = 1200 }))
	if want := "last heartbeat 2026-11-24 12:00:00Z, none for 15m0s"; c.Message != want {
		t.Errorf("%q, want %q", c.Message, want)
	}
}

// Of a session that its gateway took with it, the last heartbeat that was written down is not the last that came.
func TestOfflineAfterASession(t *testing.T) {
	for why, want := range map[string]string{
		"":                    "last heartbeat 2026-11-24 12:00:00Z, at least 3 missed",
		"its gateway is gone": "no heartbeat since its session was given up 2026-11-24 12:49:50Z, at least 3 missed",
	} {
		if c, _ := online(given(now(9999), sessionEnded(2990, why))); c.Message != want {
			t.Errorf("%q, want %q", c.Message, want)
		}
	}
}

// A session proves that its agent is there, now: a shorter silence counts as soon as it obeys the policy that demands it.
func TestASessionAdoptsAShorterSilence(t *testing.T) {
	for _, tt := range []struct {
		name  string
		given []fact
		want  int32
	}{
		{"without one, the record is too old for that", nil, 1200},
		{"with one", []fact{session}, 120},
		{"before it obeys", []fact{session, agent(func(a *v1alpha1.EndpointAgent) { a.PolicyRevision = 2 })}, 1200},
		{"after one that has just ended", []fact{sessionEnded(3590, "")}, 120},
	} {
		f := given(append([]fact{now(3600), func(f *facts) { f.Status.Policy.OfflineAfterSeconds = 1200 }}, tt.given...)...)
		if adopt(f.Endpoint, f.policy, f.now); f.Status.Policy.OfflineAfterSeconds != tt.want {
			t.Errorf("%s: offline after %d s, want %d", tt.name, f.Status.Policy.OfflineAfterSeconds, tt.want)
		}
	}
}

// world is an endpoint that is there, with a session or without, gateways that come and go, and a manager that judges once a second, for a
// while.
type world struct {
	t        *rapid.T
	pace     policy.Pace
	f        *facts
	heard    time.Time // really, whatever the record says
	beats    bool
	nextBeat time.Time

	gateway bool
	// life is the gateway's name: a new one at each start. gone is since when the one before is silent, as the manager sees it.
	life        int
	gone        time.Time
	renewed     time.Time
	managerKnow bool
	// ended is when the session ended that the gateway still has to write down; zero if there is none.
	ended time.Time
}

// How long a gateway waits for a message of a session, and after its end for another one.
const (
	silentSession = 100 * time.Second
	successor     = 30 * time.Second
)

func newWorld(t *rapid.T) *world {
	w := &world{t: t, beats: true, gateway: true, managerKnow: true, heard: noon, renewed: noon, f: given(now(0), wasOnline)}
	setPace(w.f.policy, rapid.Int32Range(30, 300).Draw(t, "interval"), rapid.Int32Range(3, 6).Draw(t, "missed"))
	w.pace = policy.PaceOf(w.f.policy)
	w.f.Status.Policy.OfflineAfterSeconds = int32(w.pace.OfflineAfter() / time.Second)
	w.f.listenedFrom, w.f.listenedTo = noon, noon
	w.nextBeat = noon.Add(w.jitter(w.pace.Interval))
	return w
}

func (w *world) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * rapid.Float64Range(0.9, 1.1).Draw(w.t, "jitter"))
}

// second passes.
func (w *world) second() {
	f := w.f
	f.now = f.now.Add(time.Second)
	if w.gateway && f.now.Sub(w.renewed) >= f.gatewayLease/3 {
		w.sign()
	}
	if w.beats && !f.now.Before(w.nextBeat) {
		w.beat()
	}
	w.endSession()
	w.giveUp()
	record(f, judge(f))
}

// sign is the manager seeing that a Lease was renewed.
func (w *world) sign() {
	f := w.f
	if w.renewed = f.now; !w.managerKnow { // its first look
		w.managerKnow = true
		return
	}
	if f.listenedTo.IsZero() || f.now.Sub(f.listenedTo) > f.gatewayLease {
		f.listenedFrom = f.now
	}
	f.listenedTo = f.now
}

// session tells whether the gateway that is there has one of the endpoint.
func (w *world) session() bool {
	return w.gateway && w.f.connected() && w.f.Status.Connection.Gateway == w.name() && w.ended.IsZero()
}

func (w *world) name() v1alpha1.LocalName { return v1alpha1.LocalName(fmt.Sprintf("gw-%d", w.life)) }

func (w *world) beat() {
	f := w.f
	if !w.gateway {
		w.nextBeat = f.now.Add(time.Duration(rapid.Float64Range(0, 1).Draw(w.t, "backoff") * float64(w.pace.Interval)))
		return
	}
	w.heard, w.nextBeat = f.now, f.now.Add(w.jitter(w.pace.Interval))
	if w.session() {
		if f.now.Sub(f.Status.LastSeenTime.Time) >= time.Hour {
			f.Status.LastSeenTime = &metav1.Time{Time: f.now}
		}
		return
	}
	c, seen := f.Status.Connection, f.now.Sub(f.Status.LastSeenTime.Time) >= offlineAfter(f.Endpoint)/4
	switch {
	case rapid.Bool().Draw(w.t, "session"):
		w.ended, seen = time.Time{}, true
		c.Channel, c.Gateway, c.SinceTime, c.Error = v1alpha1.ChannelWebSocket, w.name(), &metav1.Time{Time: f.now}, ""
	case c.Channel != v1alpha1.ChannelHeartbeat:
		w.ended, seen = time.Time{}, true
		c.Channel, c.Gateway, c.SinceTime, c.Error = v1alpha1.ChannelHeartbeat, "", &metav1.Time{Time: f.now}, ""
	}
	if seen {
		f.Status.LastSeenTime = &metav1.Time{Time: f.now}
	}
}

// endSession is the gateway that notices the end of its session, and writes it down if nothing follows.
func (w *world) endSession() {
	f := w.f
	if w.session() && !w.beats && f.now.Sub(w.heard) >= silentSession {
		w.ended = f.now
	}
	if w.gateway && !w.ended.IsZero() && f.now.Sub(w.ended) >= successor {
		w.ended = time.Time{}
		f.Status.LastSeenTime = &metav1.Time{Time: w.heard}
		sessionEnded(0, "")(f)
		f.Status.Connection.SinceTime = &metav1.Time{Time: f.now}
	}
}

// giveUp is the manager that takes away the session of a gateway that is gone.
func (w *world) giveUp() {
	f := w.f
	if f.connected() && f.Status.Connection.Gateway != w.name() && f.now.Sub(w.gone) >= f.gatewayGrace {
		sessionEnded(0, "its gateway is gone")(f)
		f.Status.Connection.SinceTime = &metav1.Time{Time: f.now}
	}
}

// trouble is what may happen around an endpoint.
func (w *world) trouble() {
	switch rapid.IntRange(0, 400).Draw(w.t, "trouble") {
	case 0, 1:
		w.switchGateway(!w.gateway)
	case 2: // another manager leads, and has seen nothing yet
		w.managerKnow, w.f.listenedFrom, w.f.listenedTo, w.gone = false, time.Time{}, time.Time{}, w.f.now
	case 3:
		w.switchGateway(true)
	case 4: // it is killed, and starts again within its own Lease
		w.switchGateway(false)
		w.switchGateway(true)
	case 5, 6: // the network between
		if w.session() {
			w.ended, w.nextBeat = w.f.now, w.f.now.Add(time.Duration(rapid.Float64Range(0, 1).Draw(w.t, "reconnect")*float64(w.pace.Interval)))
		}
	}
}

func (w *world) switchGateway(on bool) {
	if w.gateway && !on {
		w.life, w.gone, w.ended = w.life+1, w.f.now, time.Time{}
	}
	w.gateway = on
}

func (w *world) online() metav1.ConditionStatus {
	return condition(w.f.Endpoint, v1alpha1.EndpointOnline).Status
}

// Whoever beats is never offline, whatever becomes of sessions, gateways and managers.
func TestWhoBeatsIsNeverOffline(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(100, 3000).Draw(t, "seconds") {
			w.trouble()
			w.second()
			if w.online() == metav1.ConditionFalse {
				t.Fatalf("offline at %s, heard of %s ago; beats every %s, offline after %s; listened from %s to %s",
					w.f.now.Format(time.TimeOnly), w.f.now.Sub(w.heard), w.pace.Interval, offlineAfter(w.f.Endpoint),
					w.f.listenedFrom.Format(time.TimeOnly), w.f.listenedTo.Format(time.TimeOnly))
			}
		}
	})
}

// Whoever stops is offline: at its deadline, or, if gateways were away, when it had its time after that. Never before, and soon after. No
// session that nobody ended keeps it there.
func TestWhoStopsIsOfflineInTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(0, 1500).Draw(t, "before") {
			w.trouble()
			w.second()
		}
		w.beats = false
		for range rapid.IntRange(0, 1500).Draw(t, "after") {
			w.trouble()
			w.second()
			if w.online() == metav1.ConditionFalse && w.f.now.Sub(w.heard) < w.f.silence() {
				t.Fatalf("offline %s after it was heard of, but it may be silent for %s", w.f.now.Sub(w.heard), w.f.silence())
			}
		}
		w.switchGateway(true)
		sessionEnds := later(w.f.now, w.heard.Add(silentSession+successor)).Add(w.f.gatewayGrace) // or is given up
		for range (sessionEnds.Sub(w.f.now) + w.pace.OfflineAfter() + w.f.silence()) / time.Second {
			w.second()
			if w.f.connected() {
				if !w.f.now.Before(sessionEnds) {
					t.Fatalf("at %s it still has a session with %s; it was heard of at %s", w.f.now, w.f.Status.Connection.Gateway, w.heard)
				}
				continue
			}
			due := later(w.f.contact().Add(offlineAfter(w.f.Endpoint)), w.f.listenedFrom.Add(w.f.silence()))
			offline := w.online() == metav1.ConditionFalse
			if late := w.f.now.Sub(due); !offline && !w.f.listenedFrom.IsZero() && late > w.f.gatewayLease {
				t.Fatalf("not offline %s after its deadline", late)
			}
		}
		if w.online() != metav1.ConditionFalse {
			t.Fatalf("%s after it was heard of, by gateways that are there, it is %s", w.f.now.Sub(w.heard), w.online())
		}
	})
}
