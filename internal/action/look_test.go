package action

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

type (
	actionChange   = func(*v1alpha1.EndpointAction)
	endpointChange = func(*Endpoint)
	lookChange     = func(*Look)
)

const (
	heartbeat = v1alpha1.PerformHeartbeat
	terminate = v1alpha1.TerminateProcess
	isolate   = v1alpha1.IsolateEndpoint
	release   = v1alpha1.CancelIsolation
	terminal  = v1alpha1.LiveTerminal
	setProxy  = v1alpha1.SetEndpointProxy
	noProxy   = v1alpha1.DisableEndpointProxy
)

// TestLookAtWhatIsPending: rows 2 to 6, of an action that was just created, at noon.
func TestLookAtWhatIsPending(t *testing.T) {
	for name, tt := range map[string]struct {
		kind     v1alpha1.ActionType
		action   actionChange
		endpoint endpointChange
		look     lookChange

		row     Arrow
		phase   v1alpha1.ActionPhase
		reason  string
		message string
	}{
		"admitted, over a websocket": {
			row: "2", phase: "Pending", reason: "WaitingForSession", message: "goes to devbox over its websocket",
		},
		"admitted, without a websocket": {
			endpoint: func(e *Endpoint) { e.Channel, e.Interval = "Heartbeat", 15*time.Second },
			row:      "2", phase: "Pending", reason: "WaitingForHeartbeat", message: "waits for the next heartbeat of devbox, due by 12:00:17Z",
		},
		"admitted, between websocket and heartbeat": {
			endpoint: func(e *Endpoint) { e.Channel = "None" },
			row:      "2", phase: "Pending", reason: "WaitingForHeartbeat", message: "waits for the next heartbeat of devbox, due by 12:05:31Z",
		},
		"admitted, and no heartbeat may come in time": {
			action:   func(a *v1alpha1.EndpointAction) { a.Spec.StartingDeadlineSeconds = ptr.To[int32](60) },
			endpoint: func(e *Endpoint) { e.Channel = "Heartbeat" },
			row:      "2", phase: "Pending", reason: "WaitingForHeartbeat",
			message: "waits for the next heartbeat of devbox, due by 12:05:31Z; from 12:01:00Z on it may not start",
		},
		"admitted, asleep": {
			endpoint: func(e *Endpoint) { e.Channel, e.Online = "None", false },
			row:      "2", phase: "Pending", reason: "EndpointOffline",
			message: "devbox is offline, last seen 2026-11-24 11:59:00Z; waits for it until 2026-11-24 13:00:00Z",
		},
		"admitted, never seen": {
			endpoint: func(e *Endpoint) { e.Online, e.LastSeen = false, time.Time{} },
			row:      "2", phase: "Pending", reason: "EndpointOffline", message: "devbox is offline; waits for it until 2026-11-24 13:00:00Z",
		},
		"admitted, and a terminal needs a websocket": {
			kind:     terminal,
			endpoint: func(e *Endpoint) { e.Channel = "Heartbeat" },
			row:      "2", phase: "Pending", reason: "WaitingForSession", message: "waits for a websocket of devbox until 2026-11-24 12:05:00Z: a terminal needs one",
		},
		"admitted, of an agent that has not said what it can": {
			kind:     isolate,
			endpoint: func(e *Endpoint) { e.Reported, e.Capabilities = false, nil },
			row:      "2", phase: "Pending", reason: "WaitingForSession", message: "goes to devbox",
		},
		"admitted, an older agent that lists it": {
			kind:     heartbeat,
			endpoint: func(e *Endpoint) { e.AgentVersion = "6.0.4" },
			row:      "2", phase: "Pending", reason: "WaitingForSession", message: "goes to devbox",
		},

		"no such endpoint": {
			look: func(l *Look) { l.Endpoint = nil },
			row:  "3", phase: "Pending", reason: "EndpointNotFound", message: "there is no endpoint devbox; waits for it until 2026-11-24 13:00:00Z",
		},
		"not enrolled": {
			endpoint: func(e *Endpoint) { *e = Endpoint{} },
			row:      "3", phase: "Pending", reason: "EndpointNotEnrolled", message: "no machine has enrolled as devbox; waits for one until 2026-11-24 13:00:00Z",
		},
		"suspended": {
			endpoint: func(e *Endpoint) { e.Lifecycle = "Suspended" },
			row:      "3", phase: "Pending", reason: "EndpointSuspended", message: "devbox is suspended; waits until 2026-11-24 13:00:00Z",
		},
		"two machines": {
			endpoint: func(e *Endpoint) { e.Conflict, e.Capabilities = true, nil },
			row:      "3", phase: "Pending", reason: "IdentityConflict", message: "not certain which machine is devbox",
		},

		"not among its capabilities": {
			endpoint: func(e *Endpoint) { e.Capabilities = []v1alpha1.Text{"PerformHeartbeat"} },
			row:      "4", phase: "Unsupported", reason: "AgentTooOld", message: "agent 8.0.0 on devbox cannot do TerminateProcess",
		},
		"an old agent cannot": {
			endpoint: func(e *Endpoint) { e.AgentVersion, e.Capabilities = "6.0.4", []v1alpha1.Text{"PerformHeartbeat"} },
			row:      "4", phase: "Unsupported", reason: "AgentTooOld", message: "TerminateProcess needs agent 8.0.0 or later; devbox has 6.0.4",
		},
		"an old agent says that it can keep a websocket": {
			kind: terminal, endpoint: func(e *Endpoint) { e.AgentVersion = "6.0.4" },
			row: "4", phase: "Unsupported", reason: "AgentTooOld", message: "LiveTerminal needs agent 6.1 or later; devbox has 6.0.4",
		},
		"the policy disables it": {
			endpoint: func(e *Endpoint) { e.Policy, e.Disabled = "kiosks", []v1alpha1.ActionType{isolate, terminate} },
			row:      "4", phase: "Unsupported", reason: "DisabledByPolicy", message: "the policy kiosks of devbox disables TerminateProcess",
		},
		"what no agent could be told": {
			action: func(a *v1alpha1.EndpointAction) {
				a.Spec.TerminateProcess.Executable = v1alpha1.FilePath("/" + strings.Repeat("ü", 3000)) // within the API's characters
			},
			row: "4", phase: "Unsupported", reason: "InvalidParameters", message: "terminate_process.executable",
		},
		"more than an order holds": {
			kind: v1alpha1.RetrieveFiles,
			action: func(a *v1alpha1.EndpointAction) {
				a.Spec.RetrieveFiles = &v1alpha1.RetrieveFilesParameters{}
				for i := range 32 {
					a.Spec.RetrieveFiles.Paths = append(a.Spec.RetrieveFiles.Paths, v1alpha1.FilePath(fmt.Sprintf("/%02d%s", i, strings.Repeat("x", 4000))))
				}
			},
			row: "4", phase: "Unsupported", reason: "InvalidParameters", message: "32768",
		},

		"cancelled": {
			action: func(a *v1alpha1.EndpointAction) { a.Spec.Cancel = true },
			look:   func(l *Look) { l.Endpoint = nil },
			row:    "5", phase: "Cancelled", reason: "CancelledByUser", message: "cancelled before it was sent",
		},
		"blocked": {
			endpoint: func(e *Endpoint) { e.Lifecycle = "Blocked" },
			row:      "5", phase: "Cancelled", reason: "EndpointBlocked", message: "devbox is Blocked",
		},
		"decommissioned": {
			endpoint: func(e *Endpoint) { e.Lifecycle = "Decommissioned" },
			row:      "5", phase: "Cancelled", reason: "EndpointBlocked", message: "devbox is Decommissioned",
		},
		"a newer one of its topic": {
			kind: isolate, look: func(l *Look) { l.NewerOfTopic = true },
			row: "5", phase: "Cancelled", reason: "Superseded", message: "a newer action on the isolation of devbox",
		},
		"declared released": {
			kind: isolate, endpoint: func(e *Endpoint) { e.Isolation = "Released" },
			row: "5", phase: "Cancelled", reason: "DeclaredOtherwise", message: "devbox declares otherwise; change spec.isolation of the Endpoint instead",
		},
		"declared isolated": {
			kind: release, endpoint: func(e *Endpoint) { e.Isolation = "Isolated" },
			row: "5", phase: "Cancelled", reason: "DeclaredOtherwise", message: "change spec.isolation",
		},
		"declared so": {
			kind: isolate, endpoint: func(e *Endpoint) { e.Isolation = "Isolated" },
			row: "2", phase: "Pending", reason: "WaitingForSession", message: "devbox",
		},
		"another proxy is declared": {
			kind: setProxy, endpoint: func(e *Endpoint) { e.Proxy = &v1alpha1.DeclaredProxy{Mode: "Manual", URL: "http://other:3128"} },
			row: "5", phase: "Cancelled", reason: "DeclaredOtherwise", message: "change spec.proxy",
		},
		"this proxy is declared": {
			kind: setProxy, endpoint: func(e *Endpoint) { e.Proxy = &v1alpha1.DeclaredProxy{Mode: "Manual", URL: "http://proxy:3128"} },
			row: "2", phase: "Pending", reason: "WaitingForSession", message: "devbox",
		},
		"no proxy is declared": {
			kind: setProxy, endpoint: func(e *Endpoint) { e.Proxy = &v1alpha1.DeclaredProxy{Mode: "Direct"} },
			row: "5", phase: "Cancelled", reason: "DeclaredOtherwise", message: "change spec.proxy",
		},
		"a proxy is declared": {
			kind: noProxy, endpoint: func(e *Endpoint) { e.Proxy = &v1alpha1.DeclaredProxy{Mode: "Manual", URL: "http://proxy:3128"} },
			row: "5", phase: "Cancelled", reason: "DeclaredOtherwise", message: "change spec.proxy",
		},

		"the manager was away": {
			look: func(l *Look) { l.Now = noon.Add(time.Hour) },
			row:  "6", phase: "Expired", reason: "DeadlineExceeded", message: "not started by 2026-11-24 13:00:00Z: nobody looked at it before",
		},
		"restored from a backup, its time long over": {
			look: func(l *Look) { l.Now, l.Endpoint = noon.AddDate(0, 2, 0), nil },
			row:  "6", phase: "Expired", reason: "DeadlineExceeded", message: "not started by",
		},

		"being deleted":      {action: func(a *v1alpha1.EndpointAction) { a.DeletionTimestamp = ptr.To(metav1.NewTime(noon)) }, phase: "Pending"},
		"of an unseen child": {action: func(a *v1alpha1.EndpointAction) { *a = *childOf(newParent(), "devbox") }, phase: "Pending"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.kind == "" {
				tt.kind = terminate
			}
			a, ep := newAction(tt.kind), devbox()
			if tt.action != nil {
				tt.action(a)
			}
			if tt.endpoint != nil {
				tt.endpoint(ep)
			}
			l := lookAt(ep, 0)
			if tt.look != nil {
				tt.look(&l)
			}
			after := take(t, a, l, tt.row)
			s := &after.Status
			if s.Phase != tt.phase || reasonFor(s) != tt.reason || !strings.Contains(s.Message, tt.message) {
				t.Errorf("%s, %s: %s\nwant %s, %s: %s", s.Phase, reasonFor(s), s.Message, tt.phase, tt.reason, tt.message)
			}
			if (s.Admission != nil) != (tt.row == "2") {
				t.Errorf("it was admitted as %+v", s.Admission)
			}
			if tt.row != None && s.ObservedGeneration != 1 {
				t.Errorf("it has seen generation %d", s.ObservedGeneration)
			}
		})
	}
}

