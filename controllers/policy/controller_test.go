package policy

import (
	"crypto"
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	fleetID       = "7b1e3f4c-52a5-4a40-9c6b-0a5b7f0e4d11"
	patience      = 20 * time.Second
	countInterval = 200 * time.Millisecond
)

func key(seed string) crypto.Signer {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, ed25519.SeedSize)))
}

// world is a namespace with a manager that runs this controller alone.
type world struct {
	api    *harness.API
	ns     string
	person client.Client
	stop   func()
}

func start(t *testing.T) *world {
	t.Helper()
	api := harness.Cluster(t)
	ns := api.Namespace(t)
	w := &world{api: api, ns: ns, person: api.Person(t, ns).Client}
	w.run(t, key("a"))
	return w
}

func (w *world) run(t *testing.T, orders crypto.Signer) {
	t.Helper()
	w.stop = w.api.RunManager(t, w.ns, func(mgr ctrl.Manager) error {
		return Setup(mgr, Options{FleetID: fleetID, Orders: orders, CountInterval: countInterval})
	})
}

func (w *world) create(t *testing.T, name string, spec v1alpha1.EndpointPolicySpec) {
	t.Helper()
	if err := w.person.Create(t.Context(), &v1alpha1.EndpointPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}, Spec: spec}); err != nil {
		t.Fatal(err)
	}
}

