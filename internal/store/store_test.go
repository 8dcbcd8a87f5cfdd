package store

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/testing/protocmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/test/audit"
	"github.com/rollcall-dev/rollcall/test/harness"
)

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no rate":     {LeaseDuration: 3, LeaseRenew: 1},
		"no renewal":  {WriteRate: 1, LeaseDuration: 3},
		"short Lease": {WriteRate: 1, LeaseDuration: 3, LeaseRenew: 3},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A gateway comes up before its token and before the manager has published anything, says what it waits for, and goes on by itself.
func TestComesUpBeforeEverythingElse(t *testing.T) {
	f := newFleet(t)
	f.unpublish(trustConfigMap, beaconConfigMap)
	token := filepath.Join(t.TempDir(), "token")
	g := f.gateway(func(c *Config) { c.REST.BearerToken, c.REST.BearerTokenFile = "", token })
	says := func(want string) {
		t.Helper()
		harness.Eventually(t, 15*time.Second, func() error {
			if err := g.Ready(); err == nil || !strings.Contains(err.Error(), want) {
				return fmt.Errorf("it says %q, want %q", fmt.Sprint(err), want)
			}
			return nil
		})
	}
	says(token)
	if err := os.WriteFile(token, []byte("expired"), 0o600); err != nil {
		t.Fatal(err)
	}
	says("Unauthorized")
	if err := local.WriteToken(t.Context(), f.api.Admin, local.Namespace, local.GatewayAccount, token); err != nil {
		t.Fatal(err)
	}
	says("ConfigMap rollcall-system/rollcall-trust does not exist")
	if strings.Contains(g.log.String(), "Bearer") {
		t.Error("the log has a token")
	}
	f.publish(trustConfigMap, trustData(t, 1))
	says("rollcall-beacon")
	f.publish(beaconConfigMap, beaconData(t, 1))
	harness.Eventually(t, 10*time.Second, g.Ready)
	if trust, ok := g.Trust(); !ok || trust.FleetID != fleetID {
		t.Errorf("trust: %v", trust)
	}
}