// TestAdmission is row 2: identity, deadlines, an order that verifies.
func TestAdmission(t *testing.T) {
	a := admitted(t, terminate)
	got := a.Status.Admission
	want := v1alpha1.ActionAdmission{
		IdentityID: machine, Time: metav1.NewMicroTime(noon), StartingDeadline: metav1.NewTime(noon.Add(time.Hour)),
		ReportDeadline: metav1.NewTime(noon.Add(time.Hour + time.Minute + 15*time.Minute)), Order: got.Order,
	}
	if got.IdentityID != want.IdentityID || !got.Time.Equal(&want.Time) || !got.StartingDeadline.Equal(&want.StartingDeadline) || !got.ReportDeadline.Equal(&want.ReportDeadline) {
		t.Errorf("admitted as %+v, want %+v", got, want)
	}
	if !sealedBy(keyOf("orders"))(got.Order) || got.Order.PayloadType != string(envelope.Action) {
		t.Error("the order does not verify")
	}
	if take(t, a, lookAt(devbox(), time.Minute), None).Status.Admission.Order.Payload == nil {
		t.Error("the order is gone")
	}
}

func TestAdmissionAfterTheJournalWasMade(t *testing.T) {
	ep := devbox()
	ep.JournalTime = noon.Add(20 * time.Second) // by the clock of another leader
	a := take(t, newAction(terminate), lookAt(ep, 0), "2")
	if at := a.Status.Admission.Time; !at.After(ep.JournalTime) {
		t.Errorf("issued at %s: an agent whose journal is of %s refuses that", at, ep.JournalTime)
	}
	take(t, a, lookAt(ep, time.Second), None)
}

