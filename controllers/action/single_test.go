package action

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

// opened is the order of an action, as its agent reads it.
func opened(t *testing.T, a *v1alpha1.EndpointAction, key string) *agentv1.Action {
	t.Helper()
	says := &agentv1.Action{}
	if err := envelope.Open(order.FromResource(a.Status.Admission.Order), envelope.Action, says, orderKey(key).Public()); err != nil {
		t.Fatal(err)
	}
	return says
}

// TestLife is an action's whole life, and what it costs: one write to admit it, and one each by the gateway to send it and to say what came of it.
func TestLife(t *testing.T) {
	w := start(t)
	w.endpoint(t, "laptop")
	w.ask(t, "stop", v1alpha1.TerminateProcess, "laptop")
	a := w.is(t, "stop", v1alpha1.ActionPending, decide.ReasonWaitingForSession)
	says := opened(t, a, "a")
	if says.GetIdentityId() != w.machines["laptop"].id || says.GetActionUid() != string(a.UID) || says.GetTerminateProcess().GetExecutable() != "/usr/bin/sleep" {
		t.Errorf("signed is %v", says)
	}
	if got, want := a.Status.Admission.StartingDeadline.Time, a.CreationTimestamp.Add(time.Hour); !got.Equal(want) {
		t.Errorf("it may start until %s, want %s", got, want)
	}
	if a.Status.ObservedGeneration != a.Generation {
		t.Errorf("generation %d is observed of %d", a.Status.ObservedGeneration, a.Generation)
	}
	w.send(t, "stop")
	if row := w.report(t, "stop", agentv1.Outcome_OUTCOME_SUCCEEDED, "Done"); row != "12" {
		t.Errorf("the gateway took row %s", row)
	}
	a = w.is(t, "stop", v1alpha1.ActionSucceeded, decide.ReasonDone)
	told := w.told(t, "stop", "Normal Succeeded")
	if told[0].Related == nil || told[0].Related.Kind != "Endpoint" || told[0].Related.Name != "laptop" || told[0].Note != a.Status.Message {
		t.Errorf("the event is %+v", told[0])
	}
	if byManager, byGateway := w.writes(t, "stop"); byManager != 1 || byGateway != 2 {
		t.Errorf("the manager wrote %d times, the gateway %d times", byManager, byGateway)
	}
	if meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionResultVerified) != nil {
		t.Error("a good result is marked")
	}
}

