package policy

import (
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/liveness"
)

// Defaults of an endpoint that no policy says otherwise about.
const (
	DefaultInterval = 5 * time.Minute
	DefaultMissed   = 3
)

// Pace is how often an endpoint speaks, and how many heartbeats may be missed until it is offline.
type Pace struct {
	Interval time.Duration
	Missed   int
}

// PaceOf is what p demands; nil is the defaults.
func PaceOf(p *v1alpha1.EndpointPolicy) Pace {
	pace := Pace{DefaultInterval, DefaultMissed}
	if p == nil || p.Spec.Heartbeat == nil {
		return pace
	}
	if s := p.Spec.Heartbeat.IntervalSeconds; s != nil {
		pace.Interval = time.Duration(*s) * time.Second
	}
	if m := p.Spec.Heartbeat.Missed; m != nil {
		pace.Missed = int(*m)
	}
	return pace
}

// OfflineAfter is the age of the recorded last contact at which an endpoint of this pace is offline, rounded up to seconds.
func (p Pace) OfflineAfter() time.Duration {
	d := liveness.OfflineAt(time.Time{}, p.Interval, p.Missed).Sub(time.Time{})
	return (d + time.Second - 1).Truncate(time.Second)
}

// Adopt is the OfflineAfter to judge an endpoint by: the one known so far (0: none), or the one that its policy demands now.
//
// A longer one counts at once. A shorter one counts only when the endpoint is known to have applied the policy, and lastSeen leaves it the
// time to be heard again before the new deadline: a policy that was just changed makes nobody look offline.
func (p Pace) Adopt(known time.Duration, applied bool, lastSeen, now time.Time) time.Duration {
	demanded := p.OfflineAfter()
	if demanded >= known {
		return demanded
	}
	nextHeard := liveness.OfflineAt(now, p.Interval, 1)
	if !applied || nextHeard.After(lastSeen.Add(demanded)) {
		return known
	}
	return demanded
}