// TestSealFails: without a signature nothing happens, and it is tried again.
func TestSealFails(t *testing.T) {
	broken := errors.New("no key")
	l := lookAt(devbox(), time.Minute)
	l.Seal = func(envelope.Type, proto.Message) (v1alpha1.Envelope, error) { return v1alpha1.Envelope{}, broken }
	cancelled := sent(t, terminate)
	cancelled.Spec.Cancel = true
	for _, a := range []*v1alpha1.EndpointAction{newAction(terminate), cancelled} {
		if status, row, err := Next(a, l); !errors.Is(err, broken) || errors.Is(err, ErrUnfit) || row != None || status != nil {
			t.Errorf("row %q, %v", row, err)
		}
	}
}

// TestWaiting is row 3: what it waits for is written when it becomes another thing, and that not too often.
func TestWaiting(t *testing.T) {
	away := func(change endpointChange) *Endpoint { ep := devbox(); change(ep); return ep }
	suspended := away(func(e *Endpoint) { e.Lifecycle = "Suspended" })
	conflict := away(func(e *Endpoint) { e.Conflict = true })
	asleep := away(func(e *Endpoint) { e.Online, e.Channel = false, "None" })
	lost := away(func(e *Endpoint) { e.Channel = "None" })
	back := away(func(e *Endpoint) { e.Channel = "Heartbeat" })

	t.Run("before it is admitted", func(t *testing.T) {
		a := take(t, newAction(terminate), lookAt(nil, 0), "3")
		take(t, a, lookAt(nil, 10*time.Minute), None)
		if due := Due(take(t, a, lookAt(suspended, 20*time.Second), None), noon.Add(20*time.Second)); !due.Equal(noon.Add(time.Minute)) {
			t.Errorf("what was held back is due %s", due)
		}
		a = take(t, a, lookAt(suspended, time.Minute), "3")
		take(t, a, lookAt(conflict, 90*time.Second), None)
		if a = take(t, a, lookAt(devbox(), 91*time.Second), "2"); reasonFor(&a.Status) != ReasonWaitingForSession {
			t.Errorf("it waits for %s", reasonFor(&a.Status))
		}
	})
	t.Run("once admitted", func(t *testing.T) {
		a := admitted(t, terminate)
		take(t, a, lookAt(lost, 30*time.Second), None)
		a = take(t, a, lookAt(lost, time.Minute), "3")
		if !strings.Contains(a.Status.Message, "due by 12:06:31Z") {
			t.Error(a.Status.Message)
		}
		a = take(t, a, lookAt(asleep, 20*time.Minute), "3")
		seen := *asleep
		seen.LastSeen = noon.Add(25 * time.Minute)
		take(t, a, lookAt(&seen, 30*time.Minute), None)
		take(t, a, lookAt(back, 31*time.Minute), None)     // its heartbeat fetches it
		take(t, a, lookAt(devbox(), 31*time.Minute), None) // its session gets it
		take(t, a, lookAt(nil, 31*time.Minute), None)      // nobody has confirmed that
		a = take(t, a, lookAt(suspended, 32*time.Minute), "3")
		take(t, a, lookAt(devbox(), 40*time.Minute), None)
		if a = take(t, a, lookAt(back, 40*time.Minute), "3"); reasonFor(&a.Status) != ReasonWaitingForHeartbeat {
			t.Errorf("it waits for %s", reasonFor(&a.Status))
		}
	})
	t.Run("the clock has gone back", func(t *testing.T) {
		a := take(t, newAction(terminate), lookAt(nil, time.Minute), "3")
		take(t, a, lookAt(suspended, 0), "3")
	})
}