// TestWaits: what an action waits for, and that it is admitted once it need not.
func TestWaits(t *testing.T) {
	w := start(t)
	for _, tt := range []struct {
		name, reason string
		change       func(*v1alpha1.Endpoint)
		sendable     bool
	}{
		{"heartbeat", decide.ReasonWaitingForHeartbeat, online(v1alpha1.ChannelHeartbeat), true},
		{"offline", decide.ReasonEndpointOffline, online(v1alpha1.ChannelNone), true},
		{"unenrolled", decide.ReasonEndpointNotEnrolled, func(ep *v1alpha1.Endpoint) { ep.Status.Identity = nil }, false},
		{"conflict", decide.ReasonIdentityConflict, func(ep *v1alpha1.Endpoint) {
			meta.SetStatusCondition(&ep.Status.Conditions, metav1.Condition{Type: v1alpha1.EndpointIdentityConflict, Status: metav1.ConditionTrue, Reason: "Cloned"})
		}, false},
		{"clone", decide.ReasonIdentityConflict, func(ep *v1alpha1.Endpoint) { ep.Status.Connection.ConflictInstanceID = "two" }, false},
		{"silent", decide.ReasonWaitingForSession, func(ep *v1alpha1.Endpoint) { ep.Status.Agent = nil }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.endpoint(t, tt.name, tt.change)
			w.ask(t, tt.name, v1alpha1.PerformHeartbeat, tt.name)
			a := w.is(t, tt.name, v1alpha1.ActionPending, tt.reason)
			if sendable := a.Status.Admission != nil; sendable != tt.sendable {
				t.Fatalf("admitted: %t", sendable)
			}
			if tt.sendable {
				return
			}
			ep := w.change(t, tt.name, online(v1alpha1.ChannelWebSocket), func(ep *v1alpha1.Endpoint) {
				meta.RemoveStatusCondition(&ep.Status.Conditions, v1alpha1.EndpointIdentityConflict)
			})
			if ep.Status.Identity == nil {
				w.enrol(t, tt.name)
			}
			w.admitted(t, tt.name)
			if byManager, _ := w.writes(t, tt.name); byManager != 2 {
				t.Errorf("the manager wrote %d times: to say what it waits for, and to admit it", byManager)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		w.ask(t, "missing", v1alpha1.PerformHeartbeat, "missing")
		w.is(t, "missing", v1alpha1.ActionPending, decide.ReasonEndpointNotFound)
		w.endpoint(t, "missing")
		w.admitted(t, "missing")
	})
	t.Run("suspended", func(t *testing.T) {
		w.endpoint(t, "suspended")
		w.declare(t, "suspended", v1alpha1.EndpointSpec{Lifecycle: v1alpha1.LifecycleSuspended})
		w.ask(t, "suspended", v1alpha1.PerformHeartbeat, "suspended")
		w.is(t, "suspended", v1alpha1.ActionPending, decide.ReasonEndpointSuspended)
		w.declare(t, "suspended", v1alpha1.EndpointSpec{})
		w.admitted(t, "suspended")
	})
}

// TestEndsBeforeItIsSent: rows 4 to 6, each with what makes it end.
func TestEndsBeforeItIsSent(t *testing.T) {
	w := start(t)
	policy := &v1alpha1.EndpointPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.name, Name: "strict"},
		Spec:       v1alpha1.EndpointPolicySpec{Selector: &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{"device": "kiosk"}}},
	}
	for _, tt := range []struct {
		name   string
		kind   v1alpha1.ActionType
		phase  v1alpha1.ActionPhase
		reason string
		event  string
		change func(t *testing.T, name string)
	}{
		{"cancelled", v1alpha1.PerformHeartbeat, v1alpha1.ActionCancelled, decide.ReasonCancelledByUser, "Normal Cancelled", w.cancel},
		{"unable", v1alpha1.PerformHeartbeat, v1alpha1.ActionUnsupported, decide.ReasonAgentTooOld, "Warning Unsupported", func(t *testing.T, name string) {
			w.change(t, name, func(ep *v1alpha1.Endpoint) { ep.Status.Agent.Capabilities = []v1alpha1.Text{"TerminateProcess"} })
		}},
		{"disabled", v1alpha1.PerformHeartbeat, v1alpha1.ActionUnsupported, decide.ReasonDisabledByPolicy, "Warning Unsupported", func(t *testing.T, _ string) {
			policy.Spec.Actions = &v1alpha1.ActionPolicy{Disabled: []v1alpha1.ActionType{v1alpha1.PerformHeartbeat}}
			if err := w.person.Create(t.Context(), policy); err != nil {
				t.Fatal(err)
			}
			policy.Status.Order = &v1alpha1.Envelope{PayloadType: "x", Payload: []byte("{}"), Signatures: []v1alpha1.EnvelopeSignature{{Sig: []byte("x")}}}
			if err := w.manager.Status().Patch(t.Context(), policy, client.Merge); err != nil {
				t.Fatal(err)
			}
		}},
		{"blocked", v1alpha1.PerformHeartbeat, v1alpha1.ActionCancelled, decide.ReasonEndpointBlocked, "Normal Cancelled", func(t *testing.T, name string) {
			w.declare(t, name, v1alpha1.EndpointSpec{Lifecycle: v1alpha1.LifecycleBlocked})
		}},
		{"replaced", v1alpha1.PerformHeartbeat, v1alpha1.ActionCancelled, decide.ReasonEndpointReplaced, "Normal Cancelled", w.enrol},
		{"deleted", v1alpha1.PerformHeartbeat, v1alpha1.ActionCancelled, decide.ReasonEndpointDeleted, "Normal Cancelled", func(t *testing.T, name string) {
			if err := w.person.Delete(t.Context(), &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: w.name, Name: name}}); err != nil {
				t.Fatal(err)
			}
		}},
		{"declared", v1alpha1.IsolateEndpoint, v1alpha1.ActionCancelled, decide.ReasonDeclaredOtherwise, "Normal Cancelled", func(t *testing.T, name string) {
			w.declare(t, name, v1alpha1.EndpointSpec{Isolation: v1alpha1.Released})
		}},
		{"superseded", v1alpha1.IsolateEndpoint, v1alpha1.ActionCancelled, decide.ReasonSuperseded, "Normal Cancelled", func(t *testing.T, name string) {
			w.ask(t, name+"-newer", v1alpha1.CancelIsolation, name)
			w.admitted(t, name+"-newer")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.endpoint(t, tt.name)
			if tt.name == "disabled" {
				w.label(t, tt.name, "kiosk")
			}
			w.ask(t, tt.name, tt.kind, tt.name)
			w.admitted(t, tt.name)
			tt.change(t, tt.name)
			a := w.is(t, tt.name, tt.phase, tt.reason)
			if a.Status.FinishTime == nil || a.Status.Delivery != nil {
				t.Errorf("its status is %+v", a.Status)
			}
			w.told(t, tt.name, tt.event)
			if byManager, _ := w.writes(t, tt.name); byManager != 2 {
				t.Errorf("the manager wrote %d times: to admit it, and to end it", byManager)
			}
		})
	}
}

