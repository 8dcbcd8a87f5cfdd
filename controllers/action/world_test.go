package action

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	decide "github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/test/audit"
	"github.com/rollcall-dev/rollcall/test/harness"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	harness.Main(m)
}

const (
	fleetID  = "7b1e3f4c-52a5-4a40-9c6b-0a5b7f0e4d11"
	patience = 20 * time.Second
	journal  = "0123456789abcdef0123456789abcdef"
)

func orderKey(seed string) crypto.Signer {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, ed25519.SeedSize)))
}

// world is a namespace with a manager that runs this controller alone, under its own account, and a gateway that the test plays.
type world struct {
	api                      *harness.API
	name                     string
	person, manager, gateway client.Client
	// cached is what the manager that runs has read; nil if none has been.
	cached client.Reader
	// ahead is how much the manager's clock is ahead, in nanoseconds.
	ahead     atomic.Int64
	retention time.Duration
	stop      func()
	machines  map[string]machine
}

// machine is an agent's side: its key, and the identity that it has enrolled with.
type machine struct {
	key *ecdsa.PrivateKey
	id  string
}

func start(t *testing.T) *world {
	t.Helper()
	w := begin(t)
	w.run(t, orderKey("a"))
	return w
}

// begin is start without a manager.
func begin(t *testing.T) *world {
	t.Helper()
	api := harness.Cluster(t)
	name := api.Namespace(t)
	return &world{
		api: api, name: name, retention: 24 * time.Hour, machines: map[string]machine{},
		person: api.Person(t, name).Client, manager: api.Client(t, local.ManagerAccount), gateway: api.Client(t, local.GatewayAccount),
	}
}

func (w *world) run(t *testing.T, orders crypto.Signer) {
	t.Helper()
	w.stop = w.api.RunManager(t, w.name, func(mgr ctrl.Manager) error {
		w.cached = mgr.GetClient()
		return Setup(t.Context(), mgr, Options{
			FleetID: fleetID, Orders: orders, ChildRetention: w.retention,
			Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) },
		})
	})
}

// endpoint makes an Endpoint whose machine is connected by a websocket and can do every action, and changes its status. The manager knows of it.
func (w *world) endpoint(t *testing.T, name string, changes ...func(*v1alpha1.Endpoint)) *v1alpha1.Endpoint {
	t.Helper()
	ep := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: w.name, Name: name, Labels: map[string]string{"device": "laptop"}}}
	if err := w.manager.Create(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
	w.enrol(t, name)
	ep = w.change(t, name, append([]func(*v1alpha1.Endpoint){online(v1alpha1.ChannelWebSocket), func(ep *v1alpha1.Endpoint) {
		ep.Status.Agent = &v1alpha1.EndpointAgent{
			Version: "8.0.0", JournalID: journal, JournalTime: &metav1.MicroTime{Time: time.Now().Add(-time.Hour)},
			Capabilities: []v1alpha1.Text{"PerformHeartbeat", "TerminateProcess", "IsolateEndpoint", "CancelIsolation"},
		}
	}}, changes...)...)
	w.known(t, ep)
	return ep
}

// known waits until the manager knows an Endpoint as it is: what is asked for next is judged by it.
func (w *world) known(t *testing.T, ep *v1alpha1.Endpoint) {
	t.Helper()
	if w.cached == nil {
		return
	}
	harness.Eventually(t, patience, func() error {
		var known v1alpha1.Endpoint
		err := w.cached.Get(t.Context(), client.ObjectKeyFromObject(ep), &known)
		if err == nil && known.ResourceVersion != ep.ResourceVersion {
			err = fmt.Errorf("the manager knows version %q of %s, not %q", known.ResourceVersion, ep.Name, ep.ResourceVersion)
		}
		return err
	})
}

func online(channel v1alpha1.Channel) func(*v1alpha1.Endpoint) {
	return func(ep *v1alpha1.Endpoint) {
		status, now := metav1.ConditionTrue, metav1.Now()
		if channel == v1alpha1.ChannelNone {
			status = metav1.ConditionFalse
		}
		meta.SetStatusCondition(&ep.Status.Conditions, metav1.Condition{Type: v1alpha1.EndpointOnline, Status: status, Reason: "Test"})
		ep.Status.LastSeenTime = &now
		ep.Status.Connection = &v1alpha1.EndpointConnection{Channel: channel, SinceTime: &now, InstanceID: "one"}
	}
}

// enrol gives an Endpoint another machine.
func (w *world) enrol(t *testing.T, name string) {
	t.Helper()
	key := newKey(t)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	w.machines[name] = machine{key, uuid.NewString()}
	w.change(t, name, func(ep *v1alpha1.Endpoint) {
		ep.Status.Identity = &v1alpha1.EndpointIdentity{ID: w.machines[name].id, PublicKeys: [][]byte{spki}, EnrolledTime: metav1.Now()}
	})
}

