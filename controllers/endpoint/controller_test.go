package endpoint

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
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
	fleetID  = "7b1e3f4c-52a5-4a40-9c6b-0a5b7f0e4d11"
	patience = 20 * time.Second
	lease    = 500 * time.Millisecond
	grace    = 3 * time.Second
)

func key(seed string) crypto.Signer {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, ed25519.SeedSize)))
}

// lives are gateways that are alive since from, and until end if it is set. The real ones are watched in controllers/gateways.
type lives struct {
	mu        sync.Mutex
	from, end time.Time
}

func (g *lives) Listened() (from, to time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if to = time.Now(); !g.end.IsZero() {
		to = g.end
	}
	return g.from, to
}

func (g *lives) Missing(time.Time) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.end
}

func (g *lives) set(from, end time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.from, g.end = from, end
}

// namespace with a manager that runs this controller alone, under its own account.
type namespace struct {
	api                      *harness.API
	name                     string
	person, manager, gateway client.Client
	gateways                 *lives
	stop                     func()
}

func start(t *testing.T) *namespace {
	t.Helper()
	api := harness.Cluster(t)
	name := api.Namespace(t)
	n := &namespace{
		api: api, name: name, gateways: &lives{from: time.Now().Add(-time.Hour)},
		person: api.Person(t, name).Client, manager: api.Client(t, local.ManagerAccount), gateway: api.Client(t, local.GatewayAccount),
	}
	n.run(t, key("a"))
	return n
}

func (n *namespace) run(t *testing.T, orders crypto.Signer) {
	t.Helper()
	n.stop = n.api.RunManager(t, n.name, func(mgr ctrl.Manager) error {
		return Setup(mgr, Options{
			FleetID: fleetID, Orders: orders, Gateways: n.gateways, GatewayLease: lease, GatewayGrace: grace,
			CertificateExpiring: 120 * time.Hour, RenewalGrace: 720 * time.Hour,
		})
	})
}