func (w *world) label(t *testing.T, name, device string) {
	t.Helper()
	ep := &v1alpha1.Endpoint{}
	w.find(t, name, ep)
	ep.Labels["device"] = device
	if err := w.person.Update(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
}

func startWithin(seconds int32) func(*v1alpha1.EndpointAction) {
	return func(a *v1alpha1.EndpointAction) { a.Spec.StartingDeadlineSeconds = &seconds }
}

// TestExpires: by a timer, admitted or not, no earlier than it may.
func TestExpires(t *testing.T) {
	w := start(t)
	w.endpoint(t, "sleeper", online(v1alpha1.ChannelNone))
	w.ask(t, "admitted", v1alpha1.PerformHeartbeat, "sleeper", startWithin(5))
	w.ask(t, "waiting", v1alpha1.PerformHeartbeat, "nobody", startWithin(5))
	w.admitted(t, "admitted")
	for _, name := range []string{"admitted", "waiting"} {
		a := w.is(t, name, v1alpha1.ActionExpired, decide.ReasonDeadlineExceeded)
		if took := a.Status.FinishTime.Sub(a.CreationTimestamp.Time); took < 5*time.Second || took > 8*time.Second {
			t.Errorf("%s expired after %s", name, took)
		}
		w.told(t, name, "Warning Expired")
	}
	if a := w.get(t, "waiting"); !strings.Contains(a.Status.Message, "nobody") {
		t.Errorf("it does not say what it had been waiting for: %q", a.Status.Message)
	}
}

// TestAnOldActionIsNeverAdmitted: it comes from a backup, or no manager was there.
func TestAnOldActionIsNeverAdmitted(t *testing.T) {
	w := begin(t)
	w.endpoint(t, "laptop")
	w.ask(t, "old", v1alpha1.PerformHeartbeat, "laptop")
	w.askAll(t, "old-of-all", 1)
	w.ahead.Store(int64(2 * time.Hour))
	w.run(t, orderKey("a"))
	if a := w.is(t, "old", v1alpha1.ActionExpired, decide.ReasonDeadlineExceeded); a.Status.Admission != nil {
		t.Error("it was admitted")
	}
	w.is(t, "old-of-all", v1alpha1.ActionExpired, decide.ReasonDeadlineExceeded)
	if children := w.children(t, "old-of-all"); len(children) > 0 {
		t.Errorf("it has %d children", len(children))
	}
}

// TestSignedAnew: by another key, and for a journal that would refuse what is older.
func TestSignedAnew(t *testing.T) {
	w := start(t)
	w.endpoint(t, "laptop")
	w.ask(t, "pending", v1alpha1.PerformHeartbeat, "laptop")
	w.ask(t, "sent", v1alpha1.PerformHeartbeat, "laptop")
	w.send(t, "sent")
	before := w.admitted(t, "pending")
	w.stop()
	w.run(t, orderKey("b"))
	signed := func(key string) func(a *v1alpha1.EndpointAction) error {
		return func(a *v1alpha1.EndpointAction) error {
			return envelope.Verify(order.FromResource(a.Status.Admission.Order), envelope.Action, orderKey(key).Public())
		}
	}
	a := w.until(t, "pending", signed("b"))
	if !a.Status.Admission.Time.Equal(&before.Status.Admission.Time) {
		t.Error("it was issued anew, where another signature was enough")
	}
	w.until(t, "sent", signed("a")) // what was sent stays the same, byte for byte

	newer := metav1.NewMicroTime(time.Now().Add(time.Second))
	w.change(t, "laptop", func(ep *v1alpha1.Endpoint) {
		ep.Status.Agent.JournalID, ep.Status.Agent.JournalTime = strings.Repeat("f", 32), &newer
	})
	w.until(t, "pending", func(a *v1alpha1.EndpointAction) error {
		if !a.Status.Admission.Time.After(newer.Time) {
			return errors.New("the agent refuses it: it is older than its journal")
		}
		return nil
	})
	w.is(t, "sent", v1alpha1.ActionUnknown, decide.ReasonJournalLost)
}

// TestCancelAfterItWasSent: row 17, and what the agent answers.
func TestCancelAfterItWasSent(t *testing.T) {
	w := start(t)
	w.endpoint(t, "laptop")
	w.ask(t, "stop", v1alpha1.TerminateProcess, "laptop")
	w.send(t, "stop")
	w.cancel(t, "stop")
	a := w.is(t, "stop", v1alpha1.ActionSent, decide.ReasonCancelRequested)
	says := &agentv1.Cancel{}
	if err := envelope.Open(order.FromResource(*a.Status.Cancellation), envelope.Cancel, says, orderKey("a").Public()); err != nil {
		t.Fatal(err)
	}
	if says.GetActionUid() != string(a.UID) || says.GetIdentityId() != a.Status.Admission.IdentityID || says.GetActionDigest() == "" {
		t.Errorf("signed is %v", says)
	}
	w.report(t, "stop", agentv1.Outcome_OUTCOME_CANCELLED, "CancelledByUser")
	w.is(t, "stop", v1alpha1.ActionCancelled, "CancelledByUser")
	w.told(t, "stop", "Normal Cancelled")
}

// TestNobodyCanKnow: row 19, each with its reason, and row 20.
func TestNobodyCanKnow(t *testing.T) {
	w := start(t)
	for _, tt := range []struct {
		name   string
		reason string
		change func(t *testing.T, name string)
	}{
		{"silent", decide.ReasonNoReport, func(t *testing.T, name string) { w.later(t, name, 3*time.Hour) }},
		{"reinstalled", decide.ReasonJournalLost, func(t *testing.T, name string) {
			w.change(t, name, func(ep *v1alpha1.Endpoint) {
				ep.Status.Agent.JournalID, ep.Status.Agent.JournalTime = strings.Repeat("f", 32), &metav1.MicroTime{Time: time.Now()}
			})
		}},
		{"replaced", decide.ReasonEndpointReplaced, w.enrol},
		{"blocked", decide.ReasonEndpointBlocked, func(t *testing.T, name string) {
			w.declare(t, name, v1alpha1.EndpointSpec{Lifecycle: v1alpha1.LifecycleBlocked})
		}},
		{"deleted", decide.ReasonEndpointDeleted, func(t *testing.T, name string) {
			if err := w.person.Delete(t.Context(), &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: w.name, Name: name}}); err != nil {
				t.Fatal(err)
			}
		}},
		{"forgetful", decide.ReasonAgentForgot, func(t *testing.T, name string) {
			id := w.machines[name].id
			w.move(t, name, func(*v1alpha1.EndpointAction) decide.Event { return decide.Progress{Now: time.Now(), IdentityID: id} })
			w.move(t, name, func(*v1alpha1.EndpointAction) decide.Event { return decide.Missing{Now: time.Now(), IdentityID: id} })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.endpoint(t, tt.name)
			w.ask(t, tt.name, v1alpha1.TerminateProcess, tt.name)
			w.send(t, tt.name)
			tt.change(t, tt.name)
			w.is(t, tt.name, v1alpha1.ActionUnknown, tt.reason)
			w.told(t, tt.name, "Warning Unknown")
			w.ahead.Store(0)
		})
	}
	t.Run("seen", func(t *testing.T) {
		w.endpoint(t, "seen")
		w.ask(t, "seen", v1alpha1.IsolateEndpoint, "seen", startWithin(60))
		w.send(t, "seen")
		uid := string(w.get(t, "seen").UID)
		w.change(t, "seen", func(ep *v1alpha1.Endpoint) {
			ep.Status.Agent.Isolation, ep.Status.Agent.IsolationActionUID = v1alpha1.Isolated, uid
		})
		w.later(t, "seen", time.Hour)
		w.is(t, "seen", v1alpha1.ActionSucceeded, decide.ReasonObservedState)
		w.told(t, "seen", "Normal Succeeded")
	})
}

