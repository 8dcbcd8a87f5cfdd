package policy

import (
	"crypto"
	"fmt"
	"slices"
	"time"
	_ "time/tzdata" // the zones of maintenance windows are judged alike in an image without them

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/utils/ptr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// Settings is what of a spec agents obey. Selector, priority and what only the server heeds are not in it. An error names the field that
// cannot be obeyed.
func Settings(spec *v1alpha1.EndpointPolicySpec) (*agentv1.Policy, error) {
	p := &agentv1.Policy{}
	if h := spec.Heartbeat; h != nil {
		p.HeartbeatInterval, p.ReportInterval = seconds(h.IntervalSeconds), seconds(h.ReportIntervalSeconds)
	}
	if c := spec.CommandChannel; c != nil {
		p.WebsocketDisabled, p.PingInterval = c.Mode == v1alpha1.CommandChannelHeartbeatOnly, seconds(c.PingIntervalSeconds)
	}
	if l := spec.LogCollection; l != nil {
		p.LogCollectionDisabled = l.Mode == v1alpha1.LogCollectionDisabled
	}
	if a := spec.Actions; a != nil {
		for _, t := range a.Disabled {
			p.DisabledActions = append(p.DisabledActions, string(t))
		}
		slices.Sort(p.DisabledActions)
	}
	if i := spec.Isolation; i != nil {
		for _, cidr := range i.Allow {
			p.IsolationAllow = append(p.IsolationAllow, string(cidr))
		}
		slices.Sort(p.IsolationAllow)
	}
	if c := spec.Content; c != nil {
		p.ContentVersion, p.ContentDelayDays = c.Version, uint32(ptr.Deref(c.DelayDays, 0)) //nolint:gosec // 1..90 by the API
	}
	if t := spec.Transfer; t != nil {
		p.DownloadBytesPerSecond = uint64(ptr.Deref(t.DownloadKiBPerSecond, 0)) << 10 //nolint:gosec // at most 1 GiB by the API
	}
	if u := spec.Upgrade; u != nil {
		p.UpgradeAutomatic = u.Mode == v1alpha1.UpgradeAutomatic
		for i, w := range u.Windows {
			window, err := newWindow(w)
			if err != nil {
				return nil, fmt.Errorf("spec.upgrade.windows[%d]: %w", i, err)
			}
			p.Windows = append(p.Windows, window)
		}
	}
	return p, nil
}

var weekdays = []v1alpha1.Weekday{"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"}

func newWindow(w v1alpha1.MaintenanceWindow) (*agentv1.MaintenanceWindow, error) {
	start, err := time.Parse("15:04", w.Start)
	if err != nil {
		return nil, fmt.Errorf("start %q is no time such as 22:30", w.Start)
	}
	if _, err := time.LoadLocation(w.TimeZone); err != nil || w.TimeZone == "Local" {
		return nil, fmt.Errorf("timeZone %q is not in the time zone database: write it as in Europe/Berlin, or leave it out for the endpoint's own", w.TimeZone)
	}
	out := &agentv1.MaintenanceWindow{
		StartMinute: uint32(start.Hour()*60 + start.Minute()), DurationMinutes: uint32(w.DurationMinutes), TimeZone: w.TimeZone, //nolint:gosec // bounded by the API
	}
	for i, day := range weekdays {
		if slices.Contains(w.Days, day) {
			out.Days = append(out.Days, uint32(i))
		}
	}
	return out, nil
}

// Sign is a policy as agents get it, and its revision. It is before, unless the settings have changed since, or before was signed by another
// key or for another fleet: then the revision is one higher, for agents take no other. A change of selector or priority is no reason.
func Sign(orders crypto.Signer, before *agentv1.Envelope, fleetID, policyID string, settings *agentv1.Policy, now time.Time) (*agentv1.Envelope, int64, error) {
	was := &agentv1.Policy{}
	valid := reopen(before, envelope.Policy, was, orders)
	next := proto.CloneOf(settings)
	next.FleetId, next.PolicyId, next.Revision, next.IssuedAt = fleetID, policyID, was.GetRevision(), was.GetIssuedAt()
	if valid && proto.Equal(was, next) {
		return before, revision(was), nil
	}
	next.Revision++
	next.IssuedAt = later(now, was.GetIssuedAt())
	e, err := envelope.Seal(orders, envelope.Policy, next)
	return e, revision(next), err
}

// Assign is the order that tells an identity which policy to obey; policyID "" is the built-in defaults. It is before where that says the
// same and is signed by this key; a new one is always issued later than the one before.
func Assign(orders crypto.Signer, before *agentv1.Envelope, to *agentv1.Assignment, now time.Time) (*agentv1.Envelope, error) {
	was := &agentv1.Assignment{}
	valid := reopen(before, envelope.Assignment, was, orders)
	next := proto.CloneOf(to)
	next.IssuedAt = was.GetIssuedAt()
	if valid && proto.Equal(was, next) {
		return before, nil
	}
	next.IssuedAt = later(now, was.GetIssuedAt())
	return envelope.Seal(orders, envelope.Assignment, next)
}

// reopen reads an order that was issued before, whoever signed it: times go on from it. It tells whether this key signed it.
func reopen(e *agentv1.Envelope, t envelope.Type, m proto.Message, orders crypto.Signer) (valid bool) {
	if e == nil {
		return false
	}
	if envelope.Parse(e.GetPayload(), m) != nil {
		proto.Reset(m)
		return false
	}
	return envelope.Verify(e, t, orders.Public()) == nil
}

// later is now, or just after what was before where the clock has gone back. Agents take no order that is not issued later.
func later(now time.Time, before *timestamppb.Timestamp) *timestamppb.Timestamp {
	now = now.Truncate(time.Millisecond)
	if before.IsValid() && !now.After(before.AsTime()) {
		now = before.AsTime().Add(time.Millisecond)
	}
	return timestamppb.New(now)
}

func revision(p *agentv1.Policy) int64 { return int64(p.GetRevision()) } //nolint:gosec // it grows by one at a time

func seconds(s *int32) *durationpb.Duration {
	if s == nil {
		return nil
	}
	return durationpb.New(time.Duration(*s) * time.Second)
}
