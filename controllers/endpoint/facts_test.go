package endpoint

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/internal/policy"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }

func since(seconds int) *metav1.Time { return &metav1.Time{Time: at(seconds)} }

// fact changes what a test judges.
type fact func(*facts)

// given is an endpoint that was heard of at noon, one second ago, in sync and healthy, by gateways that have been alive for a day. It beats
// every 30 s and is offline after 120 s.
func given(changes ...fact) *facts {
	f := &facts{
		Endpoint: &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "laptop", Generation: 3}},
		policy:   &v1alpha1.EndpointPolicy{ObjectMeta: metav1.ObjectMeta{Name: "demo", UID: "demo-uid"}},
		now:      at(1), listenedFrom: at(-86400), listenedTo: at(0), gatewayLease: 15 * time.Second, gatewayGrace: 3 * time.Minute,
		certificateExpiring: 120 * time.Hour, renewalGrace: 720 * time.Hour,
	}
	setPace(f.policy, 30, 3)
	f.policy.Status.Revision = 3
	f.Status = v1alpha1.EndpointStatus{
		Identity:     &v1alpha1.EndpointIdentity{ID: "id", EnrolledTime: *since(-3600), CertificateExpirationTime: since(20 * 86400)},
		Policy:       &v1alpha1.AssignedPolicy{Name: "demo", OfflineAfterSeconds: int32(policy.PaceOf(f.policy).OfflineAfter() / time.Second)},
		LastSeenTime: since(0),
		Connection:   &v1alpha1.EndpointConnection{Channel: v1alpha1.ChannelHeartbeat, InstanceID: "one", SinceTime: since(-60)},
		Agent:        &v1alpha1.EndpointAgent{Version: "8.0.0", PolicyID: "demo-uid", PolicyRevision: 3},
	}
	for _, change := range changes {
		change(f)
	}
	return f
}

// setPace declares a pace and signs it.
func setPace(p *v1alpha1.EndpointPolicy, seconds, missed int32) {
	p.Spec.Heartbeat = &v1alpha1.HeartbeatPolicy{IntervalSeconds: &seconds, Missed: &missed}
	p.Status.Order = signed(&p.Spec, string(p.UID), nil)
}

// signed is the order that a policy's controller makes of a spec.
func signed(spec *v1alpha1.EndpointPolicySpec, uid string, before *v1alpha1.Envelope) *v1alpha1.Envelope {
	settings, err := policy.Settings(spec)
	if err != nil {
		panic(err)
	}
	var e *agentv1.Envelope
	if before != nil {
		e = order.FromResource(*before)
	}
	if e, _, err = policy.Sign(key("a"), e, fleetID, uid, settings, noon); err != nil {
		panic(err)
	}
	out := order.ToResource(e)
	return &out
}

// now moves the time, and the gateways' life with it.
func now(seconds int) fact {
	return func(f *facts) { f.now, f.listenedTo = at(seconds), at(seconds-1) }
}

func listened(from, to int) fact {
	return func(f *facts) { f.listenedFrom, f.listenedTo = at(from), at(to) }
}

func neverListened(f *facts) { f.listenedFrom, f.listenedTo = time.Time{}, time.Time{} }

func missing(seconds int) fact { return func(f *facts) { f.missing = at(seconds) } }

func was(c metav1.Condition) fact {
	return func(f *facts) { f.Status.Conditions = append(f.Status.Conditions, c) }
}

func wasOnline(f *facts) {
	was(metav1.Condition{Type: v1alpha1.EndpointOnline, Status: metav1.ConditionTrue, Reason: reasonHeartbeats, LastTransitionTime: *since(-60)})(f)
}

func wasOffline(seconds int) fact {
	return was(metav1.Condition{Type: v1alpha1.EndpointOnline, Status: metav1.ConditionFalse, Reason: reasonMissed, Message: "as it was", LastTransitionTime: *since(seconds)})
}

func channel(c v1alpha1.Channel) fact { return func(f *facts) { f.Status.Connection.Channel = c } }

func notEnrolled(f *facts) { f.Status = v1alpha1.EndpointStatus{ObservedGeneration: -1} }

func neverSeen(f *facts) {
	f.Status.LastSeenTime, f.Status.Connection, f.Status.Agent = nil, nil, nil
}

func agent(change func(*v1alpha1.EndpointAgent)) fact {
	return func(f *facts) { change(f.Status.Agent) }
}

func certificateEnds(seconds int) fact {
	return func(f *facts) { f.Status.Identity.CertificateExpirationTime = since(seconds) }
}

func lifecycle(l v1alpha1.EndpointLifecycle) fact { return func(f *facts) { f.Spec.Lifecycle = l } }

func superseded(f *facts) {
	was(metav1.Condition{Type: v1alpha1.EndpointIdentityConflict, Status: metav1.ConditionTrue, Reason: reasonSuperseded, Message: "as it was"})(f)
}

func accepts(instance string) fact {
	return func(f *facts) { f.Annotations = map[string]string{v1alpha1.AnnotationAcceptInstance: instance} }
}

func cloned(f *facts) {
	f.Status.Connection.ConflictInstanceID, f.Status.Connection.ConflictReason = "two", v1alpha1.ConflictForked
}

func rolledBack(f *facts) {
	cloned(f)
	f.Status.Connection.ConflictReason = v1alpha1.ConflictRolledBack
}

func journals(recorded, reported string) fact {
	return func(f *facts) { f.Status.Identity.JournalID, f.Status.Agent.JournalID = recorded, reported }
}

// session is one that is up since a minute before noon.
func session(f *facts) {
	f.Status.Connection.Channel, f.Status.Connection.Gateway = v1alpha1.ChannelWebSocket, "gw-a"
}

// sessionEnded is what a gateway writes of a session whose end it saw, and what is written where nobody saw it, with why.
func sessionEnded(seconds int, why string) fact {
	return func(f *facts) {
		c := f.Status.Connection
		c.Channel, c.Gateway, c.SinceTime, c.Error = v1alpha1.ChannelNone, "", since(seconds), why
	}
}