// TestExpired is row 6: it says what it had been waiting for.
func TestExpired(t *testing.T) {
	for reason, tt := range map[string]struct {
		endpoint endpointChange
		want     string
	}{
		ReasonWaitingForSession:   {func(*Endpoint) {}, "a websocket of devbox"},
		ReasonWaitingForHeartbeat: {func(e *Endpoint) { e.Channel = "Heartbeat" }, "a heartbeat of devbox"},
		ReasonEndpointOffline:     {func(e *Endpoint) { e.Online = false }, "devbox, which was offline, last seen 2026-11-24 11:59:00Z"},
		ReasonEndpointNotEnrolled: {func(e *Endpoint) { *e = Endpoint{} }, "a machine to enrol as devbox"},
		ReasonEndpointSuspended:   {func(e *Endpoint) { e.Lifecycle = "Suspended" }, "devbox, which was suspended"},
		ReasonIdentityConflict:    {func(e *Endpoint) { e.Conflict = true }, "the end of the identity conflict of devbox"},
	} {
		ep := devbox()
		tt.endpoint(ep)
		row := Arrow("3")
		if !ep.Conflict && ep.Lifecycle == "" && ep.IdentityID != "" {
			row = "2"
		}
		a := take(t, newAction(terminate), lookAt(ep, 0), row)
		if reasonFor(&a.Status) != reason {
			t.Errorf("it waits for %s, want %s", reasonFor(&a.Status), reason)
		}
		if due := Due(a, noon.Add(time.Hour)); !due.Equal(noon.Add(time.Hour)) {
			t.Errorf("the next look is due %s", due)
		}
		a = take(t, a, lookAt(ep, time.Hour), "6")
		if want := "not started by 2026-11-24 13:00:00Z: it had been waiting for " + tt.want; a.Status.Message != want {
			t.Errorf("%s\nwant %s", a.Status.Message, want)
		}
	}
	a := take(t, take(t, newAction(terminate), lookAt(nil, 0), "3"), lookAt(nil, time.Hour), "6")
	if !strings.Contains(a.Status.Message, "waiting for an endpoint named devbox") {
		t.Error(a.Status.Message)
	}
}

