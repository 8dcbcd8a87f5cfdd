package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/test/harness"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type actionStatus = v1alpha1.EndpointActionStatus

func signed(kind string) v1alpha1.Envelope {
	return v1alpha1.Envelope{
		PayloadType: "application/vnd.rollcall." + kind + ".v1+json", Payload: []byte("{}"), Signatures: []v1alpha1.EnvelopeSignature{{KeyID: "3f1a", Sig: []byte("sig")}},
	}
}

func condition(kind string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: "Because", ObservedGeneration: 1, LastTransitionTime: metav1.NewTime(noon)}
}

// outcomes are what an agent reports for each end.
var outcomes = map[v1alpha1.ActionPhase]v1alpha1.ActionOutcome{
	v1alpha1.ActionSucceeded: v1alpha1.OutcomeSucceeded, v1alpha1.ActionFailed: v1alpha1.OutcomeFailed, v1alpha1.ActionUnknown: v1alpha1.OutcomeUnknown,
	v1alpha1.ActionCancelled: v1alpha1.OutcomeCancelled, v1alpha1.ActionExpired: v1alpha1.OutcomeRefused, v1alpha1.ActionUnsupported: v1alpha1.OutcomeRefused,
}

// phases are all, as the schema has them.
func phases(t *testing.T) []v1alpha1.ActionPhase {
	t.Helper()
	var all []v1alpha1.ActionPhase
	for _, f := range fields(t, "epa") {
		if f.path == "status.phase" {
			for _, value := range f.schema.Enum {
				all = append(all, v1alpha1.ActionPhase(strings.Trim(string(value.Raw), `"`)))
			}
		}
	}
	if len(all) != 9 {
		t.Fatalf("phases: %v", all)
	}
	return all
}

// statusOf is a status in a phase as an honest gateway leaves it, that of an action which the manager has admitted.
func statusOf(phase v1alpha1.ActionPhase) actionStatus {
	s := actionStatus{
		ObservedGeneration: 1, Phase: phase, Message: "in words",
		Admission: &v1alpha1.ActionAdmission{
			IdentityID: "6f1ad7f4-52cf-4f0e-9f3a-0a6f5c4a1f5b", Time: metav1.NewMicroTime(noon), StartingDeadline: metav1.NewTime(noon.Add(time.Hour)),
			ReportDeadline: metav1.NewTime(noon.Add(2 * time.Hour)), Order: signed("action"),
		},
		Conditions: []metav1.Condition{condition("Reconciling")},
	}
	if phase != v1alpha1.ActionPending {
		s.Delivery = &v1alpha1.ActionDelivery{Channel: v1alpha1.ChannelWebSocket, Gateway: "gw-5c9d7-x2k7q", SentTime: metav1.NewMicroTime(noon), JournalID: "ffee"}
	}
	if phase == v1alpha1.ActionRunning {
		s.Delivery.AcknowledgedTime, s.Delivery.StartedTime = ptr.To(metav1.NewMicroTime(noon)), ptr.To(metav1.NewMicroTime(noon))
	}
	outcome, ended := outcomes[phase]
	if !ended {
		return s
	}
	s.Result = result(outcome)
	s.FinishTime = ptr.To(metav1.NewTime(noon))
	switch phase {
	case v1alpha1.ActionSucceeded:
		s.Conditions = []metav1.Condition{condition("Complete")}
	case v1alpha1.ActionCancelled:
		s.Conditions = []metav1.Condition{condition("Failed")}
	default:
		s.Conditions = []metav1.Condition{condition("Failed"), condition("Stalled")}
	}
	return s
}

func result(outcome v1alpha1.ActionOutcome) *v1alpha1.ActionResult {
	return &v1alpha1.ActionResult{Outcome: outcome, Reason: "Because", ReportedTime: metav1.NewTime(noon), Proof: ptr.To(signed("result"))}
}

// unreported is an end that the manager wrote, without a word of the agent's.
func unreported(phase v1alpha1.ActionPhase) actionStatus {
	s := statusOf(phase)
	s.Result = nil
	return s
}

// actions makes actions of one namespace and writes their statuses.
type actions struct {
	ns                   string
	author, mgr, gateway account
	made                 int
}

func newActions(t *testing.T) *actions {
	t.Helper()
	ns := harness.Cluster(t).Namespace(t)
	return &actions{ns: ns, author: person(t, ns, authors), mgr: manager(t), gateway: gateway(t)}
}