// TestAChangeAfterTheEnd: is seen, or kstatus would wait for ever; and leads nowhere.
func TestAChangeAfterTheEnd(t *testing.T) {
	w := start(t)
	w.endpoint(t, "laptop")
	w.ask(t, "stop", v1alpha1.TerminateProcess, "laptop")
	w.succeed(t, "stop")
	w.askAll(t, "stop-all", 1, func(a *v1alpha1.EndpointAction) { a.Spec.Selector.MatchLabels["device"] = "none" })
	w.is(t, "stop-all", v1alpha1.ActionSucceeded, decide.ReasonNoMatch)
	for _, name := range []string{"stop", "stop-all"} {
		w.cancel(t, name)
		w.until(t, name, func(a *v1alpha1.EndpointAction) error {
			if a.Status.Phase != v1alpha1.ActionSucceeded || a.Status.ObservedGeneration != 2 {
				return fmt.Errorf("%s is %s, generation %d observed", name, a.Status.Phase, a.Status.ObservedGeneration)
			}
			return nil
		})
	}
}

// TestLateResult: what comes after the end changes no end, and is told.
func TestLateResult(t *testing.T) {
	w := start(t)
	w.endpoint(t, "laptop")
	w.ask(t, "stop", v1alpha1.TerminateProcess, "laptop")
	w.send(t, "stop")
	w.later(t, "stop", 3*time.Hour)
	w.is(t, "stop", v1alpha1.ActionUnknown, decide.ReasonNoReport)
	w.told(t, "stop", "Warning Unknown")
	w.ahead.Store(0)
	if row := w.report(t, "stop", agentv1.Outcome_OUTCOME_SUCCEEDED, "Done"); row != "21" {
		t.Errorf("the gateway took row %s", row)
	}
	w.until(t, "stop", func(a *v1alpha1.EndpointAction) error {
		if a.Status.Phase != v1alpha1.ActionUnknown || a.Status.Result == nil {
			return fmt.Errorf("it is %s with the result %+v", a.Status.Phase, a.Status.Result)
		}
		return nil
	})
	w.told(t, "stop", "Warning Unknown", "Warning LateResult")
}

