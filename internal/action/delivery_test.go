package action

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// TestSend is row 8.
func TestSend(t *testing.T) {
	a := take(t, admitted(t, terminate), sendTo(devbox(), time.Second), "8")
	d := a.Status.Delivery
	if a.Status.Phase != v1alpha1.ActionSent || d.Channel != v1alpha1.ChannelWebSocket || d.Gateway != gateway || d.JournalID != journal ||
		!d.SentTime.Time.Equal(noon.Add(time.Second)) || d.AcknowledgedTime != nil {
		t.Errorf("%s, delivered as %+v", a.Status.Phase, d)
	}
	if want := "sent over the websocket 2026-11-24 12:00:01Z; waits for the agent's acknowledgement"; a.Status.Message != want {
		t.Errorf("%s\nwant %s", a.Status.Message, want)
	}
	if due := Due(a, noon); !due.Equal(a.Status.Admission.ReportDeadline.Time) {
		t.Errorf("the next look is due %s", due)
	}
	by := sendTo(devbox(), time.Second)
	by.Channel = v1alpha1.ChannelHeartbeat
	if a := take(t, admitted(t, terminate), by, "8"); !strings.HasPrefix(a.Status.Message, "sent in the reply to a heartbeat") {
		t.Error(a.Status.Message)
	}
}

// TestNotSent: what keeps an action from leaving the server. Each of these is somebody's certainty that it has not.
func TestNotSent(t *testing.T) {
	for name, tt := range map[string]struct {
		kind   v1alpha1.ActionType
		action actionChange
		send   func(*Send)
	}{
		"not admitted":            {action: func(a *v1alpha1.EndpointAction) { a.Status.Admission = nil }},
		"cancelled":               {action: func(a *v1alpha1.EndpointAction) { a.Spec.Cancel = true }},
		"being deleted":           {action: func(a *v1alpha1.EndpointAction) { a.DeletionTimestamp = ptr.To(metav1.NewTime(noon)) }},
		"another identity":        {send: func(e *Send) { e.Endpoint.IdentityID = stranger }},
		"nobody":                  {send: func(e *Send) { e.Endpoint = nil }},
		"suspended":               {send: func(e *Send) { e.Endpoint.Lifecycle = "Suspended" }},
		"blocked":                 {send: func(e *Send) { e.Endpoint.Lifecycle = "Blocked" }},
		"two machines":            {send: func(e *Send) { e.Endpoint.Conflict = true }},
		"too late to arrive":      {send: func(e *Send) { e.Now = noon.Add(time.Hour - 5*time.Second) }},
		"no journal":              {send: func(e *Send) { e.JournalID = "" }},
		"a journal that is newer": {send: func(e *Send) { e.Endpoint.JournalTime = noon.Add(time.Second) }},
		"a journal as old as it":  {send: func(e *Send) { e.Endpoint.JournalTime = noon }},
		"no channel":              {send: func(e *Send) { e.Channel = v1alpha1.ChannelNone }},
		"no gateway":              {send: func(e *Send) { e.Gateway = "" }},
		"a terminal by heartbeat": {kind: terminal, send: func(e *Send) { e.Channel = v1alpha1.ChannelHeartbeat }},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.kind == "" {
				tt.kind = terminate
			}
			a, e := admitted(t, tt.kind), sendTo(devbox(), time.Second)
			if tt.action != nil {
				tt.action(a)
			}
			if tt.send != nil {
				tt.send(&e)
			}
			refuses(t, a, e)
		})
	}
	refuses(t, sent(t, terminate), sendTo(devbox(), 2*time.Second))
	refuses(t, take(t, admitted(t, terminate), lookAt(devbox(), time.Hour), "6"), sendTo(devbox(), time.Second))
}

