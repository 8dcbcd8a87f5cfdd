package store

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// indexed is an index with machines 1 to n, and what it has told of since.
func indexed(t *testing.T, n int) (x *endpoints, told *[]string) {
	t.Helper()
	told = &[]string{}
	x = newEndpoints(testLog(t), func(id string) { *told = append(*told, id) }, func(string) {})
	for i := range n {
		x.event(machine(t, i+1))
	}
	*told = nil
	return x, told
}

func newKey(n string) KeyHash { return hashOf([]byte("new key " + n)) }

// later is machine n after a change.
func later(t *testing.T, n int, change func(*v1alpha1.Endpoint)) *v1alpha1.Endpoint {
	t.Helper()
	e := machine(t, n)
	e.ResourceVersion = "200"
	change(e)
	return e
}

func TestIndexFindsByIdentityAndByNewestKey(t *testing.T) {
	x, _ := indexed(t, 2)
	if r := x.identity(uuidOf("identity", 2)); r == nil || r.name() != "laptop-00002" {
		t.Errorf("by identity: %v", r)
	}
	if r := x.key(newKey("2")); r == nil || r.name() != "laptop-00002" {
		t.Errorf("by key: %v", r)
	}
	for _, id := range []string{"", "laptop-00002", uuidOf("identity", 3), "{" + uuidOf("identity", 2) + "}"} {
		if x.identity(id) != nil {
			t.Errorf("%q is found", id)
		}
	}
	if x.key(hashOf([]byte("old key 2"))) != nil {
		t.Error("an old key is found")
	}
}

func TestIndexFollowsChanges(t *testing.T) {
	old, again := uuidOf("identity", 1), uuidOf("identity", "again")
	for name, tc := range map[string]struct {
		do   func(*endpoints)
		want []string // told
		gone bool     // under the old identity
	}{
		"blocked": {func(x *endpoints) {
			x.event(later(t, 1, func(e *v1alpha1.Endpoint) { e.Spec.Lifecycle = v1alpha1.LifecycleBlocked }))
		}, []string{old}, false},
		"renewed": {func(x *endpoints) {
			x.event(later(t, 1, func(e *v1alpha1.Endpoint) { e.Status.Identity.PublicKeys[0] = []byte("renewed") }))
		}, []string{old}, false},
		"another policy": {func(x *endpoints) {
			x.event(later(t, 1, func(e *v1alpha1.Endpoint) { e.Status.Policy.Name = "servers" }))
		}, []string{old}, false},
		"an instance accepted": {func(x *endpoints) {
			x.event(later(t, 1, func(e *v1alpha1.Endpoint) {
				e.Annotations = map[string]string{v1alpha1.AnnotationAcceptInstance: "X"}
			}))
		}, []string{old}, false},
		"what gateways write": {func(x *endpoints) {
			x.event(later(t, 1, func(e *v1alpha1.Endpoint) {
				e.Status.LastSeenTime, e.Status.Connection, e.Status.Agent, e.Status.Inventory = &metav1.Time{Time: enrolled}, nil, nil, nil
			}))
		}, nil, false},
		"other labels, which releases may select by": {func(x *endpoints) {
			x.event(later(t, 1, func(e *v1alpha1.Endpoint) { e.Labels = map[string]string{"device": "kiosk"} }))
		}, []string{old}, false},
		"what nobody asks for": {func(x *endpoints) {
			x.event(later(t, 1, func(e *v1alpha1.Endpoint) { e.Status.Summary = "Offline" }))
		}, nil, false},
		"enrolled again": {func(x *endpoints) {
			x.event(later(t, 1, func(e *v1alpha1.Endpoint) {
				e.Status.Identity.ID, e.Status.Identity.PublicKeys[0] = again, []byte("again")
			}))
		}, []string{old, again}, true},
		"identity removed": {func(x *endpoints) {
			x.event(later(t, 1, func(e *v1alpha1.Endpoint) { e.Status.Identity = nil }))
		}, []string{old}, true},
		"deleted":                 {func(x *endpoints) { x.drop(machine(t, 1)) }, []string{old}, true},
		"deleted, never enrolled": {func(x *endpoints) { x.drop(&v1alpha1.Endpoint{}) }, nil, false},
		"not listed any more":     {func(x *endpoints) { x.replace([]*record{newRecord(machine(t, 2))}) }, []string{old}, true},
		"listed as it was":        {func(x *endpoints) { x.replace([]*record{newRecord(machine(t, 1)), newRecord(machine(t, 2))}) }, nil, false},
		"made again by the same name": {func(x *endpoints) {
			x.drop(machine(t, 1))
			x.event(later(t, 1, func(e *v1alpha1.Endpoint) { e.UID, e.Status.Identity.ID = types.UID(again), again }))
		}, []string{old, again}, true},
	} {
		t.Run(name, func(t *testing.T) {
			x, told := indexed(t, 2)
			tc.do(x)
			if !slices.Equal(*told, tc.want) {
				t.Errorf("told of %q, want %q", *told, tc.want)
			}
			if gone := x.identity(old) == nil; gone != tc.gone {
				t.Errorf("gone: %t, want %t", gone, tc.gone)
			}
			if x.identity(uuidOf("identity", 2)) == nil {
				t.Error("the other endpoint is gone")
			}
		})
	}
}