// TestResultOfWhatWasNeverSent: a gateway has sent it, and not said so.
func TestResultOfWhatWasNeverSent(t *testing.T) {
	w := start(t)
	w.endpoint(t, "laptop")
	w.ask(t, "stop", v1alpha1.TerminateProcess, "laptop")
	w.admitted(t, "stop")
	w.later(t, "stop", 3*time.Hour)
	w.is(t, "stop", v1alpha1.ActionExpired, decide.ReasonDeadlineExceeded)
	w.told(t, "stop", "Warning Expired")
	w.ahead.Store(0)
	if row := w.report(t, "stop", agentv1.Outcome_OUTCOME_REFUSED, decide.ReasonPastDeadline); row != "21" {
		t.Errorf("the gateway took row %s", row)
	}
	w.told(t, "stop", "Warning Expired", "Warning LateResult")
}

// TestDeletedWhenItWasSent: it may happen all the same, and the endpoint says so.
func TestDeletedWhenItWasSent(t *testing.T) {
	w := start(t)
	w.endpoint(t, "laptop")
	for _, name := range []string{"pending", "sent"} {
		w.ask(t, name, v1alpha1.TerminateProcess, "laptop")
		w.admitted(t, name)
	}
	w.send(t, "sent")
	w.cancel(t, "sent") // so that it shows that the manager has seen that, too
	w.is(t, "sent", v1alpha1.ActionSent, decide.ReasonCancelRequested)
	for _, name := range []string{"pending", "sent"} {
		if err := w.person.Delete(t.Context(), w.get(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	if e := w.told(t, "laptop", "Warning ActionDeleted"); !strings.Contains(e[0].Note, "sent") {
		t.Errorf("it says %q", e[0].Note)
	}
}

// TestResults: a result is believed only if the agent's key has signed it, about this order, and says what is recorded.
func TestResults(t *testing.T) {
	w := start(t)
	w.endpoint(t, "laptop")
	w.endpoint(t, "other")
	good := func(a *v1alpha1.EndpointAction) *agentv1.ActionResult {
		return result(a, agentv1.Outcome_OUTCOME_FAILED, "NoSuchProcess")
	}
	for _, tt := range []struct {
		name  string
		wrong string
		by    string
		forge func(*v1alpha1.EndpointActionStatus)
	}{
		{name: "good", by: "laptop"},
		{name: "other-key", wrong: "no signature of the envelope verifies", by: "other"},
		{name: "other-outcome", wrong: "the agent has signed something else", by: "laptop", forge: func(s *v1alpha1.EndpointActionStatus) {
			s.Phase, s.Result.Outcome = v1alpha1.ActionSucceeded, v1alpha1.OutcomeSucceeded
			meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionFailed)
			meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionStalled)
			meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: v1alpha1.ConditionComplete, Status: metav1.ConditionTrue, Reason: "Done"})
		}},
		{name: "backdated", wrong: "no signature of the envelope verifies", by: "other", forge: func(s *v1alpha1.EndpointActionStatus) {
			s.Result.ReportedTime = metav1.NewTime(time.Now().Add(-48 * time.Hour)) // when the key may have been another
		}},
		{name: "replayed", wrong: "about something else", by: "laptop", forge: func(s *v1alpha1.EndpointActionStatus) {
			a := w.get(t, "good")
			s.Result.Proof = a.Status.Result.Proof
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.ask(t, tt.name, v1alpha1.TerminateProcess, "laptop")
			w.send(t, tt.name)
			a := w.get(t, tt.name)
			status, _, err := decide.Next(a, reported(t, w.machines[tt.by].key, good(a)))
			if err != nil {
				t.Fatal(err)
			}
			if tt.forge != nil {
				tt.forge(status)
			}
			a.Status = *status
			if err := w.gateway.Status().Update(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if tt.wrong == "" {
				w.told(t, tt.name, "Warning Failed")
				if got := w.get(t, tt.name); got.ResourceVersion != a.ResourceVersion {
					t.Error("a good result was written to")
				}
				return
			}
			a = w.until(t, tt.name, func(a *v1alpha1.EndpointAction) error {
				if c := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionResultVerified); c == nil || c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, tt.wrong) {
					return fmt.Errorf("it says %+v", c)
				}
				return nil
			})
			if a.Status.Phase != status.Phase {
				t.Errorf("the phase became %s", a.Status.Phase)
			}
			if e := w.told(t, tt.name, "Warning BadProof"); !strings.Contains(e[0].Note, "gw-test0-00000") || e[0].Type != corev1.EventTypeWarning {
				t.Errorf("the event does not name the gateway: %q", e[0].Note)
			}
		})
	}
}