// change changes the status of an Endpoint, as manager and gateway do.
func (w *world) change(t *testing.T, name string, changes ...func(*v1alpha1.Endpoint)) *v1alpha1.Endpoint {
	t.Helper()
	ep := &v1alpha1.Endpoint{}
	w.find(t, name, ep)
	before := ep.DeepCopy()
	for _, change := range changes {
		change(ep)
	}
	if err := w.manager.Status().Patch(t.Context(), ep, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	return ep
}

// declare changes the spec of an Endpoint, as people do, and the manager knows of it.
func (w *world) declare(t *testing.T, name string, spec v1alpha1.EndpointSpec) {
	t.Helper()
	ep := &v1alpha1.Endpoint{}
	w.find(t, name, ep)
	before := ep.DeepCopy()
	ep.Spec = spec
	if err := w.person.Patch(t.Context(), ep, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	w.known(t, ep)
}

func (w *world) find(t *testing.T, name string, o client.Object) {
	t.Helper()
	if err := w.person.Get(t.Context(), types.NamespacedName{Namespace: w.name, Name: name}, o); err != nil {
		t.Fatal(err)
	}
}

func (w *world) get(t *testing.T, name string) *v1alpha1.EndpointAction {
	t.Helper()
	a := &v1alpha1.EndpointAction{}
	w.find(t, name, a)
	return a
}

// ask creates an action on an endpoint.
func (w *world) ask(t *testing.T, name string, kind v1alpha1.ActionType, endpoint string, changes ...func(*v1alpha1.EndpointAction)) *v1alpha1.EndpointAction {
	t.Helper()
	a := &v1alpha1.EndpointAction{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.name, Name: name},
		Spec:       v1alpha1.EndpointActionSpec{Type: kind, EndpointName: v1alpha1.LocalName(endpoint)},
	}
	if kind == v1alpha1.TerminateProcess {
		a.Spec.TerminateProcess = &v1alpha1.TerminateProcessParameters{Executable: "/usr/bin/sleep"}
	}
	for _, change := range changes {
		change(a)
	}
	if err := w.person.Create(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) cancel(t *testing.T, name string) {
	t.Helper()
	w.touch(t, name, `{"spec":{"cancel":true}}`)
}

// touch patches an action as a person; with a new annotation the manager looks at it again.
func (w *world) touch(t *testing.T, name, patch string) {
	t.Helper()
	a := &v1alpha1.EndpointAction{ObjectMeta: metav1.ObjectMeta{Namespace: w.name, Name: name}}
	if err := w.person.Patch(t.Context(), a, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		t.Fatal(err)
	}
}

// later moves the manager's clock, and has it look at an action.
func (w *world) later(t *testing.T, name string, d time.Duration) {
	t.Helper()
	w.ahead.Add(int64(d))
	w.touch(t, name, fmt.Sprintf(`{"metadata":{"annotations":{"ahead":"%d"}}}`, w.ahead.Load()))
}

// until waits until an action is as it should be.
func (w *world) until(t *testing.T, name string, check func(*v1alpha1.EndpointAction) error) (a *v1alpha1.EndpointAction) {
	t.Helper()
	harness.Eventually(t, patience, func() error {
		a = &v1alpha1.EndpointAction{}
		if err := w.person.Get(t.Context(), types.NamespacedName{Namespace: w.name, Name: name}, a); err != nil {
			return err
		}
		return check(a)
	})
	return a
}

// is waits until an action has a phase for a reason.
func (w *world) is(t *testing.T, name string, phase v1alpha1.ActionPhase, reason string) *v1alpha1.EndpointAction {
	t.Helper()
	return w.until(t, name, func(a *v1alpha1.EndpointAction) error {
		if a.Status.Phase != phase || reasonOf(a) != reason {
			return fmt.Errorf("%s is %s/%s (%s), want %s/%s", name, a.Status.Phase, reasonOf(a), a.Status.Message, phase, reason)
		}
		return nil
	})
}

// reasonOf is why an action is in its phase.
func reasonOf(a *v1alpha1.EndpointAction) string {
	for _, kind := range []string{v1alpha1.ConditionComplete, v1alpha1.ConditionFailed, v1alpha1.ConditionReconciling} {
		if c := meta.FindStatusCondition(a.Status.Conditions, kind); c != nil && c.Status == metav1.ConditionTrue {
			return c.Reason
		}
	}
	return ""
}

// admitted waits until an action may be sent.
func (w *world) admitted(t *testing.T, name string) *v1alpha1.EndpointAction {
	t.Helper()
	return w.until(t, name, func(a *v1alpha1.EndpointAction) error {
		if a.Status.Admission == nil {
			return fmt.Errorf("%s is not admitted: %s", name, a.Status.Message)
		}
		return nil
	})
}

// gone waits until an action is deleted.
func (w *world) gone(t *testing.T, name string) {
	t.Helper()
	harness.Eventually(t, patience, func() error {
		err := w.person.Get(t.Context(), types.NamespacedName{Namespace: w.name, Name: name}, &v1alpha1.EndpointAction{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("%s is still there", name))
	})
}

// move does to an action what a gateway does: it asks the table, and writes what it answers under the resourceVersion.
func (w *world) move(t *testing.T, name string, event func(*v1alpha1.EndpointAction) decide.Event) decide.Arrow {
	t.Helper()
	var row decide.Arrow
	harness.Eventually(t, patience, func() error {
		a := w.get(t, name)
		status, arrow, err := decide.Next(a, event(a))
		if err != nil || arrow == decide.None {
			return fmt.Errorf("nothing comes of it: %w", err)
		}
		a.Status, row = *status, arrow
		return w.gateway.Status().Update(t.Context(), a)
	})
	return row
}

// send is row 8: from here on the agent may have it.
func (w *world) send(t *testing.T, name string) {
	t.Helper()
	w.admitted(t, name)
	w.move(t, name, func(a *v1alpha1.EndpointAction) decide.Event {
		ep := &v1alpha1.Endpoint{}
		w.find(t, string(a.Spec.EndpointName), ep)
		facts := own(ep)
		return decide.Send{Now: time.Now(), Channel: v1alpha1.ChannelWebSocket, Gateway: "gw-test0-00000", Endpoint: &facts, JournalID: journal}
	})
}

// result is what an agent signs about an action.
func result(a *v1alpha1.EndpointAction, outcome agentv1.Outcome, reason string) *agentv1.ActionResult {
	digest := sha256.Sum256(a.Status.Admission.Order.Payload)
	now := timestamppb.Now()
	return &agentv1.ActionResult{
		FleetId: fleetID, IdentityId: a.Status.Admission.IdentityID, ActionUid: string(a.UID), ActionDigest: hex.EncodeToString(digest[:]),
		Outcome: outcome, Reason: reason, Message: "as it should be", StartedAt: now, FinishedAt: now,
	}
}

// report has the agent of an action report, and the gateway write it.
func (w *world) report(t *testing.T, name string, outcome agentv1.Outcome, reason string) decide.Arrow {
	t.Helper()
	return w.move(t, name, func(a *v1alpha1.EndpointAction) decide.Event {
		m := w.machines[string(a.Spec.EndpointName)]
		return reported(t, m.key, result(a, outcome, reason))
	})
}

func reported(t *testing.T, key crypto.Signer, says *agentv1.ActionResult) decide.Result {
	t.Helper()
	proof, err := envelope.Seal(key, envelope.Result, says)
	if err != nil {
		t.Fatal(err)
	}
	return decide.Result{Now: time.Now(), IdentityID: says.GetIdentityId(), Says: says, Proof: order.ToResource(proof)}
}

// succeed takes an action through a good end.
func (w *world) succeed(t *testing.T, name string) {
	t.Helper()
	w.send(t, name)
	w.report(t, name, agentv1.Outcome_OUTCOME_SUCCEEDED, "Done")
}

// told waits until exactly these Events are there of an object.
func (w *world) told(t *testing.T, name string, want ...string) (all []eventsv1.Event) {
	t.Helper()
	harness.Eventually(t, patience, func() error {
		var list eventsv1.EventList
		if err := w.person.List(t.Context(), &list, client.InNamespace(w.name)); err != nil {
			return err
		}
		all = nil
		var got []string
		for _, e := range list.Items {
			if e.Regarding.Name == name {
				all, got = append(all, e), append(got, e.Type+" "+e.Reason)
			}
		}
		if strings.Join(got, ", ") != strings.Join(want, ", ") {
			return fmt.Errorf("the events of %s are %q, want %q", name, got, want)
		}
		return nil
	})
	return all
}

// writes counts what was written to an object, by account.
func (w *world) writes(t *testing.T, name string) (byManager, byGateway int) {
	t.Helper()
	err := audit.Read(w.api.AuditLog, func(e audit.Event) {
		if !e.Wrote() || e.ObjectRef.Namespace != w.name || e.ObjectRef.Name != name || e.ObjectRef.Resource != "endpointactions" {
			return
		}
		switch e.By() {
		case audit.Manager:
			byManager++
		case audit.Gateway:
			byGateway++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return byManager, byGateway
}

// children of an action, in the order of their names.
func (w *world) children(t *testing.T, parent string) (children []*v1alpha1.EndpointAction) {
	t.Helper()
	var list v1alpha1.EndpointActionList
	if err := w.person.List(context.Background(), &list, client.InNamespace(w.name), client.MatchingLabels{v1alpha1.LabelParent: string(w.get(t, parent).UID)}); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		children = append(children, &list.Items[i])
	}
	sortByName(children)
	return children
}