// TestRepeats is rows 9 and 17.
func TestRepeats(t *testing.T) {
	cancelled := func(a *v1alpha1.EndpointAction) *v1alpha1.EndpointAction {
		a.Spec.Cancel, a.Generation = true, 2
		return take(t, a, lookAt(devbox(), 10*time.Second), "17")
	}
	asked := sent(t, terminate)
	asked.Spec.Cancel = true
	for name, tt := range map[string]struct {
		action              *v1alpha1.EndpointAction
		send                func(*Send)
		order, cancellation bool
	}{
		"not acknowledged":             {action: sent(t, terminate), order: true},
		"after the starting deadline":  {action: sent(t, terminate), send: func(e *Send) { e.Now = noon.Add(75 * time.Minute) }, order: true},
		"by a heartbeat":               {action: sent(t, terminate), send: func(e *Send) { e.Channel = v1alpha1.ChannelHeartbeat }, order: true},
		"after the report deadline":    {action: sent(t, terminate), send: func(e *Send) { e.Now = noon.Add(76 * time.Minute) }},
		"acknowledged":                 {action: running(t, terminate)},
		"never sent":                   {action: admitted(t, terminate)},
		"never admitted":               {action: newAction(terminate)},
		"into another journal":         {action: sent(t, terminate), send: func(e *Send) { e.JournalID = strings.Repeat("f", 32) }},
		"to another machine":           {action: sent(t, terminate), send: func(e *Send) { e.Endpoint.IdentityID = stranger }},
		"to one of two":                {action: sent(t, terminate), send: func(e *Send) { e.Endpoint.Conflict = true }},
		"to one that is suspended":     {action: sent(t, terminate), send: func(e *Send) { e.Endpoint.Lifecycle = "Suspended" }},
		"cancel was asked for":         {action: asked},
		"cancelled":                    {action: cancelled(sent(t, terminate)), cancellation: true},
		"cancelled while it runs":      {action: cancelled(running(t, terminate)), cancellation: true},
		"cancelled in another journal": {action: cancelled(running(t, terminate)), send: func(e *Send) { e.JournalID = strings.Repeat("f", 32) }},
		"cancelled, and it has ended":  {action: take(t, cancelled(sent(t, terminate)), lookAt(devbox(), 76*time.Minute), "19")},
		"cancelled, and much too late": {action: cancelled(sent(t, terminate)), send: func(e *Send) { e.Now = noon.Add(76 * time.Minute) }},
		"an action that was restored":  {action: func() *v1alpha1.EndpointAction { a := sent(t, terminate); a.Status.Delivery = nil; return a }()},
		"an action that is being taken": {action: func() *v1alpha1.EndpointAction {
			a := sent(t, terminate)
			a.DeletionTimestamp = &metav1.Time{Time: noon}
			return a
		}()},
	} {
		e := sendTo(devbox(), time.Minute)
		if tt.send != nil {
			tt.send(&e)
		}
		if order, cancellation := Repeats(tt.action, e); order != tt.order || cancellation != tt.cancellation {
			t.Errorf("%s: the order %t, the cancellation %t; want %t, %t", name, order, cancellation, tt.order, tt.cancellation)
		}
	}
}

// TestProgress is rows 10 and 11.
func TestProgress(t *testing.T) {
	a := take(t, sent(t, terminate), runs(3*time.Second), "10")
	d := a.Status.Delivery
	if a.Status.Phase != v1alpha1.ActionRunning || reasonFor(&a.Status) != ReasonRunning || !d.AcknowledgedTime.Time.Equal(noon.Add(3*time.Second)) ||
		!d.StartedTime.Time.Equal(noon.Add(3*time.Second)) || a.Status.Progress != "" || a.Status.Message != "devbox began it 2026-11-24 12:00:03Z" {
		t.Errorf("%+v, delivered as %+v", a.Status, d)
	}
	half := runs(20 * time.Second)
	half.Percent, half.Message = 50, "12 of 24 files"
	take(t, a, half, None)
	half.Now = noon.Add(33 * time.Second)
	a = take(t, a, half, "11")
	if a.Status.Progress != "50%" || a.Status.Message != "12 of 24 files" || !a.Status.Delivery.StartedTime.Time.Equal(noon.Add(3*time.Second)) {
		t.Errorf("%+v", a.Status)
	}
	half.Now = noon.Add(10 * time.Minute)
	take(t, a, half, None)
	half.Percent, half.Message = 1000, strings.Repeat("ä", 1000)
	if a = take(t, a, half, "11"); a.Status.Progress != "100%" {
		t.Errorf("%s is done", a.Status.Progress)
	}
	if s := take(t, a, says(a, 11*time.Minute, done, "Done"), "12").Status; s.Progress != "" {
		t.Errorf("it has ended, and is at %s", s.Progress)
	}

	refuses(t, admitted(t, terminate), half)
	refuses(t, newAction(terminate), half)
	refuses(t, take(t, a, lookAt(devbox(), 24*time.Hour), "19"), half)
	half.IdentityID = stranger
	refuses(t, sent(t, terminate), half)
}

// TestMissing is row 19a.
func TestMissing(t *testing.T) {
	e := Missing{Now: noon.Add(time.Minute), IdentityID: machine}
	a := take(t, running(t, terminate), e, "19a")
	take(t, a, e, None)
	if s := take(t, a, lookAt(devbox(), time.Minute), "19").Status; reasonFor(&s) != ReasonAgentForgot {
		t.Errorf("it ended for %s", reasonFor(&s))
	}
	refuses(t, sent(t, terminate), e)
	refuses(t, admitted(t, terminate), e)
	refuses(t, take(t, running(t, terminate), says(running(t, terminate), time.Minute, done, "Done"), "12"), e)
	e.IdentityID = stranger
	refuses(t, running(t, terminate), e)
}
