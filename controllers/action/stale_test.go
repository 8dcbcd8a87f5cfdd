package action

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
)

// These are about caches that are behind. A real one cannot be held back, so what it shows and what is live are made up.

func behind(t *testing.T, cached, live []client.Object) *reconciler {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	store := func(objects []client.Object) client.WithWatch {
		return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.EndpointAction{}).
			WithIndex(&v1alpha1.EndpointAction{}, byParent, func(o client.Object) []string { return parentName(o.(*v1alpha1.EndpointAction)) }).Build()
	}
	return &reconciler{
		Options: Options{FleetID: fleetID}, client: store(cached), live: store(live), events: events.NewFakeRecorder(10),
		queue: priorityqueue.New[reconcile.Request]("test"), seen: newSightings(), turns: newTurns(),
	}
}

func named(name string, uid types.UID) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "fleet", Name: name, UID: uid}
}

func laptop(uid types.UID, id string, keys ...*ecdsa.PrivateKey) client.Object {
	ep := &v1alpha1.Endpoint{ObjectMeta: named("laptop", uid)}
	ep.Status.Identity = &v1alpha1.EndpointIdentity{ID: id}
	for _, key := range keys {
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			panic(err)
		}
		ep.Status.Identity.PublicKeys = append(ep.Status.Identity.PublicKeys, spki)
	}
	return ep
}

func TestNobodyIsGoneForTheCacheAlone(t *testing.T) {
	parent := &v1alpha1.EndpointAction{ObjectMeta: named("all", "parent")}
	single := &v1alpha1.EndpointAction{ObjectMeta: named("one", "action"), Spec: v1alpha1.EndpointActionSpec{EndpointName: "laptop"}}
	child := newChild(parent, childName(parent, "ep-1"), "laptop")
	admitted := func(a *v1alpha1.EndpointAction) *v1alpha1.EndpointAction {
		a = a.DeepCopy()
		a.Status.Admission = &v1alpha1.ActionAdmission{IdentityID: "id-1"}
		return a
	}
	for _, tt := range []struct {
		name           string
		a, parent      *v1alpha1.EndpointAction
		cached, live   client.Object
		want, replaced bool
	}{
		{name: "it was never seen", a: single, live: laptop("ep-1", "id-1")},
		{name: "admitted, and not seen yet", a: admitted(single), live: laptop("ep-1", "id-1"), want: true},
		{name: "admitted, and gone", a: admitted(single)},
		{name: "admitted for an identity that is not seen yet", a: admitted(single), cached: laptop("ep-1", "id-0"), live: laptop("ep-1", "id-1"), want: true},
		{name: "admitted, and enrolled again", a: admitted(single), cached: laptop("ep-1", "id-2"), live: laptop("ep-1", "id-2"), want: true, replaced: true},
		{name: "made for one that is not seen yet", a: child, parent: parent, live: laptop("ep-1", "id-1"), want: true},
		{name: "made for one that is gone", a: child, parent: parent},
		{name: "made for the one before", a: child, parent: parent, cached: laptop("ep-0", "id-1"), live: laptop("ep-1", "id-1"), want: true},
		{name: "made for another of its name", a: child, parent: parent, cached: laptop("ep-2", "id-1"), live: laptop("ep-2", "id-1")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			some := func(o client.Object) []client.Object {
				if o == nil {
					return nil
				}
				return []client.Object{o}
			}
			ep, err := behind(t, some(tt.cached), some(tt.live)).endpoint(t.Context(), tt.a, tt.parent)
			if err != nil || (ep != nil) != tt.want {
				t.Fatalf("got %v, %v", ep, err)
			}
			if ep != nil && (identityOf(ep) != "id-1") != tt.replaced {
				t.Errorf("got the identity %s", identityOf(ep))
			}
		})
	}
}

