package action

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

const (
	fleetID  = "0f8fad5b-d9cb-469f-a165-70867728950e"
	machine  = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	stranger = "eeeeeeee-dddd-cccc-bbbb-aaaaaaaaaaaa"
	uid      = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
	journal  = "0123456789abcdef0123456789abcdef"
	gateway  = "gw-abcde-12345"
)

// noon is when the actions of these tests are created.
var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// keyOf is a key of its own for each name.
func keyOf(name string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte((name + strings.Repeat(".", ed25519.SeedSize))[:ed25519.SeedSize]))
}

func sealBy(key ed25519.PrivateKey) Seal {
	return func(t envelope.Type, m proto.Message) (v1alpha1.Envelope, error) {
		e, err := envelope.Seal(key, t, m)
		if err != nil {
			return v1alpha1.Envelope{}, err
		}
		return order.ToResource(e), nil
	}
}

func sealedBy(key ed25519.PrivateKey) func(v1alpha1.Envelope) bool {
	return func(e v1alpha1.Envelope) bool {
		return envelope.Verify(order.FromResource(e), envelope.Type(e.PayloadType), key.Public()) == nil
	}
}

// newAction was created at noon for devbox.
func newAction(kind v1alpha1.ActionType) *v1alpha1.EndpointAction {
	a := &v1alpha1.EndpointAction{
		ObjectMeta: metav1.ObjectMeta{Name: "stop-it", Namespace: "fleet", UID: uid, Generation: 1, CreationTimestamp: metav1.NewTime(noon)},
		Spec:       v1alpha1.EndpointActionSpec{Type: kind, EndpointName: "devbox"},
		Status:     v1alpha1.EndpointActionStatus{ObservedGeneration: -1, Phase: v1alpha1.ActionPending},
	}
	switch kind {
	case v1alpha1.TerminateProcess:
		a.Spec.TerminateProcess = &v1alpha1.TerminateProcessParameters{Executable: "/usr/bin/sleep"}
	case v1alpha1.SetEndpointProxy:
		a.Spec.SetEndpointProxy = &v1alpha1.SetEndpointProxyParameters{URL: "http://proxy:3128"}
	}
	return a
}

// newParent is one with a selector.
func newParent() *v1alpha1.EndpointAction {
	a := newAction(v1alpha1.PerformHeartbeat)
	a.Spec.EndpointName, a.Spec.Selector = "", &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{"a": "b"}}
	return a
}

// childOf is the child of a parent on an endpoint, named after it.
func childOf(parent *v1alpha1.EndpointAction, endpoint string) *v1alpha1.EndpointAction {
	a := newAction(parent.Spec.Type)
	a.Name, a.UID, a.Spec.EndpointName = endpoint, parent.UID[:len(parent.UID)-4]+"0000", v1alpha1.LocalName(endpoint)
	a.OwnerReferences = []metav1.OwnerReference{{Kind: "EndpointAction", Name: parent.Name, UID: parent.UID, Controller: ptr.To(true)}}
	return a
}

// devbox is online, over a websocket, and can do everything.
func devbox() *Endpoint {
	return &Endpoint{
		IdentityID: machine, Reported: true, AgentVersion: "8.0.0", JournalID: journal, JournalTime: noon.Add(-time.Hour),
		Capabilities: []v1alpha1.Text{
			"QuarantineFile", "RestoreFile", "TerminateProcess", "IsolateEndpoint", "CancelIsolation", "LiveTerminal", "SetEndpointProxy",
			"DisableEndpointProxy", "RetrieveFiles", "RetrieveSecurityEventData", "RetrieveSupportFile", "PerformHeartbeat",
		},
		Channel: v1alpha1.ChannelWebSocket, Online: true, LastSeen: noon.Add(-time.Minute), Interval: 5 * time.Minute,
	}
}

// lookAt is the manager's look at an action of an endpoint, so long after noon.
func lookAt(ep *Endpoint, after time.Duration) Look {
	return Look{Now: noon.Add(after), Endpoint: ep, FleetID: fleetID, Seal: sealBy(keyOf("orders")), SealedNow: sealedBy(keyOf("orders"))}
}

func sendTo(ep *Endpoint, after time.Duration) Send {
	return Send{Now: noon.Add(after), Channel: v1alpha1.ChannelWebSocket, Gateway: gateway, Endpoint: ep, JournalID: ep.JournalID}
}

func runs(after time.Duration) Progress { return Progress{Now: noon.Add(after), IdentityID: machine} }

// says is what the agent of devbox reports of an action, so long after noon.
func says(a *v1alpha1.EndpointAction, after time.Duration, outcome agentv1.Outcome, reason string) Result {
	m := &agentv1.ActionResult{
		FleetId: fleetID, IdentityId: machine, ActionUid: string(a.UID), Outcome: outcome, Reason: reason,
		FinishedAt: timestamppb.New(noon.Add(after - time.Second)),
	}
	if a.Status.Admission != nil {
		m.ActionDigest = Digest(a.Status.Admission.Order)
	}
	return signed(m, after)
}

func signed(m *agentv1.ActionResult, after time.Duration) Result {
	proof, err := sealBy(keyOf("devbox"))(envelope.Result, m)
	if err != nil {
		panic(err)
	}
	return Result{Now: noon.Add(after), IdentityID: machine, Says: m, Proof: proof}
}

// take has an event happen to an action, which must take a row of the table.
func take(t rapid.TB, a *v1alpha1.EndpointAction, e Event, row Arrow) *v1alpha1.EndpointAction {
	t.Helper()
	before := a.DeepCopy()
	status, got, err := Next(a, e)
	if err != nil || got != row {
		t.Fatalf("%T at %s takes row %q, %v, want row %q", e, a.Status.Phase, got, err, row)
	}
	if !equality.Semantic.DeepEqual(before, a) {
		t.Fatal("the action itself was changed")
	}
	after := a.DeepCopy()
	after.Status = *status
	check(t, a, after)
	return after
}

// refuses has an event happen that must not fit.
func refuses(t rapid.TB, a *v1alpha1.EndpointAction, e Event) {
	t.Helper()
	if status, row, err := Next(a, e); !errors.Is(err, ErrUnfit) || row != None || status != nil {
		t.Errorf("%T at %s takes row %q, %v, and does not fit", e, a.Status.Phase, row, err)
	}
}

func admitted(t rapid.TB, kind v1alpha1.ActionType) *v1alpha1.EndpointAction {
	t.Helper()
	return take(t, newAction(kind), lookAt(devbox(), 0), "2")
}

func sent(t rapid.TB, kind v1alpha1.ActionType) *v1alpha1.EndpointAction {
	t.Helper()
	return take(t, admitted(t, kind), sendTo(devbox(), time.Second), "8")
}

func running(t rapid.TB, kind v1alpha1.ActionType) *v1alpha1.EndpointAction {
	t.Helper()
	return take(t, sent(t, kind), runs(3*time.Second), "10")
}

// reasonFor is that of the one condition that says how an action stands.
func reasonFor(s *v1alpha1.EndpointActionStatus) string {
	for _, kind := range []string{v1alpha1.ConditionReconciling, v1alpha1.ConditionComplete, v1alpha1.ConditionFailed} {
		if c := meta.FindStatusCondition(s.Conditions, kind); c != nil {
			return c.Reason
		}
	}
	return ""
}