// TestWithdrawnOnceAdmitted: rows 4 and 5 hold until it is sent.
func TestWithdrawnOnceAdmitted(t *testing.T) {
	for name, tt := range map[string]struct {
		action   actionChange
		endpoint endpointChange
		look     lookChange
		row      Arrow
		reason   string
	}{
		"cancelled":      {action: func(a *v1alpha1.EndpointAction) { a.Spec.Cancel, a.Generation = true, 2 }, row: "5", reason: "CancelledByUser"},
		"enrolled again": {endpoint: func(e *Endpoint) { e.IdentityID = stranger }, row: "5", reason: "EndpointReplaced"},
		"made anew":      {endpoint: func(e *Endpoint) { *e = Endpoint{} }, row: "5", reason: "EndpointReplaced"},
		"deleted":        {look: func(l *Look) { l.Endpoint, l.EndpointDeleted = nil, true }, row: "5", reason: "EndpointDeleted"},
		"declared":       {endpoint: func(e *Endpoint) { e.Isolation = "Released" }, row: "5", reason: "DeclaredOtherwise"},
		"superseded":     {look: func(l *Look) { l.NewerOfTopic = true }, row: "5", reason: "Superseded"},
		"disabled":       {endpoint: func(e *Endpoint) { e.Disabled = []v1alpha1.ActionType{isolate} }, row: "4", reason: "DisabledByPolicy"},
		"downgraded":     {endpoint: func(e *Endpoint) { e.Capabilities = nil }, row: "4", reason: "AgentTooOld"},
	} {
		t.Run(name, func(t *testing.T) {
			a, ep := admitted(t, isolate), devbox()
			if tt.action != nil {
				tt.action(a)
			}
			if tt.endpoint != nil {
				tt.endpoint(ep)
			}
			l := lookAt(ep, time.Second)
			if tt.look != nil {
				tt.look(&l)
			}
			if s := take(t, a, l, tt.row).Status; reasonFor(&s) != tt.reason {
				t.Errorf("it ended for %s", reasonFor(&s))
			}
		})
	}
}

// TestSignedAnew is row 7.
func TestSignedAnew(t *testing.T) {
	t.Run("the key of now", func(t *testing.T) {
		a, l := admitted(t, terminate), lookAt(devbox(), time.Minute)
		l.Seal, l.SealedNow = sealBy(keyOf("rotated")), sealedBy(keyOf("rotated"))
		again := take(t, a, l, "7")
		if !sealedBy(keyOf("rotated"))(again.Status.Admission.Order) || Digest(again.Status.Admission.Order) != Digest(a.Status.Admission.Order) {
			t.Error("it is not the same order by the new key")
		}
		take(t, again, l, None)
	})
	t.Run("a journal that would refuse it", func(t *testing.T) {
		a, ep := admitted(t, terminate), devbox()
		ep.JournalID, ep.JournalTime = strings.Repeat("f", 32), a.Status.Admission.Time.Time
		take(t, a, lookAt(ep, time.Minute), "7")
		ep.JournalTime = noon.Add(2 * time.Minute)
		again := take(t, a, lookAt(ep, time.Minute), "7")
		was, is := a.Status.Admission, again.Status.Admission
		if is.Time.Before(ptr.To(metav1.NewMicroTime(ep.JournalTime))) {
			t.Errorf("it is issued %s, and the agent's journal is of %s", is.Time, ep.JournalTime)
		}
		if !is.StartingDeadline.Equal(&was.StartingDeadline) || !is.ReportDeadline.Equal(&was.ReportDeadline) {
			t.Error("it has other deadlines")
		}
		take(t, again, lookAt(ep, 2*time.Minute), None)
		take(t, take(t, again, sendTo(ep, 3*time.Minute), "8"), lookAt(ep, 4*time.Minute), None)
	})
	t.Run("not while nobody knows which machine it is", func(t *testing.T) {
		a, ep := admitted(t, terminate), devbox()
		ep.JournalTime, ep.Conflict = noon.Add(time.Minute), true
		take(t, a, lookAt(ep, 2*time.Minute), "3")
	})
}