// change changes the spec as a person would.
func (w *world) change(t *testing.T, name, spec string) {
	t.Helper()
	p := &v1alpha1.EndpointPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}
	if err := w.person.Patch(t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"spec":`+spec+`}`))); err != nil {
		t.Fatal(err)
	}
}

// observed waits until the manager has looked at the policy as it is now, and more.
func (w *world) observed(t *testing.T, name string, more func(*v1alpha1.EndpointPolicy) error) *v1alpha1.EndpointPolicy {
	t.Helper()
	p := &v1alpha1.EndpointPolicy{}
	harness.Eventually(t, patience, func() error {
		if err := w.person.Get(t.Context(), types.NamespacedName{Namespace: w.ns, Name: name}, p); err != nil {
			return err
		}
		if p.Status.ObservedGeneration != p.Generation {
			return fmt.Errorf("generation %d is not observed, %d is", p.Generation, p.Status.ObservedGeneration)
		}
		return more(p)
	})
	return p
}

func revision(n int64) func(*v1alpha1.EndpointPolicy) error {
	return func(p *v1alpha1.EndpointPolicy) error {
		if p.Status.Revision != n {
			return fmt.Errorf("revision %d, want %d", p.Status.Revision, n)
		}
		return nil
	}
}

// opened verifies the policy's order as an agent does.
func opened(t *testing.T, p *v1alpha1.EndpointPolicy, by crypto.Signer) *agentv1.Policy {
	t.Helper()
	got := &agentv1.Policy{}
	if err := envelope.Open(order.FromResource(*p.Status.Order), envelope.Policy, got, by.Public()); err != nil {
		t.Fatalf("the order of %s: %v", p.Name, err)
	}
	return got
}

func TestSigns(t *testing.T) {
	w := start(t)
	w.create(t, "demo", v1alpha1.EndpointPolicySpec{Heartbeat: &v1alpha1.HeartbeatPolicy{IntervalSeconds: ptr.To[int32](15)}})
	first := w.observed(t, "demo", revision(1))
	got := opened(t, first, key("a"))
	if got.GetFleetId() != fleetID || got.GetPolicyId() != string(first.UID) || got.GetRevision() != 1 || got.GetHeartbeatInterval().AsDuration() != 15*time.Second {
		t.Errorf("agents are told %v", got)
	}
	if c := meta.FindStatusCondition(first.Status.Conditions, v1alpha1.ConditionReady); c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != 1 {
		t.Errorf("Ready is %+v, want True", c)
	}

	w.change(t, "demo", `{"priority": 5, "selector": {"matchLabels": {"device": "laptop"}}}`)
	same := w.observed(t, "demo", revision(1))
	if string(same.Status.Order.Signatures[0].Sig) != string(first.Status.Order.Signatures[0].Sig) {
		t.Error("a change of selector and priority has it signed anew")
	}

	w.change(t, "demo", `{"logCollection": {"mode": "Disabled"}}`)
	second := w.observed(t, "demo", revision(2))
	if !opened(t, second, key("a")).GetLogCollectionDisabled() {
		t.Error("the new settings are not signed")
	}

	w.stop()
	w.run(t, key("b"))
	third := w.observed(t, "demo", revision(3))
	opened(t, third, key("b"))
}

func TestSaysWhatIsWrong(t *testing.T) {
	w := start(t)
	good := v1alpha1.EndpointPolicySpec{Upgrade: &v1alpha1.UpgradePolicy{Mode: "Automatic", Windows: []v1alpha1.MaintenanceWindow{{Start: "22:30", DurationMinutes: 60}}}}
	w.create(t, "demo", good)
	w.observed(t, "demo", revision(1))
	w.change(t, "demo", `{"upgrade": {"mode": "Automatic", "windows": [{"start": "22:30", "durationMinutes": 60, "timeZone": "Europe/Berln"}]}}`)
	p := w.observed(t, "demo", revision(1))
	stalled, ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionStalled), meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
	if stalled == nil || stalled.Status != metav1.ConditionTrue || ready.Status != metav1.ConditionFalse {
		t.Fatalf("conditions are %+v, want Stalled and not Ready", p.Status.Conditions)
	}
	for _, word := range []string{"spec.upgrade.windows[0]", "Europe/Berln", "revision 1"} {
		if !strings.Contains(ready.Message, word) {
			t.Errorf("the message %q does not name %q", ready.Message, word)
		}
	}
	t.Log(ready.Message)
	if p.Status.Order == nil {
		t.Error("what its endpoints obey was taken away")
	}

	w.change(t, "demo", `{"upgrade": {"mode": "Automatic", "windows": null}}`)
	p = w.observed(t, "demo", revision(2))
	if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionStalled); c != nil {
		t.Errorf("Stalled is still there: %+v", c)
	}

	bad := *good.DeepCopy()
	bad.Upgrade.Windows[0].TimeZone = "Nowhere"
	w.create(t, "never", bad)
	if p := w.observed(t, "never", revision(0)); p.Status.Order != nil {
		t.Error("a policy that cannot be obeyed is signed")
	}
}

func TestCounts(t *testing.T) {
	w := start(t)
	manager, gateway := w.api.Client(t, local.ManagerAccount), w.api.Client(t, local.GatewayAccount)
	w.create(t, "demo", v1alpha1.EndpointPolicySpec{})
	w.create(t, "other", v1alpha1.EndpointPolicySpec{})
	demo := w.observed(t, "demo", revision(1))
	w.observed(t, "other", revision(1))
	endpoint := func(name, policy string, online metav1.ConditionStatus, running int64) *v1alpha1.Endpoint {
		ep := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}
		if err := w.person.Create(t.Context(), ep); err != nil {
			t.Fatal(err)
		}
		patch := fmt.Sprintf(`{"status":{"policy":{"name":%q,"assignment":{"payloadType":"x","payload":"eA==","signatures":[{"sig":"eA=="}]}},
			"conditions":[{"type":"Online","status":%q,"reason":"R","message":"","lastTransitionTime":"2026-11-24T12:00:00Z"}]}}`, policy, online)
		if err := manager.Status().Patch(t.Context(), ep, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
			t.Fatal(err)
		}
		if running > 0 {
			patch := fmt.Sprintf(`[{"op":"add","path":"/status/agent","value":{"policyID":%q,"policyRevision":%d}}]`, demo.UID, running)
			if err := gateway.Status().Patch(t.Context(), ep, client.RawPatch(types.JSONPatchType, []byte(patch))); err != nil {
				t.Fatal(err)
			}
		}
		return ep
	}
	endpoint("a", "demo", metav1.ConditionTrue, 1)
	last := endpoint("b", "demo", metav1.ConditionTrue, 0)
	endpoint("c", "demo", metav1.ConditionFalse, 1)
	endpoint("d", "other", metav1.ConditionTrue, 1)
	counts := func(endpoints, online, drifted int32) func(*v1alpha1.EndpointPolicy) error {
		return func(p *v1alpha1.EndpointPolicy) error {
			if s := p.Status; *s.Endpoints != endpoints || *s.Online != online || *s.Drifted != drifted {
				return fmt.Errorf("%d endpoints, %d online, %d drifted; want %d, %d, %d", *s.Endpoints, *s.Online, *s.Drifted, endpoints, online, drifted)
			}
			return nil
		}
	}
	before := w.observed(t, "demo", counts(3, 2, 1))
	<-time.After(10 * countInterval)
	if after := w.observed(t, "demo", counts(3, 2, 1)); after.ResourceVersion != before.ResourceVersion {
		t.Error("counting without a change has written something")
	}
	if err := w.person.Delete(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	w.observed(t, "demo", counts(2, 1, 0))
	w.change(t, "demo", `{"logCollection": {"mode": "Disabled"}}`)
	w.observed(t, "demo", counts(2, 1, 2))
}
