package action

import (
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Bounds of what the API holds, in characters.
const (
	maxMessage       = 256
	maxResultMessage = 1024
	maxExecutable    = 256
)

// prospect is what the action waits for, and whether the manager lets it be sent meanwhile.
func (s *step) prospect(l Look, deadline time.Time) (reason, message string, mayBeSent bool) {
	ep, name := l.Endpoint, s.Spec.EndpointName
	until := "until " + stamp(deadline)
	switch {
	case ep == nil:
		return ReasonEndpointNotFound, fmt.Sprintf("there is no endpoint %s; waits for it %s", name, until), false
	case ep.Lifecycle == v1alpha1.LifecycleSuspended:
		return ReasonEndpointSuspended, fmt.Sprintf("%s is suspended; waits %s", name, until), false
	case ep.IdentityID == "":
		return ReasonEndpointNotEnrolled, fmt.Sprintf("no machine has enrolled as %s; waits for one %s", name, until), false
	case ep.Conflict:
		return ReasonIdentityConflict, fmt.Sprintf("it is not certain which machine is %s: see its condition IdentityConflict; waits %s", name, until), false
	case !ep.Online:
		return ReasonEndpointOffline, fmt.Sprintf("%s is offline%s; waits for it %s", name, lastSeen(ep), until), true
	case ep.Channel == v1alpha1.ChannelWebSocket:
		return ReasonWaitingForSession, fmt.Sprintf("goes to %s over its websocket", name), true
	case s.Spec.Type == v1alpha1.LiveTerminal:
		return ReasonWaitingForSession, fmt.Sprintf("waits for a websocket of %s %s: a terminal needs one", name, until), true
	default:
		return ReasonWaitingForHeartbeat, heartbeatMessage(string(name), ep, l.Now, deadline), true
	}
}

func heartbeatMessage(name string, ep *Endpoint, now, deadline time.Time) string {
	message := fmt.Sprintf("waits for the next heartbeat of %s", name)
	if ep.Interval <= 0 {
		return message
	}
	// Heartbeats come within 10 % of their interval. When the last one came is not known that well.
	due := now.Add(ep.Interval + ep.Interval/10).Truncate(time.Second).Add(time.Second)
	if message += ", due by " + clock(due, now); !due.Before(deadline.Add(-sendMargin)) {
		message += "; from " + clock(deadline, now) + " on it may not start"
	}
	return message
}

// expiredMessage says until when it had to start, and what it had been waiting for.
func (s *step) expiredMessage(deadline time.Time, ep *Endpoint) string {
	message, name := "not started by "+stamp(deadline), s.Spec.EndpointName
	c := waiting(s.to)
	if c == nil {
		return message + ": nobody looked at it before"
	}
	what := ""
	switch c.Reason {
	case ReasonWaitingForSession:
		what = fmt.Sprintf("a websocket of %s", name)
	case ReasonWaitingForHeartbeat:
		what = fmt.Sprintf("a heartbeat of %s", name)
	case ReasonEndpointOffline:
		what = fmt.Sprintf("%s, which was offline%s", name, lastSeen(ep))
	case ReasonEndpointNotFound:
		what = fmt.Sprintf("an endpoint named %s", name)
	case ReasonEndpointNotEnrolled:
		what = fmt.Sprintf("a machine to enrol as %s", name)
	case ReasonEndpointSuspended:
		what = fmt.Sprintf("%s, which was suspended", name)
	case ReasonIdentityConflict:
		what = fmt.Sprintf("the end of the identity conflict of %s", name)
	default:
		what = c.Reason
	}
	return message + ": it had been waiting for " + what
}

func lastSeen(ep *Endpoint) string {
	if ep == nil || ep.LastSeen.IsZero() {
		return ""
	}
	return ", last seen " + stamp(ep.LastSeen)
}

// sentMessage is that of an action that is under way.
func sentMessage(channel v1alpha1.Channel, at time.Time) string {
	over := "over the websocket"
	if channel == v1alpha1.ChannelHeartbeat {
		over = "in the reply to a heartbeat"
	}
	return fmt.Sprintf("sent %s %s; waits for the agent's acknowledgement", over, stamp(at))
}

// checkByHand says what to look for where nobody can tell any more.
func (s *step) checkByHand() string {
	what := map[v1alpha1.ActionType]string{
		v1alpha1.QuarantineFile:       "whether the file is still there",
		v1alpha1.RestoreFile:          "whether the file is back",
		v1alpha1.TerminateProcess:     "whether the process still runs",
		v1alpha1.IsolateEndpoint:      "whether it is isolated",
		v1alpha1.CancelIsolation:      "whether it is still isolated",
		v1alpha1.SetEndpointProxy:     "which proxy it uses",
		v1alpha1.DisableEndpointProxy: "which proxy it uses",
	}[s.Spec.Type]
	if what == "" {
		return "it may have been done or not; it is safe to ask again"
	}
	return fmt.Sprintf("it may have been done or not: check on %s %s", s.Spec.EndpointName, what)
}

// stamp is a time as people read it. With the date: it may be read days later.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// clock is a time that is over soon, without today's date.
func clock(t, now time.Time) string {
	if t.UTC().Format(time.DateOnly) == now.UTC().Format(time.DateOnly) {
		return t.UTC().Format("15:04:05Z")
	}
	return stamp(t)
}

// cut shortens a text to so many characters.
func cut(text string, limit int) string {
	if utf8.RuneCountInString(text) <= limit {
		return text
	}
	return string([]rune(text)[:limit-1]) + "…"
}

// cutLeft shortens a path to so many characters; its end tells more.
func cutLeft(path string, limit int) string {
	runes := []rune(path)
	if len(runes) <= limit {
		return path
	}
	return "…" + string(runes[len(runes)-limit+1:])
}