// TestLookAtWhatWasSent: rows 17, 19 and 20.
func TestLookAtWhatWasSent(t *testing.T) {
	const wentOn = time.Hour + 16*time.Minute // the report deadline
	for name, tt := range map[string]struct {
		kind     v1alpha1.ActionType
		at       time.Duration
		action   actionChange
		endpoint endpointChange
		look     lookChange

		row     Arrow
		phase   v1alpha1.ActionPhase
		reason  string
		message string
	}{
		"on its way":                        {at: 2 * time.Hour / 2, phase: "Sent", reason: "Sent"},
		"silent":                            {at: wentOn, row: "19", phase: "Unknown", reason: "NoReport", message: "devbox did not report by 2026-11-24 13:16:00Z; it may have been done or not: check on devbox whether the process still runs"},
		"silent, and safe to repeat":        {kind: heartbeat, at: wentOn, row: "19", phase: "Unknown", reason: "NoReport", message: "safe to ask again"},
		"nobody confirms that it is gone":   {look: func(l *Look) { l.Endpoint = nil }, phase: "Sent", reason: "Sent"},
		"deleted":                           {look: func(l *Look) { l.Endpoint, l.EndpointDeleted = nil, true }, row: "19", phase: "Unknown", reason: "EndpointDeleted", message: "devbox was deleted"},
		"enrolled again":                    {endpoint: func(e *Endpoint) { e.IdentityID = stranger }, row: "19", phase: "Unknown", reason: "EndpointReplaced", message: "enrolled again"},
		"blocked":                           {endpoint: func(e *Endpoint) { e.Lifecycle = "Blocked" }, row: "19", phase: "Unknown", reason: "EndpointBlocked", message: "devbox is Blocked"},
		"decommissioned":                    {endpoint: func(e *Endpoint) { e.Lifecycle = "Decommissioned" }, row: "19", phase: "Unknown", reason: "EndpointBlocked", message: "devbox is Decommissioned"},
		"suspended":                         {endpoint: func(e *Endpoint) { e.Lifecycle = "Suspended" }, phase: "Sent", reason: "Sent"},
		"another journal":                   {endpoint: func(e *Endpoint) { e.JournalID, e.JournalTime = strings.Repeat("f", 32), noon.Add(time.Minute) }, row: "19", phase: "Unknown", reason: "JournalLost", message: "lost the journal"},
		"a journal from before it was sent": {endpoint: func(e *Endpoint) { e.JournalID = strings.Repeat("f", 32) }, phase: "Sent", reason: "Sent"},
		"forgotten": {
			action: func(a *v1alpha1.EndpointAction) {
				a.Status.Delivery.AcknowledgedTime, a.Status.Delivery.MissingTime = &a.Status.Delivery.SentTime, &a.Status.Delivery.SentTime
			},
			row: "19", phase: "Unknown", reason: "AgentForgot", message: "does not know of it any more",
		},
		"cancelled": {
			action: func(a *v1alpha1.EndpointAction) { a.Spec.Cancel, a.Generation = true, 2 },
			row:    "17", phase: "Sent", reason: "CancelRequested", message: "cancel was asked for after it was sent",
		},
		"cancelled too late for anybody": {
			at: wentOn, action: func(a *v1alpha1.EndpointAction) { a.Spec.Cancel, a.Generation = true, 2 },
			row: "19", phase: "Unknown", reason: "NoReport",
		},
		"cancelled with its parent": {
			look: func(l *Look) { l.Parent = newParent(); l.Parent.Spec.Cancel = true },
			row:  "17", phase: "Sent", reason: "CancelRequested",
		},
		"a change of its time to live": {
			action: func(a *v1alpha1.EndpointAction) { a.Spec.TTLSecondsAfterFinished, a.Generation = ptr.To[int32](1), 2 },
			row:    "27", phase: "Sent", reason: "Sent",
		},

		"isolated, and it did not say so": {
			kind: isolate, at: 31 * 24 * time.Hour, endpoint: func(e *Endpoint) { e.State = &v1alpha1.EndpointAgent{Isolation: "Isolated", IsolationActionUID: uid} },
			row: "20", phase: "Succeeded", reason: "ObservedState", message: "devbox did not report it, but is in the state that was asked for",
		},
		"isolated at a later contact": {
			kind: isolate, at: 31 * 24 * time.Hour,
			endpoint: func(e *Endpoint) {
				e.LastSeen, e.State = noon.Add(time.Hour), &v1alpha1.EndpointAgent{Isolation: "Isolated"}
			},
			row: "20", phase: "Succeeded", reason: "ObservedState",
		},
		"isolated before": {
			kind: isolate, at: 31 * 24 * time.Hour, endpoint: func(e *Endpoint) { e.State = &v1alpha1.EndpointAgent{Isolation: "Isolated"} },
			row: "19", phase: "Unknown", reason: "NoReport", message: "whether it is isolated",
		},
		"not isolated": {
			kind: isolate, at: 31 * 24 * time.Hour, endpoint: func(e *Endpoint) { e.State = &v1alpha1.EndpointAgent{Isolation: "Released", IsolationActionUID: uid} },
			row: "19", phase: "Unknown", reason: "NoReport",
		},
		"isolated by a newer action": {
			kind: isolate, at: 31 * 24 * time.Hour,
			endpoint: func(e *Endpoint) { e.State = &v1alpha1.EndpointAgent{Isolation: "Isolated", IsolationActionUID: uid} },
			look:     func(l *Look) { l.NewerOfTopic = true },
			row:      "19", phase: "Unknown", reason: "NoReport",
		},
		"isolated, says another machine": {
			kind: isolate, endpoint: func(e *Endpoint) {
				e.IdentityID, e.State = stranger, &v1alpha1.EndpointAgent{Isolation: "Isolated", IsolationActionUID: uid}
			},
			row: "19", phase: "Unknown", reason: "EndpointReplaced",
		},
		"released": {
			kind: release, at: 31 * 24 * time.Hour, endpoint: func(e *Endpoint) { e.State = &v1alpha1.EndpointAgent{Isolation: "Released", IsolationActionUID: uid} },
			row: "20", phase: "Succeeded", reason: "ObservedState",
		},
		"on the proxy": {
			kind: setProxy, at: wentOn, endpoint: func(e *Endpoint) { e.State = &v1alpha1.EndpointAgent{Proxy: "http://proxy:3128", ProxyActionUID: uid} },
			row: "20", phase: "Succeeded", reason: "ObservedState",
		},
		"on another proxy": {
			kind: setProxy, at: wentOn, endpoint: func(e *Endpoint) { e.State = &v1alpha1.EndpointAgent{Proxy: "http://other:3128", ProxyActionUID: uid} },
			row: "19", phase: "Unknown", reason: "NoReport", message: "which proxy it uses",
		},
		"off the proxy": {
			kind: noProxy, at: wentOn, endpoint: func(e *Endpoint) { e.State = &v1alpha1.EndpointAgent{ProxyActionUID: uid} },
			row: "20", phase: "Succeeded", reason: "ObservedState",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.kind == "" {
				tt.kind = terminate
			}
			a, ep := sent(t, tt.kind), devbox()
			if tt.action != nil {
				tt.action(a)
			}
			if tt.endpoint != nil {
				tt.endpoint(ep)
			}
			l := lookAt(ep, max(tt.at, time.Minute))
			if tt.look != nil {
				tt.look(&l)
			}
			s := &take(t, a, l, tt.row).Status
			if s.Phase != tt.phase || reasonFor(s) != tt.reason || !strings.Contains(s.Message, tt.message) {
				t.Errorf("%s, %s: %s\nwant %s, %s: %s", s.Phase, reasonFor(s), s.Message, tt.phase, tt.reason, tt.message)
			}
		})
	}
}

