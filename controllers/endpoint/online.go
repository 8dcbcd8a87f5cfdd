package endpoint

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/policy"
)

// Reasons of the condition Online.
const (
	reasonHeartbeats  = "HeartbeatsCome"
	reasonMissed      = "HeartbeatsMissed"
	reasonNotEnrolled = "NotEnrolled"
	reasonNeverSeen   = "NeverSeen"
	reasonNoGateway   = "NoGateway"
	reasonWaiting     = "WaitingForHeartbeat"
)

// online judges whether an endpoint is there, and tells when to judge again if nothing is heard of it; zero: not before something is.
//
// While it has a session it is, without a deadline: whoever has the session ends it when the endpoint falls silent, and whoever is left ends
// it when its gateway is gone (controllers/gateways).
//
// Without one it is offline when its last contact is longer ago than offlineAfter. That counts only if somebody could have heard it: gateways
// were seen alive up to the deadline, and for the silence that the policy allows without a break. Otherwise it stays what it was, and
// becomes Unknown when it is certain that no gateway has been there for longer than a restart takes. Who is offline stays so until heard of.
func online(f *facts) (c metav1.Condition, next time.Time) {
	c = metav1.Condition{Type: v1alpha1.EndpointOnline, Status: metav1.ConditionUnknown}
	was := meta.FindStatusCondition(f.Status.Conditions, v1alpha1.EndpointOnline)
	switch {
	case f.Status.Identity == nil:
		c.Reason, c.Message = reasonNotEnrolled, "no machine has enrolled as this endpoint"
		return c, time.Time{}
	case f.connected():
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, reasonHeartbeats, "heartbeats come"
		return c, time.Time{}
	case f.contact().IsZero():
		c.Reason, c.Message = reasonNeverSeen, "enrolled, and no heartbeat has come yet"
		return c, time.Time{}
	case unheardSince(f, was):
		return *was, time.Time{}
	}
	deadline := f.deadline()
	if f.now.Before(deadline) {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, reasonHeartbeats, "heartbeats come"
		return c, deadline
	}
	// The deadline has a third more than the silence: it pays for what the record does not tell, and after a break nothing is owed to that.
	patient := f.listenedFrom.Add(f.silence())
	if !f.listenedTo.Before(later(deadline, patient)) {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, reasonMissed, missedMessage(f)
		return c, time.Time{}
	}
	return undecided(f, was)
}

// undecided judges an endpoint that is past its deadline, but may not have been heard.
func undecided(f *facts, was *metav1.Condition) (c metav1.Condition, next time.Time) {
	c = metav1.Condition{Type: v1alpha1.EndpointOnline, Status: metav1.ConditionUnknown}
	seen := f.lastHeartbeat()
	switch {
	case !f.missing.IsZero() && !f.now.Before(f.missing.Add(f.gatewayGrace)):
		c.Reason, c.Message = reasonNoGateway, fmt.Sprintf("no gateway is alive since %s; %s", clock(f.missing), seen)
	case was != nil && was.Status == metav1.ConditionTrue:
		c = *was
	default:
		c.Reason, c.Message = reasonWaiting, fmt.Sprintf("%s; gateways were away, and wait for the next", seen)
	}
	recheck := f.gatewayLease / 10
	if f.now.Sub(f.listenedTo) <= f.gatewayLease { // a gateway is there: until its next sign of life, or until the endpoint had its time
		return c, later(f.now.Add(recheck), f.listenedFrom.Add(f.silence()))
	}
	return c, f.now.Add(max(recheck, min(f.silence(), f.gatewayGrace)-f.gatewayLease))
}

// unheardSince tells whether an endpoint was offline, and was not heard of since. Its channel tells first: a gateway that hears of it says how.
func unheardSince(f *facts, was *metav1.Condition) bool {
	return was != nil && was.Status == metav1.ConditionFalse && !f.contact().After(was.LastTransitionTime.Time) &&
		(f.Status.Connection == nil || f.Status.Connection.Channel == v1alpha1.ChannelNone)
}

// connected tells whether an endpoint has a session. Without the name of its gateway nobody could ever tell that it has not.
func (f *facts) connected() bool {
	c := f.Status.Connection
	return c != nil && c.Channel == v1alpha1.ChannelWebSocket && c.Gateway != ""
}

// contact is when an endpoint was heard of last, as far as is written down; zero for never. A session costs no write for a heartbeat, so
// its end tells more than the last of them.
func (f *facts) contact() (at time.Time) {
	if f.Status.LastSeenTime != nil {
		at = f.Status.LastSeenTime.Time
	}
	if c := f.Status.Connection; c != nil && c.SinceTime != nil {
		at = later(at, c.SinceTime.Time)
	}
	return at
}

// deadline is when the endpoint is offline. Times in the API are cut to seconds: the contact was up to one later than it says.
func (f *facts) deadline() time.Time {
	return f.contact().Add(time.Second + offlineAfter(f.Endpoint))
}

// silence is how long an endpoint that can be heard may be silent: missed × interval.
func (f *facts) silence() time.Duration { return offlineAfter(f.Endpoint) * 3 / 4 }

func missedMessage(f *facts) string {
	if pace := policy.PaceOf(f.policy); pace.OfflineAfter() == offlineAfter(f.Endpoint) {
		return fmt.Sprintf("%s, at least %d missed", f.lastHeartbeat(), pace.Missed)
	}
	return fmt.Sprintf("%s, none for %s", f.lastHeartbeat(), f.silence()) // by the pace of a policy that it had before
}

// lastHeartbeat says when the last one came. Of a session that was given up with its gateway nobody knows.
func (f *facts) lastHeartbeat() string {
	c, at := f.Status.Connection, f.contact()
	if seen := f.Status.LastSeenTime; seen != nil && (seen.Time.Equal(at) || c.Channel != v1alpha1.ChannelNone || c.Error == "") {
		return "last heartbeat " + clock(seen.Time)
	}
	return "no heartbeat since its session was given up " + clock(at)
}

// clock is a time as people read it. With the date: the message may be read days later.
func clock(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
