package endpoint

import (
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

// world is an endpoint that is there, gateways that come and go, and a manager that judges once a second, for a while.
type world struct {
	t        *rapid.T
	pace     policy.Pace
	f        *facts
	heard    time.Time // really, whatever the record says
	beats    bool
	nextBeat time.Time

	gateway     bool
	renewed     time.Time
	managerKnow bool
}

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

func (w *world) beat() {
	f := w.f
	if !w.gateway {
		w.nextBeat = f.now.Add(time.Duration(rapid.Float64Range(0, 1).Draw(w.t, "backoff") * float64(w.pace.Interval)))
		return
	}
	w.heard, w.nextBeat = f.now, f.now.Add(w.jitter(w.pace.Interval))
	offline := f.Status.Connection.Channel == v1alpha1.ChannelNone
	if offline || f.now.Sub(f.Status.LastSeenTime.Time) >= offlineAfter(f.Endpoint)/4 {
		f.Status.LastSeenTime = &metav1.Time{Time: f.now}
		f.Status.Connection.Channel = v1alpha1.ChannelHeartbeat
	}
}

// trouble is what may happen around an endpoint.
func (w *world) trouble() {
	switch rapid.IntRange(0, 400).Draw(w.t, "trouble") {
	case 0, 1:
		w.gateway = !w.gateway
	case 2: // another manager leads, and has seen nothing yet
		w.managerKnow, w.f.listenedFrom, w.f.listenedTo = false, time.Time{}, time.Time{}
	case 3:
		w.gateway = true
	}
}

func (w *world) online() metav1.ConditionStatus {
	return condition(w.f.Endpoint, v1alpha1.EndpointOnline).Status
}

// Whoever beats is never offline, whatever becomes of gateways and managers.
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

// Whoever stops is offline: at its deadline, or, if gateways were away, when it had its time after that. Never before, and soon after.
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
		w.gateway = true
		for range w.pace.OfflineAfter()/time.Second + w.f.silence()/time.Second {
			w.second()
			due := later(w.f.Status.LastSeenTime.Add(offlineAfter(w.f.Endpoint)), w.f.listenedFrom.Add(w.f.silence()))
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
