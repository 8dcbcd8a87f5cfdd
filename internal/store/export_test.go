package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/test/audit"
)

// Server is the double of an API server, for tests of the gateway's parts above a store.
type Server struct{ *double }

// NewServer has one Endpoint, which is enrolled and was never heard of.
func NewServer(t *testing.T) (s Server, identityID string) {
	s = Server{&double{t: t, latency: 5 * time.Millisecond, objects: map[string]*v1alpha1.Endpoint{}}}
	e := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: "fleet", Name: "laptop", UID: types.UID(uidOf(1))}}
	e.Status.Identity = &v1alpha1.EndpointIdentity{ID: uuidOf("identity", 1), PublicKeys: [][]byte{[]byte("key")}, EnrolledTime: metav1.Now()}
	s.store(e)
	return s, e.Status.Identity.ID
}

// Away has every patch fail, or none.
func (s Server) Away(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = func(string) error {
		if yes {
			return away()
		}
		return nil
	}
}

// Change is what others write: the manager.
func (s Server) Change(change func(*v1alpha1.EndpointConnection)) {
	s.other(uidOf(1), func(e *v1alpha1.Endpoint) {
		if e.Status.Connection != nil {
			change(e.Status.Connection)
		}
	})
}

// OnStore has f called with each version that is stored, before anything else happens.
func (s Server) OnStore(f func(*v1alpha1.Endpoint)) { s.onStore = f }

// History is every version that was stored.
func (s Server) History() []*v1alpha1.Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*v1alpha1.Endpoint(nil), s.history...)
}

// Replica is a store that writes to a Server for real, and reads what Deliver brings.
type Replica struct {
	*Store
	read int
}

// NewReplica makes one.
func (s Server) NewReplica(name string) *Replica {
	r := &Replica{Store: &Store{cfg: Config{Gateway: name}, policies: newPolicies(func(string, string) {}), releases: newReleases(func() {})}}
	r.endpoints = newEndpoints(logr.Discard(), r.changed, r.connectionChanged)
	m := newMetrics()
	r.pacer = newPacer(logr.Discard(), s.double, r.endpoints, 1000, m)
	r.actions = newActions(r.actionChanged)
	m.pacer, m.actions = r.pacer, r.actions
	r.beacon = &published[agentv1.Envelope]{}
	return r
}

// RunWriting writes until ctx ends, and then nothing more.
func (r *Replica) RunWriting(ctx context.Context) { r.pacer.run(ctx, 0) }

// Deliver brings at most n of the versions that the watch has not brought yet.
func (r *Replica) Deliver(s Server, n int) {
	history := s.History()
	for ; r.read < len(history) && n > 0; n-- {
		r.endpoints.event(history[r.read].DeepCopy())
		r.read++
	}
}

// Waits is what is not written yet, in words.
func (r *Replica) Waits() string {
	w, _ := r.pacer.depth()
	return fmt.Sprint(w)
}

// Fleet is a namespace of a real API server, and its manager, for tests of the gateway's parts above a store.
type Fleet struct{ *fleet }

// FleetID is that of the trust bundle that its manager publishes.
const FleetID = fleetID

// NewFleet makes one.
func NewFleet(t *testing.T) Fleet { return Fleet{newFleet(t)} }

// Gateway starts a store, which has read everything and is stopped with the test.
func (f Fleet) Gateway(prepare func(*Store)) (s *Store, name string) {
	f.prepare = prepare
	g := f.ready(f.gateway())
	return g.Store, g.cfg.Gateway
}

// Enrol makes an Endpoint with an identity.
func (f Fleet) Enrol(name string) *v1alpha1.Endpoint { return f.enrol(name) }

// Known waits until a store knows an Endpoint.
func (f Fleet) Known(s *Store, e *v1alpha1.Endpoint) { f.known(&gateway{Store: s}, e) }

// Act creates an action and admits it.
func (f Fleet) Act(e *v1alpha1.Endpoint, name string) *v1alpha1.EndpointAction {
	return f.look(e, f.act(e, name))
}

// Look is what the manager does with an action, once.
func (f Fleet) Look(e *v1alpha1.Endpoint, a *v1alpha1.EndpointAction) { f.look(e, a) }

// Stored is an action as the API server has it.
func (f Fleet) Stored(a *v1alpha1.EndpointAction) *v1alpha1.EndpointAction {
	f.t.Helper()
	out := &v1alpha1.EndpointAction{}
	if err := f.manager.Get(f.t.Context(), client.ObjectKeyFromObject(a), out); err != nil {
		f.t.Fatal(err)
	}
	return out
}

// Cancel is a person's wish.
func (f Fleet) Cancel(a *v1alpha1.EndpointAction) {
	f.t.Helper()
	stop := f.Stored(a)
	stop.Spec.Cancel = true
	if err := f.api.Client(f.t, "").Update(f.t.Context(), stop); err != nil {
		f.t.Fatal(err)
	}
}

// Writes are those of an action's status that were carried out, by whom.
func (f Fleet) Writes(a *v1alpha1.EndpointAction) (by []string) {
	f.t.Helper()
	err := audit.Read(f.api.AuditLog, func(e audit.Event) {
		if e.Wrote() && e.ObjectRef.Namespace == f.namespace && e.ObjectRef.Resource == actionsResource && e.ObjectRef.Name == a.Name && e.ObjectRef.Subresource == "status" {
			by = append(by, e.By())
		}
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return by
}

// JournalID is that of the agent whose actions Act admits, and JournalTime when it was made.
var (
	JournalID   = instanceOf("journal")
	JournalTime = enrolled
)