func TestCancellation(t *testing.T) {
	a := running(t, terminate)
	a.Spec.Cancel, a.Generation = true, 2
	a = take(t, a, lookAt(devbox(), time.Minute), "17")
	if c := a.Status.Cancellation; c == nil || c.PayloadType != string(envelope.Cancel) || !sealedBy(keyOf("orders"))(*c) {
		t.Fatalf("the cancellation is %+v", a.Status.Cancellation)
	}
	take(t, a, lookAt(devbox(), 2*time.Minute), None)
	l := lookAt(devbox(), 3*time.Minute)
	l.Seal, l.SealedNow = sealBy(keyOf("rotated")), sealedBy(keyOf("rotated"))
	if again := take(t, a, l, "17"); !sealedBy(keyOf("rotated"))(*again.Status.Cancellation) {
		t.Error("the agent would refuse this order to cancel")
	}
	if a = take(t, a, runs(4*time.Minute), "11"); reasonFor(&a.Status) != ReasonCancelRequested {
		t.Errorf("nobody sees any more that cancel was asked for: %s", reasonFor(&a.Status))
	}
}

// TestSeenAfterTheEnd is row 27: else an ended action would be in progress for ever, by kstatus.
func TestSeenAfterTheEnd(t *testing.T) {
	a := newAction(terminate)
	a.Spec.Cancel = true
	a = take(t, a, lookAt(nil, 0), "5")
	take(t, a, lookAt(nil, time.Minute), None)
	a.Generation = 2
	take(t, a, lookAt(nil, time.Minute), "27")
}