// signedBy is an action that is said to have succeeded by what somebody has signed.
func signedBy(t *testing.T, key *ecdsa.PrivateKey) *v1alpha1.EndpointAction {
	t.Helper()
	a := &v1alpha1.EndpointAction{ObjectMeta: named("one", "action"), Spec: v1alpha1.EndpointActionSpec{Type: v1alpha1.PerformHeartbeat, EndpointName: "laptop"}}
	a.Status = v1alpha1.EndpointActionStatus{
		Phase:     v1alpha1.ActionSent,
		Admission: &v1alpha1.ActionAdmission{IdentityID: "id-1", Order: v1alpha1.Envelope{Payload: []byte("{}")}},
		Delivery:  &v1alpha1.ActionDelivery{Gateway: "gw-test0-00000"},
	}
	status, _, err := decide.Next(a, reported(t, key, result(a, agentv1.Outcome_OUTCOME_SUCCEEDED, "Done")))
	if err != nil {
		t.Fatal(err)
	}
	a.Status = *status
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestNobodyIsAccusedForAnOldKeyInTheCache(t *testing.T) {
	old, renewed, forger := newKey(t), newKey(t), newKey(t)
	for _, tt := range []struct {
		name         string
		by           *ecdsa.PrivateKey
		cached, live client.Object
		doubted      bool
	}{
		{"by the key in the cache", old, laptop("ep-1", "id-1", old), laptop("ep-1", "id-1", renewed, old), false},
		{"by one that the cache has not seen", renewed, laptop("ep-1", "id-1", old), laptop("ep-1", "id-1", renewed, old), false},
		{"by nobody's", forger, laptop("ep-1", "id-1", old), laptop("ep-1", "id-1", renewed, old), true},
		{"of a machine that has enrolled again since", old, laptop("ep-1", "id-1", renewed), laptop("ep-1", "id-2", renewed), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			doubt, err := behind(t, []client.Object{tt.cached}, []client.Object{tt.live}).doubt(t.Context(), signedBy(t, tt.by), time.Now())
			if err != nil || (doubt != nil) != tt.doubted {
				t.Errorf("got %v, %v", doubt, err)
			}
		})
	}
}

// TestNoEndRestsOnADoubtfulChild: a parent that is judged before its child was marked waits for that.
func TestNoEndRestsOnADoubtfulChild(t *testing.T) {
	key := newKey(t)
	parent := &v1alpha1.EndpointAction{ObjectMeta: named("all", "parent"), Spec: v1alpha1.EndpointActionSpec{Type: v1alpha1.PerformHeartbeat, Selector: &v1alpha1.EndpointSelector{}}}
	parent.Status = v1alpha1.EndpointActionStatus{Phase: v1alpha1.ActionRunning, Children: &v1alpha1.ActionChildren{Total: 1, Open: 1, Released: 1}}
	for _, tt := range []struct {
		name  string
		by    *ecdsa.PrivateKey
		phase v1alpha1.ActionPhase
	}{
		{"good", key, v1alpha1.ActionSucceeded},
		{"forged", newKey(t), v1alpha1.ActionRunning},
	} {
		t.Run(tt.name, func(t *testing.T) {
			child := signedBy(t, tt.by)
			child.OwnerReferences = newChild(parent, child.Name, "laptop").OwnerReferences
			all := []client.Object{parent.DeepCopy(), child, laptop("ep-1", "id-1", key)}
			r, now := behind(t, all, all), time.Now()
			a := &v1alpha1.EndpointAction{}
			if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(parent), a); err != nil {
				t.Fatal(err)
			}
			next, err := r.lead(t.Context(), a, now)
			if err != nil || a.Status.Phase != tt.phase {
				t.Fatalf("it is %s, %v", a.Status.Phase, err)
			}
			if tt.phase == v1alpha1.ActionRunning && (r.queue.Len() != 1 || !next.After(now)) {
				t.Errorf("%d wait to be judged, it itself until %s", r.queue.Len(), next)
			}
		})
	}
}