func TestIndexKeepsTheNewerOfTwoStates(t *testing.T) {
	x, _ := indexed(t, 1)
	x.answered(later(t, 1, func(e *v1alpha1.Endpoint) { e.Status.Connection.Epoch = 13 }))
	x.event(machine(t, 1)) // the watch is behind the answer to a write
	if got := x.identity(uuidOf("identity", 1)).epoch; got != 13 {
		t.Errorf("epoch %d: a late event was believed", got)
	}
	x.replace([]*record{newRecord(machine(t, 1))}) // etcd was restored from a backup
	if got := x.identity(uuidOf("identity", 1)).epoch; got != 12 {
		t.Errorf("epoch %d: the whole list was not believed", got)
	}
	x.drop(machine(t, 1))
	x.answered(later(t, 1, func(*v1alpha1.Endpoint) {})) // the answer to a write from before the deletion
	if x.identity(uuidOf("identity", 1)) != nil {
		t.Error("a deleted Endpoint has come back")
	}
}

// A backup that is restored into another namespace brings every identity a second time. The older Endpoint keeps it, whatever comes first,
// and the copy has it when the older is gone.
func TestIndexOfTwoEndpointsWithOneIdentity(t *testing.T) {
	original := machine(t, 1)
	copied := machine(t, 1)
	copied.Namespace, copied.UID, copied.Status.Identity.EnrolledTime = "restored", types.UID(uuidOf("copy")), metav1.Time{Time: enrolled.Add(1e9)}
	id := original.Status.Identity.ID
	for name, order := range map[string][]*v1alpha1.Endpoint{"original first": {original, copied}, "copy first": {copied, original}} {
		t.Run(name, func(t *testing.T) {
			x, _ := indexed(t, 0)
			holder := func(want string) {
				t.Helper()
				if r := x.identity(id); r == nil || r.namespace.Value() != want || x.key(newKey("1")) != r {
					t.Fatalf("the identity is %v's, want %s's", r, want)
				}
			}
			for _, e := range order {
				x.event(e)
			}
			holder("fleet")
			for _, e := range order { // a write to either changes nothing
				e = e.DeepCopy()
				e.ResourceVersion, e.Status.LastSeenTime = "300", &metav1.Time{Time: enrolled}
				x.event(e)
			}
			holder("fleet")
			x.drop(original)
			holder("restored")
			x.drop(copied)
			if x.identity(id) != nil || x.key(newKey("1")) != nil || len(x.byUID)+len(x.shadowed) != 0 {
				t.Error("something is left")
			}
		})
	}
}