// enrolled makes an Endpoint as an enrolment does.
func (n *namespace) enrolled(t *testing.T, name string, labels map[string]string) {
	t.Helper()
	ep := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: n.name, Name: name, Labels: labels}}
	if err := n.manager.Create(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
	spki := base64.StdEncoding.EncodeToString([]byte("key of " + name))
	status := fmt.Sprintf(`{"status":{"identity":{"id":"id-of-%s","publicKeys":[%q],"enrolledTime":%q,"certificateExpirationTime":%q}}}`,
		name, spki, stamp(time.Now()), stamp(time.Now().Add(720*time.Hour)))
	if err := n.manager.Status().Patch(t.Context(), ep, client.RawPatch(types.MergePatchType, []byte(status))); err != nil {
		t.Fatal(err)
	}
	if err := n.manager.Patch(t.Context(), ep, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"managedFields":[{}]}}`))); err != nil {
		t.Fatal(err)
	}
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// blockMap is what gateways write of a status.
type blockMap map[string]map[string]any

// heard writes blocks of an Endpoint's status as a gateway does, and when it was seen.
func (n *namespace) heard(t *testing.T, name string, blocks blockMap) time.Time {
	t.Helper()
	seen := time.Now().Truncate(time.Second)
	n.write(t, name, blocks, operation{"add", "/status/lastSeenTime", stamp(seen)})
	return seen
}

// operation of a JSON Patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// write writes blocks of an Endpoint's status as a gateway does.
func (n *namespace) write(t *testing.T, name string, blocks blockMap, patch ...operation) {
	t.Helper()
	for block, value := range blocks {
		patch = append(patch, operation{"add", "/status/" + block, value})
	}
	text, err := json.Marshal(patch)
	if err != nil {
		t.Fatal(err)
	}
	ep := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: n.name, Name: name}}
	if err := n.gateway.Status().Patch(t.Context(), ep, client.RawPatch(types.JSONPatchType, text)); err != nil {
		t.Fatal(err)
	}
}

func beat(epoch int) blockMap {
	return blockMap{"connection": {"channel": "Heartbeat", "epoch": epoch, "instanceID": "one", "sessionNumber": 1, "sinceTime": stamp(time.Now())}}
}

func (n *namespace) get(t *testing.T, name string) *v1alpha1.Endpoint {
	t.Helper()
	ep := &v1alpha1.Endpoint{}
	if err := n.person.Get(t.Context(), types.NamespacedName{Namespace: n.name, Name: name}, ep); err != nil {
		t.Fatal(err)
	}
	return ep
}

// is waits until an Endpoint is summed up in one word.
func (n *namespace) is(t *testing.T, name, summary string) *v1alpha1.Endpoint {
	t.Helper()
	return n.until(t, name, func(ep *v1alpha1.Endpoint) error {
		if ep.Status.Summary != summary {
			return fmt.Errorf("%s is %q (%s), want %q", name, ep.Status.Summary, ep.Status.Message, summary)
		}
		return nil
	})
}

func (n *namespace) until(t *testing.T, name string, check func(*v1alpha1.Endpoint) error) (ep *v1alpha1.Endpoint) {
	t.Helper()
	harness.Eventually(t, patience, func() error {
		ep = n.get(t, name)
		return check(ep)
	})
	return ep
}

// policy makes a signed EndpointPolicy, as its controller does.
func (n *namespace) policy(t *testing.T, name string, spec v1alpha1.EndpointPolicySpec) *v1alpha1.EndpointPolicy {
	t.Helper()
	p := &v1alpha1.EndpointPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: n.name, Name: name}, Spec: spec}
	if err := n.person.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	n.sign(t, p)
	return p
}

func (n *namespace) sign(t *testing.T, p *v1alpha1.EndpointPolicy) {
	t.Helper()
	before := p.DeepCopy()
	p.Status.Revision, p.Status.Order = p.Status.Revision+1, signed(&p.Spec, string(p.UID), p.Status.Order)
	if err := n.manager.Status().Patch(t.Context(), p, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

func every(seconds, missed int32) v1alpha1.EndpointPolicySpec {
	return v1alpha1.EndpointPolicySpec{Heartbeat: &v1alpha1.HeartbeatPolicy{IntervalSeconds: &seconds, Missed: &missed}}
}

// assignment verifies what an agent is told, as the agent does.
func assignment(t *testing.T, ep *v1alpha1.Endpoint, by crypto.Signer) *agentv1.Assignment {
	t.Helper()
	a := &agentv1.Assignment{}
	if err := envelope.Open(order.FromResource(ep.Status.Policy.Assignment), envelope.Assignment, a, by.Public()); err != nil {
		t.Fatal(err)
	}
	return a
}

// watch remembers every summary that a watch shows, with the time of the first.
func (n *namespace) watch(t *testing.T) func(name, summary string) (time.Time, bool) {
	t.Helper()
	c, err := client.NewWithWatch(n.api.Admin, client.Options{Scheme: n.person.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	w, err := c.Watch(t.Context(), &v1alpha1.EndpointList{}, client.InNamespace(n.name))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]time.Time{}
	var done sync.WaitGroup
	done.Go(func() {
		for e := range w.ResultChan() {
			if ep, ok := e.Object.(*v1alpha1.Endpoint); ok {
				mu.Lock()
				if k := ep.Name + "/" + ep.Status.Summary; seen[k].IsZero() {
					seen[k] = time.Now()
				}
				mu.Unlock()
			}
		}
	})
	t.Cleanup(func() { w.Stop(); done.Wait() })
	return func(name, summary string) (time.Time, bool) {
		mu.Lock()
		defer mu.Unlock()
		at := seen[name+"/"+summary]
		return at, !at.IsZero()
	}
}

func TestLife(t *testing.T) {
	n := start(t)
	seen := n.watch(t)
	n.policy(t, "demo", every(1, 3))
	if err := n.person.Create(t.Context(), &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: n.name, Name: "declared"}}); err != nil {
		t.Fatal(err)
	}
	n.is(t, "declared", "NotEnrolled")
	n.enrolled(t, "laptop", nil)
	n.is(t, "laptop", "Unknown")

	contact := n.heard(t, "laptop", beat(1))
	offline := n.is(t, "laptop", "Offline")
	if _, was := seen("laptop", "Online"); !was {
		t.Error("it was never there")
	}
	at, _ := seen("laptop", "Offline")
	if early := contact.Add(4 * time.Second).Sub(at); early > 0 {
		t.Errorf("offline %s before its deadline", early)
	}
	if late := at.Sub(contact.Add(5 * time.Second)); late > 2*time.Second {
		t.Errorf("offline %s after its deadline", late)
	}
	if c := offline.Status.Connection; c.Channel != v1alpha1.ChannelNone || c.InstanceID != "one" || c.Epoch != 1 || time.Since(c.SinceTime.Time) > patience {
		t.Errorf("its connection is %+v", c)
	}
	if want := "last heartbeat " + clock(contact) + ", at least 3 missed"; offline.Status.Message != want {
		t.Errorf("%q, want %q", offline.Status.Message, want)
	}

	blocks := beat(1)
	blocks["agent"] = map[string]any{"version": "8.0.0", "policyID": string(n.getPolicy(t, "demo").UID), "policyRevision": 1}
	blocks["inventory"] = map[string]any{"os": map[string]any{"name": "Debian GNU/Linux", "arch": "amd64"}}
	n.heard(t, "laptop", blocks)
	online := n.is(t, "laptop", "Online")
	n.until(t, "laptop", func(ep *v1alpha1.Endpoint) error {
		if ep.Labels[labelOS] != "debian-gnu-linux" || ep.Labels[labelArch] != "amd64" {
			return fmt.Errorf("labels are %v", ep.Labels)
		}
		return nil
	})
	if m := n.get(t, "laptop").ManagedFields; len(m) > 0 {
		t.Errorf("managedFields came back: %v", m)
	}
	if online.Status.ObservedGeneration != online.Generation {
		t.Errorf("generation %d is observed, it is %d", online.Status.ObservedGeneration, online.Generation)
	}
	harness.Eventually(t, patience, func() error { return n.told(t, "laptop", "Online", "Offline", "Online") })
}

func (n *namespace) getPolicy(t *testing.T, name string) *v1alpha1.EndpointPolicy {
	t.Helper()
	p := &v1alpha1.EndpointPolicy{}
	if err := n.person.Get(t.Context(), types.NamespacedName{Namespace: n.name, Name: name}, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// told compares the reasons of all Events of an Endpoint; the order of what came within a second is not known.
func (n *namespace) told(t *testing.T, name string, want ...string) error {
	var list eventsv1.EventList
	if err := n.api.Client(t, "").List(t.Context(), &list, client.InNamespace(n.name)); err != nil {
		return err
	}
	count := map[string]int{}
	for _, e := range list.Items {
		if e.Regarding.Name == name {
			count[e.Reason]++
			if e.Series != nil {
				count[e.Reason] += int(e.Series.Count) - 1
			}
		}
	}
	for _, w := range want {
		count[w]--
	}
	for reason, n := range count {
		if n != 0 {
			return fmt.Errorf("%d events %s too many or too few; want %v", n, reason, want)
		}
	}
	return nil
}

// Heartbeats that change nothing cost the manager no write.
func TestQuietHeartbeatsCostNothing(t *testing.T) {
	n := start(t)
	p := n.policy(t, "demo", every(300, 3))
	n.enrolled(t, "laptop", nil)
	blocks := beat(1)
	blocks["agent"] = map[string]any{"version": "8.0.0", "policyID": string(p.UID), "policyRevision": 1}
	n.heard(t, "laptop", blocks)
	n.is(t, "laptop", "Online")
	settled := func() string {
		var version string
		quiet := 0
		harness.Eventually(t, patience, func() error {
			if v := n.get(t, "laptop").ResourceVersion; v != version {
				version, quiet = v, 0
			}
			if quiet++; quiet < 20 {
				return errors.New("it is written again and again")
			}
			return nil
		})
		return version
	}
	settled()
	for range 3 {
		n.heard(t, "laptop", nil)
		after := n.get(t, "laptop").ResourceVersion
		if got := settled(); got != after {
			t.Errorf("a heartbeat made the manager write: version %s became %s", after, got)
		}
	}
}

func TestAssignsPolicies(t *testing.T) {
	n := start(t)
	n.enrolled(t, "laptop", map[string]string{"device": "laptop"})
	n.enrolled(t, "server", map[string]string{"device": "server"})
	obeys := func(name, want string) *v1alpha1.Endpoint {
		t.Helper()
		return n.until(t, name, func(ep *v1alpha1.Endpoint) error {
			if ep.Status.Policy == nil || string(ep.Status.Policy.Name) != want {
				return fmt.Errorf("%s obeys %+v, want %q", name, ep.Status.Policy, want)
			}
			return nil
		})
	}
	ep := obeys("laptop", "")
	if ep.Status.Policy.OfflineAfterSeconds != 1200 {
		t.Errorf("by the defaults it is offline after %d s", ep.Status.Policy.OfflineAfterSeconds)
	}
	first := assignment(t, ep, key("a"))
	if first.GetPolicyId() != "" || first.GetNamespace() != n.name || first.GetIdentityId() != "id-of-laptop" || first.GetFleetId() != fleetID {
		t.Errorf("it is told %v", first)
	}

	all := n.policy(t, "all", every(60, 3))
	issued := first.GetIssuedAt().AsTime()
	next := func(ep *v1alpha1.Endpoint, id types.UID) {
		t.Helper()
		a := assignment(t, ep, key("a"))
		if a.GetPolicyId() != string(id) || !a.GetIssuedAt().AsTime().After(issued) {
			t.Errorf("it is told %v after %s, want policy %s", a, issued, id)
		}
		issued = a.GetIssuedAt().AsTime()
	}
	next(obeys("laptop", "all"), all.UID)
	obeys("server", "all")
	server := n.get(t, "server")

	// one that a selector narrows, with a higher priority: the server is not even written
	spec := every(60, 3)
	spec.Priority, spec.Selector = ptr.To[int32](10), &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{"device": "laptop"}}
	laptops := n.policy(t, "laptops", spec)
	next(obeys("laptop", "laptops"), laptops.UID)

	// it stops selecting
	before := laptops.DeepCopy()
	laptops.Spec.Selector.MatchLabels["device"] = "tablet"
	if err := n.person.Patch(t.Context(), laptops, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	next(obeys("laptop", "all"), all.UID)

	// people change labels
	laptop := n.get(t, "laptop")
	if err := n.person.Patch(t.Context(), laptop, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"device":"tablet"}}}`))); err != nil {
		t.Fatal(err)
	}
	next(obeys("laptop", "laptops"), laptops.UID)

	// and it is deleted
	if err := n.person.Delete(t.Context(), laptops); err != nil {
		t.Fatal(err)
	}
	next(obeys("laptop", "all"), all.UID)
	if now := n.get(t, "server"); now.ResourceVersion != server.ResourceVersion {
		t.Error("the server was written, which none of this concerns")
	}

	// a new revision is none of the assignment's business, but of InSync's
	blocks := beat(1)
	blocks["agent"] = map[string]any{"policyID": string(all.UID), "policyRevision": 1}
	n.heard(t, "laptop", blocks)
	same := n.is(t, "laptop", "Online")
	n.sign(t, n.getPolicy(t, "all"))
	behind := n.is(t, "laptop", "Updating")
	if string(behind.Status.Policy.Assignment.Signatures[0].Sig) != string(same.Status.Policy.Assignment.Signatures[0].Sig) {
		t.Error("a new revision has the assignment signed anew")
	}
	if want := "policy all: revision 2 comes with its next heartbeat, it runs revision 1"; behind.Status.Message != want {
		t.Errorf("%q, want %q", behind.Status.Message, want)
	}

	// another order key
	n.stop()
	n.run(t, key("b"))
	n.until(t, "laptop", func(ep *v1alpha1.Endpoint) error {
		return envelope.Verify(order.FromResource(ep.Status.Policy.Assignment), envelope.Assignment, key("b").Public())
	})
	a := assignment(t, n.get(t, "laptop"), key("b"))
	if a.GetPolicyId() != string(all.UID) || !a.GetIssuedAt().AsTime().After(issued) {
		t.Errorf("by the new key it is told %v", a)
	}
}