// TestTurns: a child waits until its parent has let it in; its time to start counts from then on.
func TestTurns(t *testing.T) {
	parent := newParent()
	parent.Status.Children = &v1alpha1.ActionChildren{Total: 3, Released: 1}
	look := func(turn int, ep *Endpoint, after time.Duration) Look {
		l := lookAt(ep, after)
		l.Parent, l.Turn = parent, turn
		return l
	}
	first := take(t, childOf(parent, "devbox"), look(0, devbox(), time.Minute), "2")
	if d := first.Status.Admission.StartingDeadline; !d.Equal(ptr.To(metav1.NewTime(noon.Add(61 * time.Minute)))) {
		t.Errorf("it may start until %s", d)
	}
	asleep := devbox()
	asleep.Online = false
	stillFirst := take(t, first, look(0, asleep, 10*time.Minute), "3") // what is signed stays
	take(t, stillFirst, look(0, asleep, 61*time.Minute-time.Second), None)
	take(t, stillFirst, look(0, asleep, 61*time.Minute), "6")
	second := take(t, childOf(parent, "devbox"), look(1, devbox(), time.Minute), "3")
	if reasonFor(&second.Status) != ReasonWaitingForTurn || !Due(second, noon.Add(time.Hour)).IsZero() {
		t.Errorf("it waits for %s until %s", reasonFor(&second.Status), Due(second, noon.Add(time.Hour)))
	}
	take(t, second, look(1, devbox(), 50*time.Hour), None)
	suspended := devbox()
	suspended.Lifecycle = "Suspended"
	take(t, second, look(1, suspended, 50*time.Hour), None) // neither is it too late for it then

	parent.Status.Children.Released = 3
	held := take(t, second, look(1, suspended, 51*time.Hour), "3")
	if due := Due(held, noon.Add(51*time.Hour+time.Minute)); !due.Equal(noon.Add(52 * time.Hour)) {
		t.Errorf("it is held until %s", due)
	}
	take(t, held, look(1, suspended, 52*time.Hour), "6")
	if a := take(t, held, look(1, devbox(), 51*time.Hour+30*time.Minute), "2"); !a.Status.Admission.StartingDeadline.Time.Equal(noon.Add(52 * time.Hour)) {
		t.Errorf("it may start until %s", a.Status.Admission.StartingDeadline)
	}
	if a := take(t, second, look(1, devbox(), 51*time.Hour), "2"); !a.Status.Admission.StartingDeadline.Time.Equal(noon.Add(52 * time.Hour)) {
		t.Errorf("it may start until %s", a.Status.Admission.StartingDeadline)
	}
	gone := look(1, nil, time.Minute)
	gone.EndpointDeleted = true
	take(t, second, gone, "5")

	if s := take(t, childOf(parent, "devbox"), look(-1, devbox(), time.Minute), "3").Status; reasonFor(&s) != ReasonWaitingForTurn {
		t.Errorf("without a place it waits for %s", reasonFor(&s))
	}

	over := parent.DeepCopy()
	end(over, v1alpha1.ActionSucceeded, ReasonDone)
	late := look(0, devbox(), time.Minute)
	late.Parent = over
	if s := take(t, childOf(parent, "devbox"), late, "5").Status; reasonFor(&s) != ReasonParentCancelled || !strings.Contains(s.Message, "stop-it has ended") {
		t.Errorf("%s: %s", reasonFor(&s), s.Message)
	}
	parent.Spec.MaxFailures, parent.Status.Children.Failed = ptr.To[int32](0), 1
	if s := take(t, first, look(0, devbox(), 2*time.Minute), "5").Status; reasonFor(&s) != ReasonParentCancelled || !strings.Contains(s.Message, "too many of stop-it have failed") {
		t.Errorf("%s: %s", reasonFor(&s), s.Message)
	}
	parent.Spec.Cancel = true
	if s := take(t, second, look(1, devbox(), 2*time.Minute), "5").Status; reasonFor(&s) != ReasonParentCancelled || !strings.Contains(s.Message, "with stop-it") {
		t.Errorf("%s: %s", reasonFor(&s), s.Message)
	}
}

// TestUnfitLooks: what cannot be is left alone.
func TestUnfitLooks(t *testing.T) {
	refuses(t, newParent(), lookAt(devbox(), 0))
	a := newAction(terminate)
	a.Status.Phase = v1alpha1.ActionSent
	refuses(t, a, lookAt(devbox(), 0))
	a.Status.Phase = v1alpha1.ActionSucceeded
	refuses(t, a, lookAt(devbox(), 0))
	refuses(t, newAction(terminate), nil)
}