func TestFollowsTheManager(t *testing.T) {
	f := newFleet(t)
	var mu sync.Mutex
	var told []string
	f.prepare = func(s *Store) {
		s.OnChange(func(id string) { mu.Lock(); told = append(told, id); mu.Unlock() })
	}
	g := f.ready(f.gateway())
	toldOf := func(id string) error {
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(told, id) {
			return fmt.Errorf("nobody was told of %q", id)
		}
		told = nil
		return nil
	}

	e := f.enrol("laptop-1")
	got := f.eventually(g, e, func(e Endpoint) error {
		if e.AssignmentIssuedAt.IsZero() {
			return errors.New("no assignment")
		}
		return nil
	})
	if diff := cmp.Diff(order.FromResource(e.Status.Policy.Assignment), got.Assignment(), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if byKey, ok := g.EndpointByKey(hashOf([]byte(e.Status.Identity.ID))); !ok || byKey.Name != e.Name || byKey.PolicyName != "laptops" {
		t.Errorf("by key: %+v", byKey)
	}

	harness.Eventually(t, time.Second, func() error { return toldOf(e.Status.Identity.ID) })
	e = f.stored(e)
	e.Spec.Lifecycle = v1alpha1.LifecycleBlocked
	began := time.Now()
	if err := f.api.Client(t, "").Update(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	f.eventually(g, e, func(e Endpoint) error {
		if e.Lifecycle != v1alpha1.LifecycleBlocked {
			return errors.New(string(e.Lifecycle))
		}
		return nil
	})
	harness.Eventually(t, time.Second, func() error { return toldOf(e.Status.Identity.ID) })
	t.Logf("a change of lifecycle was written and seen within %s", time.Since(began).Round(time.Millisecond))

	if err := f.api.Client(t, "").Delete(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, time.Second, func() error { return toldOf(e.Status.Identity.ID) })
	if _, ok := g.EndpointByIdentity(e.Status.Identity.ID); ok {
		t.Error("a deleted Endpoint is known")
	}

	f.publish(trustConfigMap, trustData(t, 1, 2))
	harness.Eventually(t, time.Second, func() error { return toldOf("") })
	if trust, _ := g.Trust(); trust.Version != 2 {
		t.Errorf("trust version %d", trust.Version)
	}
	before, _ := g.Beacon()
	f.publish(beaconConfigMap, beaconData(t, 2))
	harness.Eventually(t, time.Second, func() error {
		if now, _ := g.Beacon(); now == before {
			return errors.New("the beacon is the old one")
		}
		return nil
	})
}

func TestReadsTokensAndPolicies(t *testing.T) {
	f := newFleet(t)
	g := f.ready(f.gateway())
	admin := f.api.Client(t, "")
	token := &v1alpha1.EnrollmentToken{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: "laptops"}}
	token.Spec.ExpiresAfterHours, token.Spec.MaxUses = 1, ptr.To[int32](2)
	policy := &v1alpha1.EndpointPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: "laptops"}}
	policy.Spec.Heartbeat = &v1alpha1.HeartbeatPolicy{IntervalSeconds: ptr.To[int32](30)}
	policy.Spec.CommandChannel = &v1alpha1.CommandChannelPolicy{Mode: v1alpha1.CommandChannelHeartbeatOnly}
	for _, o := range []client.Object{token, policy} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	key, claim := hashOf([]byte("machine")), instanceOf("machine")+instanceOf("machine")
	expires := metav1.Time{Time: enrolled}
	token.Status.PublicKey, token.Status.Uses, token.Status.ExpirationTime = spkiOf(t, rootKey.Public()), ptr.To[int32](2), &expires
	token.Status.Claims = []v1alpha1.EnrollmentClaim{{
		KeySHA256: v1alpha1.SHA256(fmt.Sprintf("%x", key)), EndpointName: "laptop-1", IdentityID: uuidOf(claim),
	}}
	policy.Status.Revision, policy.Status.Order = 7, ptr.To(assignmentTo(t, uuidOf(claim)))
	for _, o := range []client.Object{token, policy} {
		if err := f.manager.Status().Patch(t.Context(), o, client.Merge); err != nil {
			t.Fatal(err)
		}
	}
	wantToken := Token{
		Ref: refOf(token), Key: rootKey.Public().(ed25519.PublicKey), Expires: enrolled, Exhausted: true, Claims: []KeyHash{key},
	}
	wantPolicy := Policy{
		Ref: refOf(policy), Revision: 7, Order: order.FromResource(*policy.Status.Order), Interval: 30 * time.Second, Missed: DefaultMissed, WebsocketDisabled: true,
	}
	harness.Eventually(t, 5*time.Second, func() error {
		gotToken, _ := g.Token(string(token.UID))
		gotPolicy, _ := g.Policy(f.namespace, "laptops")
		if diff := cmp.Diff(wantToken, gotToken, cmpopts.EquateComparable(Ref{})) +
			cmp.Diff(wantPolicy, gotPolicy, cmpopts.EquateComparable(Ref{}), protocmp.Transform()); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
	for _, o := range []client.Object{token, policy} {
		if err := admin.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, 5*time.Second, func() error {
		if _, ok := g.Token(string(token.UID)); ok {
			return errors.New("a deleted token is known")
		}
		if _, ok := g.Policy(f.namespace, "laptops"); ok {
			return errors.New("a deleted policy is known")
		}
		return nil
	})
}

// sample is a report with every block.
func sample(e Endpoint) Report {
	m := machineBlocks()
	c := Connection{
		Instance: Instance{Epoch: 1, ID: instanceOf("first")}, Channel: v1alpha1.ChannelHeartbeat, Since: time.Now(), InstanceTime: time.Now(),
		Error: "a proxy stands in the way", RemoteAddress: "192.0.2.1",
	}
	return Report{Ref: e.Ref, Seen: time.Now(), Replaces: e.Connection, Connection: &c, Agent: m.Agent, Inventory: m.Inventory}
}

// The gateway's blocks are written, by the account's own rights and past its fences, and nothing else changes.
func TestWritesItsBlocksAndNothingElse(t *testing.T) {
	f := newFleet(t)
	g := f.ready(f.gateway())
	e := f.enrol("laptop-1")
	before := f.stored(e)
	r := sample(f.known(g, e))
	g.Write(r)
	if got := f.known(g, e); got.Connection != r.Connection.normal() || got.Agent != DigestOf(r.Agent) {
		t.Errorf("a lookup does not show what was reported: %+v", got)
	}
	harness.Eventually(t, 5*time.Second, func() error {
		if g.pacer.busy() {
			return errors.New("still waiting")
		}
		return nil
	})
	got := f.stored(e)
	want := before.DeepCopy()
	want.Status.Connection, want.Status.LastSeenTime = r.Connection.resource(), &metav1.Time{Time: r.Seen}
	want.Status.Connection.SinceTime, want.Status.Connection.InstanceTime = &metav1.Time{Time: r.Connection.Since}, &metav1.Time{Time: r.Connection.InstanceTime}
	want.Status.Agent, want.Status.Inventory = r.Agent, r.Inventory
	sameSecond := cmp.Comparer(func(a, b *metav1.Time) bool { return a == b || a != nil && b != nil && a.Unix() == b.Unix() })
	sameMicro := cmp.Comparer(func(a, b *metav1.MicroTime) bool {
		return a == b || a != nil && b != nil && a.UnixMicro() == b.UnixMicro()
	})
	if diff := cmp.Diff(want, got, sameSecond, sameMicro, cmpopts.IgnoreFields(metav1.ObjectMeta{}, "ResourceVersion", "ManagedFields")); diff != "" {
		t.Error(diff)
	}
	g.Write(r) // and again
	f.always(func() error {
		if now := f.stored(e); now.ResourceVersion != got.ResourceVersion {
			return errors.New("what is there already was written again")
		}
		return nil
	})
}

// An Endpoint whose status has nothing at all can be written to: it was declared, and has enrolled by a manager that writes identity alone.
func TestWritesToAnEmptyStatus(t *testing.T) {
	f := newFleet(t)
	g := f.ready(f.gateway())
	e := f.enrol("laptop-1")
	e = f.status(e, func(e *v1alpha1.Endpoint) { e.Status = v1alpha1.EndpointStatus{Identity: e.Status.Identity} })
	g.Write(sample(f.known(g, e)))
	harness.Eventually(t, 5*time.Second, func() error {
		if s := f.stored(e).Status; s.Connection == nil || s.Agent == nil || s.Inventory == nil || s.LastSeenTime == nil {
			return fmt.Errorf("stored: %+v", s)
		}
		return nil
	})
}

// Replicas, manager and people write to the same endpoints at the same time. What is stored in the end is the newest start of each agent, and
// nobody's part is lost.
func TestReplicasAndManagerWriteAtOnce(t *testing.T) {
	f := newFleet(t)
	const machines, starts = 8, 12
	gateways := []*gateway{f.ready(f.gateway()), f.ready(f.gateway())}
	var all []*v1alpha1.Endpoint
	for n := range machines {
		all = append(all, f.enrol(fmt.Sprintf("laptop-%d", n)))
	}
	for _, e := range all {
		for _, g := range gateways {
			f.known(g, e)
		}
	}
	var busy sync.WaitGroup
	for n, e := range all {
		busy.Go(func() {
			for start := range starts {
				g := gateways[(n+start)%2]
				got, _ := g.EndpointByIdentity(e.Status.Identity.ID)
				c := got.Connection
				c.Epoch, c.ID, c.Channel, c.InstanceTime = int64(start+1), instanceOf(n, start), v1alpha1.ChannelHeartbeat, time.Now()
				g.Write(Report{
					Ref: got.Ref, Seen: time.Now(), Replaces: got.Connection, Connection: &c,
					Agent: &v1alpha1.EndpointAgent{Version: "8.0.0", RejectedOrders: int64(start)},
				})
				if start%3 == 0 {
					f.status(e, func(e *v1alpha1.Endpoint) { e.Status.Summary = fmt.Sprintf("Summary%d", start) })
				}
			}
		})
	}
	busy.Wait()
	for n, e := range all {
		harness.Eventually(t, 10*time.Second, func() error {
			s := f.stored(e).Status
			if s.Connection == nil || s.Connection.InstanceID != instanceOf(n, starts-1) || s.Agent == nil || s.Agent.RejectedOrders != starts-1 ||
				s.Summary != "Summary9" || s.Identity == nil {
				return fmt.Errorf("%s: %+v", e.Name, s)
			}
			return nil
		})
	}
}

// What the manager has changed since is not written over: here it has enrolled the machine again, and the watch has not told yet.
func TestAReportOfAnEarlierEnrolmentIsNotWritten(t *testing.T) {
	f := newFleet(t)
	g := f.ready(f.gateway())
	e := f.enrol("laptop-1")
	r := sample(f.known(g, e))
	e = f.status(e, func(e *v1alpha1.Endpoint) {
		e.Status.Identity.ID, e.Status.Identity.PublicKeys = uuidOf(f.namespace, "again"), [][]byte{[]byte("again")}
	})
	g.Write(r)
	f.known(g, e)
	g.Write(r)
	f.always(func() error {
		if s := f.stored(e).Status; s.Connection != nil || s.Agent != nil || s.LastSeenTime != nil {
			return fmt.Errorf("the earlier machine's state was written: %+v", s)
		}
		if got := f.known(g, e); got.Agent != 0 || got.Connection != (Connection{}) {
			return fmt.Errorf("the earlier machine's state is shown: %+v", got)
		}
		return nil
	})
}

func (f *fleet) lease(name string) (*coordinationv1.Lease, error) {
	l := &coordinationv1.Lease{}
	err := f.api.Client(f.t, "").Get(f.t.Context(), client.ObjectKey{Namespace: local.Namespace, Name: name}, l)
	return l, err
}

// The Lease is renewed on time while writes flood the API server, and after somebody else has written to it; it comes back when somebody deletes it,
// and goes with its gateway.
func TestLeaseIsKeptApartFromTheFlood(t *testing.T) {
	f := newFleet(t)
	g := f.ready(f.gateway(func(c *Config) { c.WriteRate = 1e6 }))
	e := f.enrol("laptop-1")
	known := f.known(g, e)
	held := func() (*coordinationv1.Lease, error) { return f.lease(g.cfg.Gateway) }
	harness.Eventually(t, 5*time.Second, func() error { _, err := held(); return err })

	flood, stop := context.WithCancel(t.Context())
	var flooding sync.WaitGroup
	flooding.Go(func() {
		for n := 0; flood.Err() == nil; n++ {
			g.Write(Report{Ref: known.Ref, Replaces: known.Connection, Agent: &v1alpha1.EndpointAgent{RejectedOrders: int64(n)}})
			if !g.pacer.busy() {
				continue
			}
			select {
			case <-flood.Done():
			case <-time.After(100 * time.Microsecond):
			}
		}
	})
	var last time.Time
	renewals := 0
	for began := time.Now(); time.Since(began) < 3*time.Second; {
		l, err := held()
		if err != nil {
			t.Fatal(err)
		}
		if at := l.Spec.RenewTime.Time; at.After(last) {
			if gap := at.Sub(last); renewals > 0 && gap > 2*time.Second {
				t.Errorf("%s between two renewals", gap)
			}
			last = at
			renewals++
		}
		if ptr.Deref(l.Spec.HolderIdentity, "") != g.cfg.Gateway || ptr.Deref(l.Spec.LeaseDurationSeconds, 0) != 3 {
			t.Errorf("%+v", l.Spec)
		}
	}
	stop()
	flooding.Wait()
	if n := testutil.ToFloat64(g.pacer.metrics.writes.WithLabelValues(blockAgent, resultWritten)); n < 50 {
		t.Errorf("%v writes in 3 s are no flood", n)
	}
	if renewals < 5 {
		t.Errorf("%d renewals in 3 s", renewals)
	}

	l, err := held()
	if err != nil {
		t.Fatal(err)
	}
	labelled := l.DeepCopy()
	labelled.Labels = map[string]string{"seen": "true"}
	if err := f.api.Client(t, "").Patch(t.Context(), labelled, client.MergeFrom(l)); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 5*time.Second, func() error {
		again, err := held()
		if err == nil && !again.Spec.RenewTime.After(labelled.Spec.RenewTime.Time) {
			err = errors.New("it was not renewed since somebody has written to it")
		}
		return err
	})
	if err := f.api.Client(t, "").Delete(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 5*time.Second, func() error {
		again, err := held()
		if err == nil && again.UID == l.UID {
			err = errors.New("it is the same")
		}
		return err
	})
	g.stop()
	if _, err := held(); !apierrors.IsNotFound(err) {
		t.Errorf("after the end the Lease is there: %v", err)
	}
}