// A shorter interval makes nobody offline who has not heard of it.
func TestAShorterIntervalMakesNobodyOffline(t *testing.T) {
	n := start(t)
	seen := n.watch(t)
	p := n.policy(t, "demo", every(600, 3))
	n.enrolled(t, "laptop", nil)
	blocks := beat(1)
	blocks["agent"] = map[string]any{"policyID": string(p.UID), "policyRevision": 1}
	n.heard(t, "laptop", blocks)
	n.is(t, "laptop", "Online")
	if err := n.person.Patch(t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"heartbeat":{"intervalSeconds":1,"missed":3}}}`))); err != nil {
		t.Fatal(err)
	}
	n.sign(t, p)
	n.is(t, "laptop", "Updating")
	n.stop() // nor does a manager that knows it only as it is now
	n.run(t, key("a"))
	<-time.After(7 * time.Second)
	if at, was := seen("laptop", "Offline"); was {
		t.Errorf("offline at %s", at)
	}
	blocks["agent"] = map[string]any{"policyID": string(p.UID), "policyRevision": 2}
	n.heard(t, "laptop", blocks)
	n.is(t, "laptop", "Online")
	n.is(t, "laptop", "Offline")
}

func TestOutagesMakeNobodyOffline(t *testing.T) {
	n := start(t)
	seen := n.watch(t)
	n.policy(t, "demo", every(1, 3))
	for _, name := range []string{"lives", "dies"} {
		n.enrolled(t, name, nil)
		n.heard(t, name, beat(1))
		n.is(t, name, "Online")
	}
	n.gateways.set(time.Now().Add(-time.Hour), time.Now())
	for _, name := range []string{"lives", "dies"} { // longer than its deadline, and than the grace
		unknown := n.is(t, name, "Unknown")
		if !strings.HasPrefix(unknown.Status.Message, "no gateway is alive since ") {
			t.Errorf("%q", unknown.Status.Message)
		}
	}
	back := time.Now()
	n.gateways.set(back, time.Time{})
	n.heard(t, "lives", beat(1))
	ctx, cancel := context.WithCancel(t.Context())
	var beats sync.WaitGroup
	beats.Go(func() {
		for tick := time.NewTicker(time.Second); ctx.Err() == nil; <-tick.C {
			n.heard(t, "lives", nil)
		}
	})
	n.is(t, "lives", "Online")
	n.is(t, "dies", "Offline")
	cancel()
	beats.Wait()
	if at, _ := seen("dies", "Offline"); at.Before(back.Add(3 * time.Second)) {
		t.Errorf("offline %s after the gateways came back: it had no time", at.Sub(back))
	}
	if at, was := seen("lives", "Offline"); was {
		t.Errorf("offline at %s, but it was heard all the while", at)
	}
}

func TestConflicts(t *testing.T) {
	n := start(t)
	n.enrolled(t, "laptop", nil)
	blocks := beat(1)
	blocks["agent"] = map[string]any{"version": "8.0.0"}
	n.heard(t, "laptop", blocks)
	n.is(t, "laptop", "Online")
	for reason, want := range map[string]string{"Forked": "Cloned", "RolledBack": "RolledBack"} {
		conflict := map[string]any{"conflictInstanceID": "two", "conflictReason": reason}
		maps.Copy(conflict, blocks["connection"])
		n.heard(t, "laptop", blockMap{"connection": conflict})
		n.conflicts(t, "laptop", want)
	}
	n.heard(t, "laptop", blocks)
	ep := n.is(t, "laptop", "Online")
	if meta.FindStatusCondition(ep.Status.Conditions, v1alpha1.ConditionStalled) != nil {
		t.Errorf("it is stalled still: %+v", ep.Status.Conditions)
	}

	// what enrolment has seen stays
	before := ep.DeepCopy()
	meta.SetStatusCondition(&ep.Status.Conditions, metav1.Condition{Type: v1alpha1.EndpointIdentityConflict, Status: metav1.ConditionTrue, Reason: reasonSuperseded, Message: "a clone"})
	if err := n.manager.Status().Patch(t.Context(), ep, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	n.is(t, "laptop", "Conflict")
	n.heard(t, "laptop", blocks)
	if err := n.person.Patch(t.Context(), ep, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"rollcall.dev/accept-instance":"one"}}}`))); err != nil {
		t.Fatal(err)
	}
	n.is(t, "laptop", "Online")
	harness.Eventually(t, patience, func() error {
		return n.told(t, "laptop", "Online", "IdentityConflict", "IdentityConflict", "IdentityConflictResolved", "IdentityConflictResolved")
	})
}

