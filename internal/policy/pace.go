package policy

import (
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
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

// PaceOf is what p demands; nil is the defaults. The interval is the signed one: a spec that is not signed yet, or cannot be, changes nothing
// on any machine.
func PaceOf(p *v1alpha1.EndpointPolicy) Pace {
	pace := Pace{DefaultInterval, DefaultMissed}
	if p == nil {
		return pace
	}
	if h := p.Spec.Heartbeat; h != nil && h.Missed != nil {
		pace.Missed = int(*h.Missed)
	}
	if p.Status.Order == nil {
		return pace
	}
	signed := &agentv1.Policy{}
	if err := envelope.Parse(p.Status.Order.Payload, signed); err == nil && signed.GetHeartbeatInterval() != nil {
		pace.Interval = signed.GetHeartbeatInterval().AsDuration()
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
