package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/test/audit"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// at is a session of the first start of an agent.
func at(g *gateway, session int64) Connection {
	return Connection{
		Instance: Instance{Epoch: 1, ID: instanceOf("first"), Session: session}, Channel: v1alpha1.ChannelWebSocket, Gateway: g.cfg.Gateway,
		Since: time.Now(), InstanceTime: enrolled.Add(time.Hour), RemoteAddress: "192.0.2.1",
	}
}

// up reports a session as the gateway does that has it.
func (g *gateway) up(e Endpoint, session int64) Connection {
	c := at(g, session)
	g.Write(Report{Ref: e.Ref, Seen: time.Now(), Replaces: e.Connection, Connection: &c})
	return c
}

// down reports that it is down.
func (g *gateway) down(e Endpoint, c Connection) {
	none := c
	none.Channel, none.Gateway, none.Since = v1alpha1.ChannelNone, "", time.Now()
	g.Write(Report{Ref: e.Ref, Seen: time.Now(), Replaces: c, Connection: &none})
}

// A hundred times a session moves to the other gateway, and the one that had it says late that it is down: before, while or after the other
// has said that it is up. A third gateway sees all that is written.
func TestLateDownsOnARealAPIServer(t *testing.T) {
	f := newFleet(t)
	registry := prometheus.NewRegistry()
	gateways := []*gateway{f.ready(f.gateway(func(c *Config) { c.Registerer = registry })), f.ready(f.gateway())}
	e := f.enrol("laptop-1")
	id := e.Status.Identity.ID
	var mu sync.Mutex
	var seen []Connection
	f.prepare = func(s *Store) {
		s.OnConnection(func(changed string) {
			if e, _ := s.EndpointByIdentity(id); changed == id {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, e.Connection)
			}
		})
	}
	observer := f.ready(f.gateway())
	for _, g := range append(gateways, observer) {
		f.known(g, e)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var last Connection
	for n := int64(1); n <= 100; n++ {
		from, to := gateways[n%2], gateways[(n+1)%2]
		known, _ := to.EndpointByIdentity(id)
		earlier, _ := from.EndpointByIdentity(id)
		switch before := last; r.IntN(3) {
		case 0:
			last = to.up(known, n)
			from.down(earlier, before)
		case 1:
			from.down(earlier, before)
			last = to.up(known, n)
		default:
			last = to.up(known, n)
			f.eventually(to, e, func(got Endpoint) error { return expect(got.Connection, last) })
			from.down(earlier, before)
		}
		harness.Eventually(t, 10*time.Second, func() error {
			if from.pacer.busy() || to.pacer.busy() {
				return errors.New("still waiting")
			}
			return expect(connectionOf(f.stored(e).Status.Connection), last)
		})
	}
	from := gateways[0]
	if last.Gateway != from.cfg.Gateway {
		from = gateways[1]
	}
	known, _ := from.EndpointByIdentity(id)
	from.down(known, last)
	harness.Eventually(t, 5*time.Second, func() error {
		if c := f.stored(e).Status.Connection; c.Channel != v1alpha1.ChannelNone || c.Gateway != "" || c.SessionNumber != 100 {
			return fmt.Errorf("stored is %+v", c)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for i := 1; i < len(seen); i++ {
		if seen[i].Session < seen[i-1].Session {
			t.Errorf("session %d was written over session %d", seen[i].Session, seen[i-1].Session)
		}
	}
	t.Logf("%d versions; of the downs of one gateway %g were written and %g superseded", len(seen),
		testutil.ToFloat64(gateways[0].pacer.metrics.writes.WithLabelValues(blockConnection, resultWritten)),
		testutil.ToFloat64(gateways[0].pacer.metrics.writes.WithLabelValues(blockConnection, resultSuperseded)))
}

func expect(got, want Connection) error {
	if want = want.normal(); got != want {
		return fmt.Errorf("it is %+v, want %+v", got, want)
	}
	return nil
}

// A down that something newer has overtaken, and is known to have, costs the API server nothing, also at the end of a gateway.
func TestOvertakenDownCostsNothing(t *testing.T) {
	f := newFleet(t)
	next := f.ready(f.gateway())
	old := f.ready(f.gateway())
	const machines = 20
	var all []*v1alpha1.Endpoint
	for n := range machines {
		all = append(all, f.enrol(fmt.Sprintf("laptop-%d", n)))
	}
	sessions := map[string]Connection{}
	for _, e := range all {
		sessions[e.Name] = old.up(f.known(old, e), 1)
	}
	for _, e := range all {
		f.eventually(next, e, func(got Endpoint) error { return expect(got.Connection, sessions[e.Name]) })
		next.up(f.known(next, e), 2)
	}
	for _, e := range all {
		f.eventually(old, e, func(got Endpoint) error { return expect(got.Connection, at(next, 2).since(got.Connection)) })
	}
	before := f.asked(t)
	for _, e := range all {
		old.down(f.known(old, e), sessions[e.Name])
	}
	old.stop()
	if n := f.asked(t) - before; n != 0 {
		t.Errorf("%d requests for %d downs that were overtaken", n, machines)
	}
	for _, e := range all {
		if c := f.stored(e).Status.Connection; c.Channel != v1alpha1.ChannelWebSocket || c.SessionNumber != 2 {
			t.Errorf("%s: stored is %+v", e.Name, c)
		}
	}
}

// since takes over the times of another.
func (c Connection) since(other Connection) Connection {
	c.Since, c.InstanceTime = other.Since, other.InstanceTime
	return c
}

// asked is how often gateways have asked for something of this fleet's Endpoints, watches apart.
func (f *fleet) asked(t *testing.T) (n int) {
	t.Helper()
	err := audit.Read(f.api.AuditLog, func(e audit.Event) {
		if e.By() == audit.Gateway && e.Stage == "ResponseComplete" && e.ObjectRef != nil && e.ObjectRef.Namespace == f.namespace && e.ObjectRef.Resource == endpointsResource {
			n++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What is watched for sessions is told: a connection that another writes, a block that is taken away, a policy that is changed; and not what is
// none of their business.
func TestTellsOfConnectionsAndPolicies(t *testing.T) {
	f := newFleet(t)
	var mu sync.Mutex
	connections, policies := 0, 0
	var id string
	f.prepare = func(s *Store) {
		s.OnConnection(func(changed string) {
			mu.Lock()
			defer mu.Unlock()
			if changed == id {
				connections++
			}
		})
		s.OnPolicy(func(namespace, name string) {
			mu.Lock()
			defer mu.Unlock()
			if namespace == f.namespace && name == "laptops" {
				policies++
			}
		})
	}
	g := f.ready(f.gateway())
	counts := func(wantConnections, wantPolicies int) {
		t.Helper()
		harness.Eventually(t, 5*time.Second, func() error {
			mu.Lock()
			defer mu.Unlock()
			if connections != wantConnections || policies != wantPolicies {
				return fmt.Errorf("told of %d connections and %d policies, want %d and %d", connections, policies, wantConnections, wantPolicies)
			}
			return nil
		})
	}
	e := f.enrol("laptop-1")
	f.known(g, e)
	mu.Lock()
	id = e.Status.Identity.ID
	mu.Unlock()
	e = f.status(e, func(e *v1alpha1.Endpoint) { e.Status.Connection = at(g, 1).resource() })
	counts(1, 0)
	e = f.status(e, func(e *v1alpha1.Endpoint) {
		e.Status.Connection.Channel, e.Status.Connection.Gateway = v1alpha1.ChannelNone, ""
	})
	counts(2, 0)
	e = f.status(e, func(e *v1alpha1.Endpoint) { e.Status.Agent = &v1alpha1.EndpointAgent{Version: "8.0.0"} })
	counts(3, 0)
	e = f.status(e, func(e *v1alpha1.Endpoint) { e.Status.Agent.Version, e.Status.Summary = "8.0.1", "Online" })

	admin := f.api.Client(t, "")
	policy := &v1alpha1.EndpointPolicy{}
	policy.Namespace, policy.Name = f.namespace, "laptops"
	policy.Spec.CommandChannel = &v1alpha1.CommandChannelPolicy{Mode: v1alpha1.CommandChannelWebSocket, PingIntervalSeconds: ptr.To[int32](20)}
	if err := admin.Create(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	counts(3, 1)
	if p, _ := g.Policy(f.namespace, "laptops"); p.PingInterval != 20*time.Second || p.WebsocketDisabled {
		t.Errorf("read as %+v", p)
	}
	signed := policy.DeepCopy()
	signed.Status.Revision, signed.Status.Order = 1, ptr.To(assignmentTo(t, e.Status.Identity.ID))
	if err := f.manager.Status().Patch(t.Context(), signed, client.MergeFrom(policy)); err != nil {
		t.Fatal(err)
	}
	counts(3, 2)
	counted := signed.DeepCopy()
	counted.Labels = map[string]string{"team": "blue"}
	if err := admin.Patch(t.Context(), counted, client.MergeFrom(signed)); err != nil {
		t.Fatal(err)
	}
	f.always(func() error {
		mu.Lock()
		defer mu.Unlock()
		if connections != 3 || policies != 2 {
			return fmt.Errorf("told of %d connections and %d policies", connections, policies)
		}
		return nil
	})
}