// conflicts waits until an Endpoint is a conflict for a reason, and a person is asked for.
func (n *namespace) conflicts(t *testing.T, name, reason string) *v1alpha1.Endpoint {
	t.Helper()
	return n.until(t, name, func(ep *v1alpha1.Endpoint) error {
		c, stalled := condition(ep, v1alpha1.EndpointIdentityConflict), condition(ep, v1alpha1.ConditionStalled)
		if ep.Status.Summary != "Conflict" || c.Reason != reason || stalled.Status != metav1.ConditionTrue || stalled.Message != c.Message {
			return fmt.Errorf("%s is %q, %+v, %+v, want a conflict for %s", name, ep.Status.Summary, c, stalled, reason)
		}
		return nil
	})
}

// Who looks after an incident finds when a machine was shut out, and when it was let in again.
func TestLifecycleIsTold(t *testing.T) {
	n := start(t)
	n.enrolled(t, "laptop", nil)
	n.heard(t, "laptop", beat(1))
	n.is(t, "laptop", "Online")
	declare := func(lifecycle, shown string) {
		t.Helper()
		ep := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: n.name, Name: "laptop"}}
		if err := n.person.Patch(t.Context(), ep, client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"lifecycle":%q}}`, lifecycle))); err != nil {
			t.Fatal(err)
		}
		n.is(t, "laptop", shown)
	}
	declare("Suspended", "Suspended")
	declare("Active", "Online")
	declare("Decommissioned", "Decommissioned")
	harness.Eventually(t, patience, func() error { return n.told(t, "laptop", "Online", "Suspended", "Active", "Decommissioned") })
}

// What a machine did is known by its journal: another one holds its actions until a person says that it is all right.
func TestALostJournal(t *testing.T) {
	n := start(t)
	n.enrolled(t, "laptop", nil)
	keeps := func(journal string) blockMap {
		blocks := beat(1)
		blocks["agent"] = map[string]any{"version": "8.0.0", "journalID": journal}
		return blocks
	}
	has := func(journal string) {
		t.Helper()
		n.until(t, "laptop", func(ep *v1alpha1.Endpoint) error {
			if ep.Status.Identity.JournalID != journal || ep.Status.Summary != "Online" {
				return fmt.Errorf("%s with journal %q, want Online with %q", ep.Status.Summary, ep.Status.Identity.JournalID, journal)
			}
			return nil
		})
	}
	n.heard(t, "laptop", keeps("a"))
	has("a")
	n.heard(t, "laptop", keeps("b"))
	ep := n.conflicts(t, "laptop", "JournalLost")
	if err := n.person.Patch(t.Context(), ep, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"rollcall.dev/accept-instance":"one"}}}`))); err != nil {
		t.Fatal(err)
	}
	has("b")
	harness.Eventually(t, patience, func() error { return n.told(t, "laptop", "Online", "IdentityConflict", "IdentityConflictResolved") })
}

