package endpoint

import (
	"fmt"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Values of status.summary, besides the lifecycles.
const (
	summaryConflict    = "Conflict"
	summaryNotEnrolled = "NotEnrolled"
	summaryOffline     = "Offline"
	summaryUnknown     = "Unknown"
	summaryFailing     = "Failing"
	summaryIsolated    = "Isolated"
	summaryUpdating    = "Updating"
	summaryOnline      = "Online"
)

// maxMessage is what the API holds, in characters.
const maxMessage = 256

// websocketVersion is the first of agents that keep a websocket.
var websocketVersion = version.MustParseGeneric("6.1")

// summary is an endpoint's state in one word, the first that holds, and what is wrong in words.
func summary(f *facts, conditions []metav1.Condition) (word, message string) {
	of := func(t string) metav1.Condition { return *meta.FindStatusCondition(conditions, t) }
	online, inSync, healthy := of(v1alpha1.EndpointOnline), of(v1alpha1.EndpointInSync), of(v1alpha1.EndpointHealthy)
	conflict := meta.FindStatusCondition(conditions, v1alpha1.EndpointIdentityConflict)
	switch {
	case f.Spec.Lifecycle == v1alpha1.LifecycleDecommissioned:
		word, message = string(f.Spec.Lifecycle), "refused for good: remove the agent from the machine"
	case f.Spec.Lifecycle == v1alpha1.LifecycleBlocked:
		word, message = string(f.Spec.Lifecycle), "refused, and its machine may not enrol again"
	case f.Spec.Lifecycle == v1alpha1.LifecycleSuspended:
		word, message = string(f.Spec.Lifecycle), "refused until spec.lifecycle is Active again"
	case conflict != nil:
		word, message = summaryConflict, conflictMessage(conflict.Reason)+"; actions are held"
	case f.Status.Identity == nil:
		word, message = summaryNotEnrolled, fmt.Sprintf("no machine has enrolled: make an EnrollmentToken with endpointName %s", f.Name)
	case online.Status == metav1.ConditionFalse:
		word, message = summaryOffline, offlineMessage(f, online)
	case online.Status == metav1.ConditionUnknown:
		word, message = summaryUnknown, online.Message
	case healthy.Status == metav1.ConditionFalse:
		word, message = summaryFailing, healthy.Message
	case f.Status.Agent != nil && f.Status.Agent.Isolation == v1alpha1.Isolated:
		word, message = summaryIsolated, driftMessage(inSync)
	case inSync.Status == metav1.ConditionFalse:
		word, message = summaryUpdating, inSync.Message
	default:
		word, message = summaryOnline, channelMessage(f)
	}
	return word, cut(message)
}

// conflictMessage says in short what the condition says at length.
func conflictMessage(reason string) string {
	switch reason {
	case reasonSuperseded:
		return "a machine holds an outdated copy of this identity"
	case reasonRolledBack:
		return "a machine with this identity was set back to an earlier state"
	case reasonJournalLost:
		return "its agent has lost the journal of what it did"
	default:
		return "two machines use this identity"
	}
}

// offlineMessage says when it was last there, and what keeps it from coming back.
func offlineMessage(f *facts, online metav1.Condition) string {
	if reason, message := certificateProblem(f); reason == reasonCertificateExpired {
		return online.Message + "; " + message
	}
	return online.Message
}

func driftMessage(inSync metav1.Condition) string {
	if inSync.Status == metav1.ConditionFalse {
		return inSync.Message
	}
	return ""
}

// channelMessage says why there is no websocket where one is wanted.
func channelMessage(f *facts) string {
	connection, agent := f.Status.Connection, f.Status.Agent
	unwanted := f.policy != nil && f.policy.Spec.CommandChannel != nil && f.policy.Spec.CommandChannel.Mode == v1alpha1.CommandChannelHeartbeatOnly
	switch {
	case connection == nil || unwanted:
		return ""
	case connection.Channel == v1alpha1.ChannelWebSocket && connection.Error != "":
		return fmt.Sprintf("the websocket does not last: %s", connection.Error)
	case connection.Channel == v1alpha1.ChannelWebSocket:
		return ""
	}
	if agent != nil {
		if v, err := version.ParseGeneric(string(agent.Version)); err == nil && v.LessThan(websocketVersion) {
			return fmt.Sprintf("agent %s: the websocket needs 6.1 or later", agent.Version)
		}
	}
	if connection.Error != "" {
		return fmt.Sprintf("no websocket: %s; actions wait for heartbeats", connection.Error)
	}
	if connection.Channel == v1alpha1.ChannelNone && f.now.Before(f.deadline()) {
		return fmt.Sprintf("its session has ended; offline if no heartbeat comes by %s", clock(f.deadline()))
	}
	return ""
}

// cut shortens a message to what the API holds.
func cut(s string) string {
	if utf8.RuneCountInString(s) <= maxMessage {
		return s
	}
	return string([]rune(s)[:maxMessage-1]) + "…"
}