// TestTheLaterWordCounts: of isolate and release that waited together, the one that was asked for later stays.
func TestTheLaterWordCounts(t *testing.T) {
	w := start(t)
	const endpoints = 10
	at := func(i int) string { return fmt.Sprintf("laptop-%d", i) }
	for i := range endpoints {
		w.endpoint(t, at(i))
		w.declare(t, at(i), v1alpha1.EndpointSpec{Lifecycle: v1alpha1.LifecycleSuspended})
		w.ask(t, at(i)+"-isolate", v1alpha1.IsolateEndpoint, at(i))
	}
	<-time.After(1100 * time.Millisecond) // creation is told in whole seconds
	for i := range endpoints {
		w.ask(t, at(i)+"-release", v1alpha1.CancelIsolation, at(i))
		w.is(t, at(i)+"-release", v1alpha1.ActionPending, decide.ReasonEndpointSuspended)
	}
	for i := range endpoints {
		w.declare(t, at(i), v1alpha1.EndpointSpec{})
	}
	for i := range endpoints {
		w.is(t, at(i)+"-isolate", v1alpha1.ActionCancelled, decide.ReasonSuperseded)
		w.admitted(t, at(i)+"-release")
	}
}

// TestTimeToLive: deleted no earlier than it may be.
func TestTimeToLive(t *testing.T) {
	w := start(t)
	w.endpoint(t, "laptop")
	w.ask(t, "kept", v1alpha1.PerformHeartbeat, "laptop")
	w.ask(t, "gone", v1alpha1.PerformHeartbeat, "laptop", func(a *v1alpha1.EndpointAction) { a.Spec.TTLSecondsAfterFinished = ptr.To[int32](2) })
	w.succeed(t, "kept")
	w.succeed(t, "gone")
	end := w.get(t, "gone").Status.FinishTime.Time
	w.gone(t, "gone")
	if lived := time.Since(end); lived < 2*time.Second {
		t.Errorf("it lived for %s after its end", lived)
	}
	w.get(t, "kept")
}

// TestQuietEndpointsCostNothing: what open actions do not wait for makes nobody look at them.
func TestQuietEndpointsCostNothing(t *testing.T) {
	w := start(t)
	w.endpoint(t, "laptop")
	w.ask(t, "waits", v1alpha1.PerformHeartbeat, "laptop")
	before := w.admitted(t, "waits")
	for range 3 {
		w.change(t, "laptop", func(ep *v1alpha1.Endpoint) { ep.Status.LastSeenTime = &metav1.Time{Time: time.Now().Add(time.Hour)} })
		w.change(t, "laptop", online(v1alpha1.ChannelNone))
		w.change(t, "laptop", online(v1alpha1.ChannelHeartbeat))
	}
	w.ask(t, "marker", v1alpha1.PerformHeartbeat, "laptop")
	w.admitted(t, "marker")
	if after := w.get(t, "waits"); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("it was written: %s", after.Status.Message)
	}
}
