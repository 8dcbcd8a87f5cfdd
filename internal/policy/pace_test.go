package policy

import (
	"testing"
	"time"

	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/order"
)

func TestPaceOf(t *testing.T) {
	// with is a policy that was signed with h, and since what was declared after that.
	with := func(h *v1alpha1.HeartbeatPolicy, since ...*v1alpha1.HeartbeatPolicy) *v1alpha1.EndpointPolicy {
		p := &v1alpha1.EndpointPolicy{Spec: v1alpha1.EndpointPolicySpec{Heartbeat: h}}
		settings, err := Settings(&p.Spec)
		if err != nil {
			t.Fatal(err)
		}
		e, _, err := Sign(key('a'), nil, fleetID, uid, settings, epoch)
		if err != nil {
			t.Fatal(err)
		}
		p.Status.Order = ptr.To(order.ToResource(e))
		if len(since) > 0 {
			p.Spec.Heartbeat = since[0]
		}
		return p
	}
	seconds := func(interval int32) *v1alpha1.HeartbeatPolicy {
		return &v1alpha1.HeartbeatPolicy{IntervalSeconds: &interval}
	}
	for _, tt := range []struct {
		name    string
		policy  *v1alpha1.EndpointPolicy
		want    Pace
		offline time.Duration
	}{
		{"no policy", nil, Pace{300 * time.Second, 3}, 20 * time.Minute},
		{"nothing set", with(nil), Pace{300 * time.Second, 3}, 20 * time.Minute},
		{"interval", with(seconds(30)), Pace{30 * time.Second, 3}, 2 * time.Minute},
		{"interval, not signed yet", with(seconds(30), seconds(1)), Pace{30 * time.Second, 3}, 2 * time.Minute},
		{"missed", with(&v1alpha1.HeartbeatPolicy{Missed: ptr.To[int32](6)}), Pace{300 * time.Second, 6}, 40 * time.Minute},
		{"missed, which is the server's alone", with(nil, &v1alpha1.HeartbeatPolicy{Missed: ptr.To[int32](6)}), Pace{300 * time.Second, 6}, 40 * time.Minute},
		{"no whole seconds: rounded up", with(&v1alpha1.HeartbeatPolicy{IntervalSeconds: ptr.To[int32](1), Missed: ptr.To[int32](2)}), Pace{time.Second, 2}, 3 * time.Second},
		{"the longest", with(&v1alpha1.HeartbeatPolicy{IntervalSeconds: ptr.To[int32](86400), Missed: ptr.To[int32](100)}), Pace{24 * time.Hour, 100}, 3200 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := PaceOf(tt.policy)
			if got != tt.want || got.OfflineAfter() != tt.offline {
				t.Errorf("%+v, offline after %s; want %+v, %s", got, got.OfflineAfter(), tt.want, tt.offline)
			}
		})
	}
}

func TestAdopt(t *testing.T) {
	fast := Pace{30 * time.Second, 3} // offline after 2 min, heard again within 40 s
	for _, tt := range []struct {
		name    string
		known   time.Duration
		applied bool
		seen    time.Duration // ago
		want    time.Duration
	}{
		{"nothing known yet", 0, false, time.Hour, 2 * time.Minute},
		{"a longer one counts at once", time.Minute, false, time.Hour, 2 * time.Minute},
		{"a shorter one not before it is applied", time.Hour, false, 0, time.Hour},
		{"nor before the machine was heard at the new pace", time.Hour, true, 81 * time.Second, time.Hour},
		{"but then", time.Hour, true, 80 * time.Second, 2 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := fast.Adopt(tt.known, tt.applied, epoch.Add(-tt.seen), epoch); got != tt.want {
				t.Errorf("judged by %s, want %s", got, tt.want)
			}
		})
	}
}

// A machine that beats as it is told is never offline, however its policy changes: it learns of a change with its next heartbeat, reports
// the new policy at once, and the gateway writes its last contact only when the record is old enough.
func TestNoChangeOfPolicyMakesAnybodyOffline(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pace := func() Pace {
			return Pace{time.Duration(rapid.IntRange(10, 600).Draw(t, "interval")) * time.Second, rapid.IntRange(2, 6).Draw(t, "missed")}
		}
		declared := pace()
		obeyed := declared
		now, seen := epoch, epoch
		known := declared.OfflineAfter()
		adopt := func() { known = declared.Adopt(known, obeyed == declared, seen, now) }
		for range rapid.IntRange(1, 60).Draw(t, "beats") {
			gap := time.Duration(float64(obeyed.Interval) * rapid.Float64Range(0.9, 1.1).Draw(t, "jitter"))
			if rapid.IntRange(0, 5).Draw(t, "change") == 0 {
				wait := time.Duration(rapid.Int64Range(0, int64(gap)).Draw(t, "after"))
				now, gap = now.Add(wait), gap-wait
				declared = pace()
				adopt()
			}
			if now = now.Add(gap); !now.Before(seen.Add(known)) {
				t.Fatalf("offline after %s, last seen %s ago; it beats every %s, the policy demands %+v", known, now.Sub(seen), obeyed.Interval, declared)
			}
			if now.Sub(seen) >= known/4 { // as the gateway does: a quarter of the silence that it is judged by
				seen = now
			}
			adopt()
			obeyed = declared
			adopt()
		}
	})
}