// create makes an action that the manager has brought into a state.
func (a *actions) create(t *testing.T, spec string, status actionStatus) *unstructured.Unstructured {
	t.Helper()
	a.made++
	o, err := a.author.of("epa", a.ns).Create(t.Context(), object(t, "epa", fmt.Sprintf("action-%d", a.made), spec), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o.Object["status"] = unstructuredStatus(t, status)
	if o, err = a.mgr.of("epa", a.ns).UpdateStatus(t.Context(), o, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return o
}

// write tries to bring an action into a state, without effect.
func (a *actions) write(t *testing.T, who account, o *unstructured.Unstructured, status actionStatus) error {
	t.Helper()
	o = o.DeepCopy()
	o.Object["status"] = unstructuredStatus(t, status)
	_, err := who.of("epa", a.ns).UpdateStatus(t.Context(), o, metav1.UpdateOptions{DryRun: dryRun})
	return err
}

func unstructuredStatus(t *testing.T, s actionStatus) map[string]any {
	t.Helper()
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// From every phase to every other: the gateway takes the steps of the table of transitions that are its own, and no other.
func TestTheStepsOfTheGateway(t *testing.T) {
	a := newActions(t)
	open := map[v1alpha1.ActionPhase]v1alpha1.ActionPhase{
		v1alpha1.ActionPending: v1alpha1.ActionSent, v1alpha1.ActionSent: v1alpha1.ActionRunning, v1alpha1.ActionRunning: "",
	}
	for _, from := range phases(t) {
		o := a.create(t, specs["epa"], statusOf(from))
		next, wasOpen := open[from]
		for _, to := range phases(t) {
			_, ends := outcomes[to]
			may := from == to || wasOpen && (to == next || ends)
			switch err := a.write(t, a.gateway, o, statusOf(to)); {
			case may && err != nil:
				t.Errorf("%s to %s: %v", from, to, err)
			case !may:
				refused(t, err, fmt.Sprintf("an action does not go from %s to %s", from, to))
			}
			if err := a.write(t, a.mgr, o, statusOf(to)); err != nil {
				t.Errorf("the manager, %s to %s: %v", from, to, err)
			}
		}
	}
}

const (
	admissionIsTheManagers = "status.admission is the manager's"
	othersAreTheManagers   = "cancellation, children and observedGeneration are the manager's"
	verifiedIsTheManagers  = "the condition ResultVerified is the manager's"
	notAdmitted            = "an action that the manager has not admitted is not sent"
	deliveredOnceSent      = "an action has a delivery once it was sent, and not before"
	deliveryStays          = "channel, gateway, sentTime and journalID are of the first delivery, and stay"
	endsTogether           = "finishTime comes with the end, and a result not before it"
	needsProof             = "what speaks for the agent needs the agent's proof"
	resultStays            = "a result never changes"
	endStays               = "after the end there is only a late result to write, and a message with it"
)

func conditionsOf(phase string) string {
	return "these are not the conditions of an action that is " + phase
}

// The gateway, by its own token, tries to write more than its step; the manager may.
func TestSectionsOfAnActionsStatus(t *testing.T) {
	const (
		pending, sent, running = v1alpha1.ActionPending, v1alpha1.ActionSent, v1alpha1.ActionRunning
		succeeded, failed      = v1alpha1.ActionSucceeded, v1alpha1.ActionFailed
		unknown                = v1alpha1.ActionUnknown
	)
	later := metav1.NewMicroTime(noon.Add(time.Minute))
	children := &v1alpha1.ActionChildren{Total: 3}
	unverified := metav1.Condition{Type: "ResultVerified", Status: metav1.ConditionFalse, Reason: "BadSignature", LastTransitionTime: metav1.NewTime(noon)}
	was := func(s actionStatus, change func(*actionStatus)) actionStatus { change(&s); return s }
	doubtful := was(statusOf(succeeded), func(s *actionStatus) { s.Conditions = append(s.Conditions, unverified) })
	fresh := actionStatus{ObservedGeneration: -1, Phase: pending}
	unadmitted := was(statusOf(pending), func(s *actionStatus) { s.Admission = nil })
	asked := was(statusOf(running), func(s *actionStatus) { s.Cancellation = ptr.To(signed("cancel")) })
	a := newActions(t)
	for _, tc := range []struct {
		name     string
		from, to actionStatus
		change   func(*actionStatus)
		refusal  string // empty: allowed to the gateway
	}{
		// what is the manager's
		{"admit", unadmitted, unadmitted, func(s *actionStatus) { s.Admission = statusOf(pending).Admission }, admissionIsTheManagers},
		{"admit and send", fresh, statusOf(sent), func(s *actionStatus) { s.ObservedGeneration = -1 }, admissionIsTheManagers},
		{"take the admission back", statusOf(pending), statusOf(pending), func(s *actionStatus) { s.Admission = nil }, admissionIsTheManagers},
		{"put another order there", statusOf(pending), statusOf(sent), func(s *actionStatus) { s.Admission.Order.Payload = []byte("{ }") }, admissionIsTheManagers},
		{"bind it to another machine", statusOf(pending), statusOf(sent), func(s *actionStatus) { s.Admission.IdentityID = "another" }, admissionIsTheManagers},
		{"give it more time", statusOf(pending), statusOf(sent), func(s *actionStatus) { s.Admission.ReportDeadline = metav1.NewTime(noon.Add(9 * time.Hour)) }, admissionIsTheManagers},
		{"order to cancel", statusOf(running), statusOf(running), func(s *actionStatus) { s.Cancellation = ptr.To(signed("cancel")) }, othersAreTheManagers},
		{"drop the order to cancel", asked, statusOf(running), func(*actionStatus) {}, othersAreTheManagers},
		{"count children", statusOf(sent), statusOf(sent), func(s *actionStatus) { s.Children = children }, othersAreTheManagers},
		{"claim to have looked", statusOf(pending), statusOf(sent), func(s *actionStatus) { s.ObservedGeneration = 2 }, othersAreTheManagers},
		{"vouch for a result", statusOf(sent), statusOf(succeeded), func(s *actionStatus) { s.Conditions = append(s.Conditions, condition("ResultVerified")) }, verifiedIsTheManagers},
		{"hide that a result is not to be believed", doubtful, statusOf(succeeded), func(*actionStatus) {}, verifiedIsTheManagers},

		// sending
		{"send what nobody admitted", unadmitted, statusOf(sent), func(s *actionStatus) { s.Admission = nil }, notAdmitted},
		{"end what nobody admitted", unadmitted, statusOf(failed), func(s *actionStatus) { s.Admission = nil }, notAdmitted},
		{"send without saying how", statusOf(pending), statusOf(sent), func(s *actionStatus) { s.Delivery = nil }, deliveredOnceSent},
		{"deliver what is not sent", statusOf(pending), statusOf(pending), func(s *actionStatus) { s.Delivery = statusOf(sent).Delivery }, deliveredOnceSent},
		{"forget that it was sent", statusOf(sent), statusOf(sent), func(s *actionStatus) { s.Delivery = nil }, deliveredOnceSent},
		{"forget that it was sent, at its end", statusOf(sent), statusOf(failed), func(s *actionStatus) { s.Delivery = nil }, deliveryStays},
		{"have it sent by another channel", statusOf(sent), statusOf(sent), func(s *actionStatus) { s.Delivery.Channel = v1alpha1.ChannelHeartbeat }, deliveryStays},
		{"have it sent by another gateway", statusOf(sent), statusOf(running), func(s *actionStatus) { s.Delivery.Gateway = "gw-other-aaaaa" }, deliveryStays},
		{"have it sent later", statusOf(sent), statusOf(sent), func(s *actionStatus) { s.Delivery.SentTime = later }, deliveryStays},
		{"have it sent into another journal", statusOf(running), statusOf(succeeded), func(s *actionStatus) { s.Delivery.JournalID = "0011" }, deliveryStays},
		{"acknowledge", statusOf(sent), statusOf(sent), func(s *actionStatus) { s.Delivery.AcknowledgedTime = &later }, ""},
		{"miss", statusOf(running), statusOf(running), func(s *actionStatus) { s.Delivery.MissingTime = &later }, ""},
		{"progress", statusOf(running), statusOf(running), func(s *actionStatus) { s.Progress, s.Message = "45%", "on its way" }, ""},

		// ends
		{"success without a result", statusOf(sent), unreported(succeeded), func(*actionStatus) {}, needsProof},
		{"success without a proof", statusOf(sent), statusOf(succeeded), func(s *actionStatus) { s.Result.Proof = nil }, needsProof},
		{"failure without a proof", statusOf(running), statusOf(failed), func(s *actionStatus) { s.Result.Proof = nil }, needsProof},
		{"the manager's Unknown", statusOf(sent), unreported(unknown), func(*actionStatus) {}, needsProof},
		{"an end before it was sent, without a proof", statusOf(pending), unreported(v1alpha1.ActionExpired), func(s *actionStatus) { s.Delivery = nil }, needsProof},
		{"success, where the agent reports a failure", statusOf(sent), statusOf(succeeded), func(s *actionStatus) { s.Result = result("Failed") }, "an agent that reports Failed does not make it Succeeded"},
		{"failure, where the agent reports success", statusOf(sent), statusOf(failed), func(s *actionStatus) { s.Result = result("Succeeded") }, "an agent that reports Succeeded does not make it Failed"},
		{"unknown, where the agent refused", statusOf(sent), statusOf(unknown), func(s *actionStatus) { s.Result = result("Refused") }, "an agent that reports Refused does not make it Unknown"},
		{"superseded, which is a refusal", statusOf(sent), statusOf(v1alpha1.ActionCancelled), func(s *actionStatus) { s.Result = result("Refused") }, ""},
		{"failed, where the agent refused", statusOf(sent), statusOf(failed), func(s *actionStatus) { s.Result = result("Refused") }, "an agent that reports Refused does not make it Failed"},
		{"an end without a time", statusOf(sent), statusOf(succeeded), func(s *actionStatus) { s.FinishTime = nil }, endsTogether},
		{"a time without an end", statusOf(sent), statusOf(running), func(s *actionStatus) { s.FinishTime = ptr.To(metav1.NewTime(noon)) }, endsTogether},
		{"a result before the end", statusOf(sent), statusOf(running), func(s *actionStatus) { s.Result = result("Succeeded") }, endsTogether},
		{"Complete while it runs", statusOf(sent), statusOf(running), func(s *actionStatus) { s.Conditions = append(s.Conditions, condition("Complete")) }, conditionsOf("Running")},
		{"Complete, and it failed", statusOf(sent), statusOf(failed), func(s *actionStatus) { s.Conditions = statusOf(succeeded).Conditions }, conditionsOf("Failed")},
		{"Failed, and it succeeded", statusOf(sent), statusOf(succeeded), func(s *actionStatus) { s.Conditions = statusOf(failed).Conditions }, conditionsOf("Succeeded")},
		{"no conditions", statusOf(sent), statusOf(succeeded), func(s *actionStatus) { s.Conditions = nil }, conditionsOf("Succeeded")},
		{"green, and it failed", statusOf(sent), statusOf(failed), func(s *actionStatus) { s.Conditions = s.Conditions[:1] }, conditionsOf("Failed")},
		{"a condition of its own", statusOf(sent), statusOf(running), func(s *actionStatus) { s.Conditions = append(s.Conditions, condition("Ready")) }, conditionsOf("Running")},
		{"a result for what was never sent", statusOf(pending), statusOf(succeeded), func(s *actionStatus) { s.Delivery = nil }, ""}, // etcd was restored

		// after the end
		{"a late result", unreported(unknown), statusOf(unknown), func(s *actionStatus) { s.Result, s.Message = result("Succeeded"), "reported after the end" }, ""},
		{"a late result without a proof", unreported(unknown), statusOf(unknown), func(s *actionStatus) { s.Result.Proof = nil }, needsProof},
		{"a late result, and the end is another", unreported(unknown), statusOf(succeeded), func(*actionStatus) {}, "an action does not go from Unknown to Succeeded"},
		{"another result", statusOf(failed), statusOf(failed), func(s *actionStatus) { s.Result.Reason = "Other" }, resultStays},
		{"another proof", statusOf(failed), statusOf(failed), func(s *actionStatus) { s.Result.Proof.Payload = []byte("{ }") }, resultStays},
		{"no result any more", statusOf(failed), unreported(failed), func(*actionStatus) {}, resultStays},
		{"another message", statusOf(failed), statusOf(failed), func(s *actionStatus) { s.Message = "nothing to see here" }, endStays},
		{"another time", statusOf(failed), statusOf(failed), func(s *actionStatus) { s.FinishTime = ptr.To(metav1.NewTime(noon.Add(time.Hour))) }, endStays},
		{"progress", statusOf(failed), statusOf(failed), func(s *actionStatus) { s.Progress = "100%" }, endStays},
		{"another delivery", statusOf(failed), statusOf(failed), func(s *actionStatus) { s.Delivery.MissingTime = &later }, endStays},
		{"another reason", statusOf(failed), statusOf(failed), func(s *actionStatus) { s.Conditions[0].Reason = "Other" }, endStays},
		{"a late result, and another time", unreported(unknown), statusOf(unknown), func(s *actionStatus) { s.FinishTime = ptr.To(metav1.NewTime(noon.Add(time.Hour))) }, endStays},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := a.create(t, specs["epa"], *tc.from.DeepCopy())
			to := *tc.to.DeepCopy()
			tc.change(&to)
			if err := a.write(t, a.gateway, o, to); tc.refusal != "" {
				refused(t, err, tc.refusal)
			} else if err != nil {
				t.Error(err)
			}
			if err := a.write(t, a.mgr, o, to); err != nil {
				t.Errorf("the manager: %v", err)
			}
		})
	}
}

// What was cancelled while it was Pending certainly does not leave the server.
func TestWhatWasCancelledIsNotSent(t *testing.T) {
	a := newActions(t)
	o := a.create(t, on("PerformHeartbeat", `cancel: true`), statusOf(v1alpha1.ActionPending))
	refused(t, a.write(t, a.gateway, o, statusOf(v1alpha1.ActionSent)), "an action that was cancelled is not sent")
	o = a.create(t, on("PerformHeartbeat", `cancel: true`), statusOf(v1alpha1.ActionSent))
	if err := a.write(t, a.gateway, o, statusOf(v1alpha1.ActionCancelled)); err != nil {
		t.Error(err)
	}
}

func TestAnActionWithASelectorIsTheManagers(t *testing.T) {
	a := newActions(t)
	o := a.create(t, `spec: {type: PerformHeartbeat, `+onLaptops+`}`, statusOf(v1alpha1.ActionPending))
	refused(t, a.write(t, a.gateway, o, statusOf(v1alpha1.ActionSent)), "an action with a selector is the manager's")
}

// What is not the status stays as it is, whatever a gateway sends along.
func TestTheGatewayWritesNothingButTheStatus(t *testing.T) {
	a := newActions(t)
	was := a.create(t, specs["epa"], statusOf(v1alpha1.ActionPending))
	o := was.DeepCopy()
	o.SetLabels(map[string]string{"a": "b"})
	o.SetAnnotations(map[string]string{v1alpha1.AnnotationRequestedBy: "mallory"})
	o.SetFinalizers([]string{"example.com/stay"})
	o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: "6f1ad7f4-52cf-4f0e-9f3a-0a6f5c4a1f5b"}})
	o.SetManagedFields(append(o.GetManagedFields(), bigFields("rollcall.dev/v1alpha1", 2000)...))
	o.Object["spec"] = map[string]any{"type": "RetrieveSupportFile", "endpointName": "other", "cancel": true}
	o.Object["status"] = unstructuredStatus(t, statusOf(v1alpha1.ActionSent))
	is, err := a.gateway.of("epa", a.ns).UpdateStatus(t.Context(), o, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []*unstructured.Unstructured{was, is} {
		unstructured.RemoveNestedField(o.Object, "status")
		unstructured.RemoveNestedField(o.Object, "metadata", "resourceVersion")
	}
	if n := len(asJSON(t, is.GetManagedFields())); n > 4096 {
		t.Errorf("a write of the status left managedFields of %d bytes", n)
	}
	was.SetManagedFields(nil)
	is.SetManagedFields(nil)
	if before, after := asJSON(t, was.Object), asJSON(t, is.Object); before != after {
		t.Errorf("a write of the status made\n%s\ninto\n%s", before, after)
	}
}

// Every write has the resourceVersion and the UID that were read: that is how races are decided.
func TestAStatusIsWrittenForWhatWasRead(t *testing.T) {
	a := newActions(t)
	o := a.create(t, specs["epa"], statusOf(v1alpha1.ActionPending))
	stale, another := o.DeepCopy(), o.DeepCopy()
	another.SetUID("6f1ad7f4-52cf-4f0e-9f3a-0a6f5c4a1f5b")
	o.Object["status"] = unstructuredStatus(t, statusOf(v1alpha1.ActionSent))
	if _, err := a.gateway.of("epa", a.ns).UpdateStatus(t.Context(), o, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]*unstructured.Unstructured{"stale": stale, "of another object": another} {
		if err := a.write(t, a.gateway, o, statusOf(v1alpha1.ActionSent)); !apierrors.IsConflict(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
