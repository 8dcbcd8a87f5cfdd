package api_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

// machine is the agent's side of these tests.
var machine = action.Endpoint{
	IdentityID: "6f1ad7f4-52cf-4f0e-9f3a-0a6f5c4a1f5b", Reported: true, AgentVersion: "8.0.0", Capabilities: []v1alpha1.Text{"PerformHeartbeat"},
	JournalID: "ffeeddccbbaa99887766554433221100", JournalTime: noon, Channel: v1alpha1.ChannelWebSocket, Online: true, Interval: 5 * time.Minute,
}

func seal(t envelope.Type, m proto.Message) (v1alpha1.Envelope, error) {
	e, err := envelope.Seal(ed25519.NewKeyFromSeed(bytes.Repeat([]byte("."), ed25519.SeedSize)), t, m)
	if err != nil {
		return v1alpha1.Envelope{}, err
	}
	return order.ToResource(e), nil
}

// life is an action whose every step is written to the API server by the account that takes it.
type life struct {
	*testing.T
	*actions
	object *unstructured.Unstructured
}

func (l *life) now(after time.Duration) time.Time { return l.object.GetCreationTimestamp().Add(after) }

func (l *life) look(after time.Duration) action.Look {
	return action.Look{Now: l.now(after), Endpoint: &machine, FleetID: "0f8fad5b-d9cb-469f-a165-70867728950e", Seal: seal}
}

func (l *life) send(after time.Duration) action.Send {
	return action.Send{Now: l.now(after), Channel: machine.Channel, Gateway: "gw-5c9d7-x2k7q", Endpoint: &machine, JournalID: machine.JournalID}
}

func (l *life) progress(after time.Duration, percent uint32) action.Progress {
	return action.Progress{Now: l.now(after), IdentityID: machine.IdentityID, Percent: percent}
}

func (l *life) reports(after time.Duration, outcome agentv1.Outcome, reason string) action.Result {
	l.Helper()
	says := &agentv1.ActionResult{
		IdentityId: machine.IdentityID, ActionUid: string(l.object.GetUID()), ActionDigest: action.Digest(l.action().Status.Admission.Order), Outcome: outcome, Reason: reason,
	}
	proof, err := seal(envelope.Result, says)
	if err != nil {
		l.Fatal(err)
	}
	return action.Result{Now: l.now(after), IdentityID: machine.IdentityID, Says: says, Proof: proof}
}