// What was reported just before the end is written before Run returns.
func TestTheLastReportsAreWritten(t *testing.T) {
	f := newFleet(t)
	g := f.ready(f.gateway())
	var all []*v1alpha1.Endpoint
	for n := range 20 {
		e := f.enrol(fmt.Sprintf("laptop-%d", n))
		all = append(all, e)
		f.known(g, e)
	}
	for _, e := range all {
		g.Write(sample(f.known(g, e)))
	}
	g.stop()
	for _, e := range all {
		if f.stored(e).Status.Connection == nil {
			t.Errorf("%s was not written", e.Name)
		}
	}
}

// The API server goes away and comes back: nothing crashes, old answers stay, what was reported meanwhile is written, changes are seen again.
func TestTheAPIServerGoesAwayAndComesBack(t *testing.T) {
	f := newFleet(t)
	f.restarts = true
	g := f.ready(f.gateway())
	e, other := f.enrol("laptop-1"), f.enrol("laptop-2")
	known := f.known(g, e)
	f.known(g, other)
	trust, _ := g.Trust()

	ctx := context.Background()
	if err := f.api.ControlPlane.KillAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	r := sample(known)
	g.Write(r)
	harness.Eventually(t, 20*time.Second, func() error {
		if !strings.Contains(g.log.String(), "Writing to the API server fails") || !strings.Contains(g.log.String(), "The Lease is not renewed") {
			return errors.New("the log does not tell that the API server is away")
		}
		return nil
	})
	if err := g.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if now, _ := g.Trust(); now != trust {
		t.Error("trust changed")
	}
	if got := f.known(g, e); got.Connection != r.Connection.normal() {
		t.Errorf("what was reported is not shown: %+v", got.Connection)
	}
	if _, err := g.Certify(t.Context(), []byte("key"), []byte("csr"), proofOf(t, "machine")); err == nil || errors.Is(err, ErrPending) || errors.Is(err, ErrSlotTaken) {
		t.Errorf("a certificate is asked for without an API server: %v", err)
	}

	if err := f.api.ControlPlane.StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 30*time.Second, func() error {
		if s := f.stored(e).Status; s.Connection == nil || s.Connection.InstanceID != r.Connection.ID {
			return fmt.Errorf("stored is %+v", s.Connection)
		}
		return nil
	})
	f.status(f.stored(e), func(e *v1alpha1.Endpoint) { e.Status.Policy.Name = "servers" })
	if err := f.api.Client(t, "").Delete(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 30*time.Second, func() error {
		if got, _ := g.EndpointByIdentity(e.Status.Identity.ID); got.PolicyName != "servers" {
			return fmt.Errorf("policy %q", got.PolicyName)
		}
		if _, ok := g.EndpointByIdentity(other.Status.Identity.ID); ok {
			return errors.New("a deleted Endpoint is known")
		}
		return nil
	})
	if log := g.log.String(); !strings.Contains(log, "The Lease is renewed again") || !strings.Contains(log, "Writing to the API server works again") {
		t.Error("the log does not tell that the API server is back")
	}
}