// A session is a sign of life for as long as it is there, and costs nobody a write. After its end the endpoint has the silence of its policy.
func TestSessions(t *testing.T) {
	n := start(t)
	seen := n.watch(t)
	n.policy(t, "demo", every(1, 3)) // offline after 4 s
	n.enrolled(t, "laptop", nil)
	session := beat(1)["connection"]
	session["channel"], session["gateway"] = "WebSocket", "gw-here0-00000"
	n.heard(t, "laptop", blockMap{"connection": session})
	up := n.is(t, "laptop", "Online")
	<-time.After(7 * time.Second)
	if ep := n.get(t, "laptop"); ep.ResourceVersion != up.ResourceVersion {
		t.Errorf("a session that nothing happens to was written: %s", ep.Status.Message)
	}
	ended := time.Now().Truncate(time.Second)
	n.write(t, "laptop", blockMap{"connection": {"channel": "None", "epoch": 1, "instanceID": "one", "sessionNumber": 1, "sinceTime": stamp(ended)}})
	n.is(t, "laptop", "Offline")
	if at, _ := seen("laptop", "Offline"); at.Before(ended.Add(4*time.Second)) || at.After(ended.Add(7*time.Second)) {
		t.Errorf("offline %s after the end of its session, want 4 to 5 s", at.Sub(ended))
	}
	n.heard(t, "laptop", blockMap{"connection": session})
	n.is(t, "laptop", "Online")
}

// A gateway that has heard of an endpoint just before the manager gives it up wins, even where the manager's view is behind.
func TestWhoWasHeardMeanwhileIsNotOffline(t *testing.T) {
	n := start(t)
	n.policy(t, "demo", every(1, 3))
	n.enrolled(t, "laptop", nil)
	n.heard(t, "laptop", beat(1))
	stale := n.is(t, "laptop", "Online")
	n.stop()
	n.heard(t, "laptop", beat(2))
	r := &reconciler{client: n.manager}
	after := stale.DeepCopy()
	f := &facts{Endpoint: after, now: time.Now().Add(time.Hour), listenedTo: time.Now().Add(time.Hour)}
	record(f, judge(f))
	if after.Status.Summary != summaryOffline {
		t.Fatalf("judged %s", after.Status.Summary)
	}
	if err := r.write(t.Context(), stale, after); err == nil {
		t.Fatal("what was judged by an old state was written")
	}
	if got := n.get(t, "laptop"); got.Status.Summary == summaryOffline || got.Status.Connection.Channel != v1alpha1.ChannelHeartbeat {
		t.Errorf("%s, channel %s", got.Status.Summary, got.Status.Connection.Channel)
	}
}