func (l *life) action() *v1alpha1.EndpointAction {
	l.Helper()
	a := &v1alpha1.EndpointAction{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(l.object.Object, a); err != nil {
		l.Fatal(err)
	}
	return a
}

// takes has an event happen, which must take a row of the table, and who writes what comes of it.
func (l *life) takes(who account, row action.Arrow, e action.Event) {
	l.Helper()
	status, got, err := action.Next(l.action(), e)
	if err != nil || got != row {
		l.Fatalf("%T takes row %q, %v; want row %q", e, got, err, row)
	}
	l.object.Object["status"] = unstructuredStatus(l.T, *status)
	if l.object, err = who.of("epa", l.ns).UpdateStatus(l.Context(), l.object, metav1.UpdateOptions{}); err != nil {
		l.Fatalf("row %s: %v", row, err)
	}
}

// What the table of transitions has manager and gateway do, their accounts may do: every row that the gateway takes, on the real API server.
func TestTheAccountsMayTakeTheirRows(t *testing.T) {
	a := newActions(t)
	const (
		succeeded, failed, unknown = agentv1.Outcome_OUTCOME_SUCCEEDED, agentv1.Outcome_OUTCOME_FAILED, agentv1.Outcome_OUTCOME_UNKNOWN
		cancelled, refused         = agentv1.Outcome_OUTCOME_CANCELLED, agentv1.Outcome_OUTCOME_REFUSED
	)
	sent := func(l *life) {
		l.takes(a.mgr, "2", l.look(time.Second))
		l.takes(a.gateway, "8", l.send(2*time.Second))
	}
	ends := func(row action.Arrow, outcome agentv1.Outcome, reason string) func(*life) {
		return func(l *life) {
			sent(l)
			l.takes(a.gateway, row, l.reports(3*time.Second, outcome, reason))
		}
	}
	for name, live := range map[string]func(*life){
		"every step": func(l *life) {
			sent(l)
			l.takes(a.gateway, "10", l.progress(5*time.Second, 0))
			l.takes(a.gateway, "11", l.progress(time.Minute, 45))
			l.takes(a.gateway, "19a", action.Missing{Now: l.now(2 * time.Minute), IdentityID: machine.IdentityID})
			l.takes(a.gateway, "12", l.reports(3*time.Minute, succeeded, "Done"))
		},
		"succeeded":   ends("12", succeeded, "Done"),
		"failed":      ends("13", failed, "TimedOut"),
		"too late":    ends("14", refused, "PastDeadline"),
		"unsupported": ends("15", refused, "Unsupported"),
		"superseded":  ends("16", refused, "Superseded"),
		"interrupted": ends("18", unknown, "Interrupted"),
		"cancelled": func(l *life) {
			sent(l)
			spec, _ := l.object.Object["spec"].(map[string]any)
			spec["cancel"] = true
			var err error
			if l.object, err = a.author.of("epa", a.ns).Update(l.Context(), l.object, metav1.UpdateOptions{}); err != nil {
				l.Fatal(err)
			}
			l.takes(a.mgr, "17", l.look(3*time.Second))
			l.takes(a.gateway, "16", l.reports(4*time.Second, cancelled, "CancelledByUser"))
		},
		"too late a report": func(l *life) {
			sent(l)
			l.takes(a.mgr, "19", l.look(24*time.Hour))
			l.takes(a.gateway, "21", l.reports(25*time.Hour, succeeded, "Done"))
		},
		"restored": func(l *life) {
			l.takes(a.mgr, "2", l.look(time.Second))
			l.takes(a.gateway, "23", l.reports(2*time.Second, succeeded, "Done"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a.made++
			o, err := a.author.of("epa", a.ns).Create(t.Context(), object(t, "epa", fmt.Sprintf("action-%d", a.made), specs["epa"]), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			live(&life{T: t, actions: a, object: o})
		})
	}
}

// Looking at all of the largest action does not cost more than the API server lets a policy spend.
func TestTheLargestActionCanBeWritten(t *testing.T) {
	a := newActions(t)
	large := func(e *v1alpha1.Envelope) {
		e.Payload = bytes.Repeat([]byte("a"), 32<<10)
		e.Signatures = []v1alpha1.EnvelopeSignature{e.Signatures[0], e.Signatures[0], e.Signatures[0], e.Signatures[0]}
	}
	from := statusOf(v1alpha1.ActionRunning)
	large(&from.Admission.Order)
	from.Cancellation = ptr.To(signed("cancel"))
	large(from.Cancellation)
	to := statusOf(v1alpha1.ActionSucceeded)
	to.Admission, to.Cancellation = from.Admission, from.Cancellation
	large(to.Result.Proof)
	for i := range 64 {
		to.Result.Artifacts = append(to.Result.Artifacts, v1alpha1.Artifact{Name: fmt.Sprintf("%0128d", i), Path: fmt.Sprintf("%0256d", i), SHA256: digest})
	}
	for i := range 16 {
		to.Result.Processes = append(to.Result.Processes, v1alpha1.TerminatedProcess{PID: int64(i), Executable: fmt.Sprintf("%0256d", i)})
	}
	o := a.create(t, specs["epa"], from)
	if err := a.write(t, a.gateway, o, to); err != nil {
		t.Error(err)
	}
	// Written again it is compared whole.
	o = a.create(t, specs["epa"], to)
	if err := a.write(t, a.gateway, o, to); err != nil {
		t.Error(err)
	}
}