// requests are what gateways have asked of the API server so far and got, by verb and resource, with how often.
func (f *fleet) requests() map[string]int {
	f.t.Helper()
	out := map[string]int{}
	err := audit.Read(f.api.AuditLog, func(e audit.Event) {
		if e.By() == audit.Gateway && e.Stage == "ResponseComplete" && e.ResponseStatus.Code < 300 && e.ObjectRef != nil {
			out[strings.TrimSuffix(fmt.Sprintf("%s %s/%s", e.Verb, e.ObjectRef.Resource, e.ObjectRef.Subresource), "/")]++
		}
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

// What the API server saw of a gateway's whole life: a fleet is streamed and never listed, an endpoint costs one write, and nothing else is
// asked for.
func TestAsksForLittle(t *testing.T) {
	f := newFleet(t)
	before := f.requests()
	g := f.ready(f.gateway())
	e := f.enrol("laptop-1")
	for range 5 {
		g.Write(sample(f.known(g, e)))
	}
	g.stop()
	var now map[string]int
	harness.Eventually(t, 10*time.Second, func() error { // the log lags behind
		if now = f.requests(); now["delete leases"] == before["delete leases"] {
			return errors.New("the log does not have the end")
		}
		return nil
	})
	delete(now, "update leases")
	want := map[string]int{
		"watch endpoints": 1, "watch endpointactions": 1, "watch enrollmenttokens": 1, "watch endpointpolicies": 1, "watch contentreleases": 1, "watch certificatesigningrequests": 1, "watch configmaps": 2,
		"create leases": 1, "delete leases": 1,
	}
	for what, n := range now {
		switch got := n - before[what]; {
		case what == "patch endpoints/status":
			if got < 1 || got > 3 { // how many of the five come within the first write is a matter of luck
				t.Errorf("%d writes of one endpoint", got)
			}
		case got != want[what]:
			t.Errorf("%s: %d times, want %d", what, got, want[what])
		}
	}
}
