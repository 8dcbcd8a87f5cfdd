package store

import (
	"crypto/ed25519"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

func TestRecordKeepsWhatAGatewayAsksFor(t *testing.T) {
	e := machine(t, 1)
	e.Spec.Lifecycle = v1alpha1.LifecycleSuspended
	e.Annotations = map[string]string{v1alpha1.AnnotationAcceptInstance: "X"}
	e.Status.Connection.ConflictInstanceID = instanceOf("clone")
	e.Status.Connection.Error = "the upgrade was answered with 403"
	got := newRecord(e).endpoint()
	want := Endpoint{
		Ref:        Ref{Namespace: "fleet", Name: "laptop-00001", UID: string(e.UID), identity: uuidOf("identity", 1)},
		IdentityID: uuidOf("identity", 1), Keys: []KeyHash{hashOf([]byte("new key 1")), hashOf([]byte("old key 1"))},
		PreviousKeyExpires: enrolled.Add(480 * time.Hour), EnrolledTime: enrolled, Lifecycle: v1alpha1.LifecycleSuspended, AcceptInstance: "X",
		PolicyName: "laptops", OfflineAfter: 20 * time.Minute, AssignmentIssuedAt: enrolled.Add(1234 * time.Millisecond),
		Connection: Connection{
			Instance: Instance{Epoch: 12, ID: instanceOf(1, 12), Session: 3}, Channel: v1alpha1.ChannelHeartbeat,
			Since: enrolled.Add(490 * time.Hour), InstanceTime: enrolled.Add(490 * time.Hour), PreviousInstance: instanceOf(1, 11),
			ConflictInstance: instanceOf("clone"), Error: "the upgrade was answered with 403", RemoteAddress: "10.1.0.1",
		},
		LastSeen: enrolled.Add(500 * time.Hour), Agent: DigestOf(e.Status.Agent), Inventory: DigestOf(e.Status.Inventory),
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Ref{}), cmpopts.IgnoreUnexported(Endpoint{})); diff != "" {
		t.Error(diff)
	}
}

func TestRecordOfAnEndpointThatNeverSpoke(t *testing.T) {
	e := machine(t, 1)
	e.Status = v1alpha1.EndpointStatus{Identity: e.Status.Identity}
	got := newRecord(e).endpoint()
	if got.Lifecycle != v1alpha1.LifecycleActive || got.Connection != (Connection{}) || !got.LastSeen.IsZero() || got.Agent != 0 || got.Inventory != 0 ||
		!got.AssignmentIssuedAt.IsZero() || got.Assignment() != nil {
		t.Errorf("%+v", got)
	}
	e.Status.Identity = nil
	if newRecord(e) != nil {
		t.Error("an Endpoint that has not enrolled is no endpoint of a gateway's")
	}
}

// What an agent gets must be, byte for byte, what the manager signed.
func TestRecordGivesBackTheAssignmentAsItWasSigned(t *testing.T) {
	other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", ed25519.SeedSize)))
	resign := func(e *v1alpha1.Envelope, payload string) {
		signed, err := envelope.Sign(other, envelope.Assignment, []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		*e = order.ToResource(signed)
	}
	for name, tc := range map[string]struct {
		change func(*v1alpha1.Envelope)
		whole  bool
	}{
		"as this version encodes it": {func(*v1alpha1.Envelope) {}, false},
		"with a field of the future": {func(e *v1alpha1.Envelope) {
			resign(e, strings.Replace(string(e.Payload), "{", `{"future":1,`, 1))
		}, true},
		"with other white space": {func(e *v1alpha1.Envelope) {
			resign(e, strings.ReplaceAll(string(e.Payload), ",", ", "))
		}, true},
		"of another namespace": {func(e *v1alpha1.Envelope) {
			resign(e, strings.ReplaceAll(string(e.Payload), `"fleet"`, `"elsewhere"`))
		}, true},
		"with two signatures": {func(e *v1alpha1.Envelope) {
			e.Signatures = append(e.Signatures, v1alpha1.EnvelopeSignature{KeyID: "b", Sig: []byte("second")})
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := machine(t, 1)
			tc.change(&e.Status.Policy.Assignment)
			r := newRecord(e)
			if diff := cmp.Diff(order.FromResource(e.Status.Policy.Assignment), r.endpoint().Assignment(), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			if whole := r.order == (assignmentHead{}); whole != tc.whole {
				t.Errorf("kept whole: %t, want %t", whole, tc.whole)
			}
			if at := r.endpoint().AssignmentIssuedAt; !at.Equal(enrolled.Add(1234 * time.Millisecond)) {
				t.Errorf("issued at %s", at)
			}
		})
	}
}

// Whatever somebody has put into an Endpoint, a gateway survives it.
func TestRecordOfStrangeEndpoints(t *testing.T) {
	for name, change := range map[string]func(*v1alpha1.Endpoint){
		"identity is no UUID": func(e *v1alpha1.Endpoint) { e.Status.Identity.ID = "laptop" },
		"uid is no UUID":      func(e *v1alpha1.Endpoint) { e.UID = "1" },
		"resourceVersion":     func(e *v1alpha1.Endpoint) { e.ResourceVersion = "" },
		"no keys":             func(e *v1alpha1.Endpoint) { e.Status.Identity.PublicKeys = nil },
		"three keys":          func(e *v1alpha1.Endpoint) { e.Status.Identity.PublicKeys = make([][]byte, 3) },
		"instance":            func(e *v1alpha1.Endpoint) { e.Status.Connection.InstanceID = "laptop" },
		"times before 1970":   func(e *v1alpha1.Endpoint) { e.Status.LastSeenTime = &metav1.Time{Time: time.Unix(-1, 0)} },
		"times after 2106":    func(e *v1alpha1.Endpoint) { e.Status.LastSeenTime = &metav1.Time{Time: time.Unix(1<<40, 0)} },
		"address": func(e *v1alpha1.Endpoint) {
			e.Status.Connection.RemoteAddress = v1alpha1.Text(strings.Repeat("x", 300))
		},
		"lifecycle":              func(e *v1alpha1.Endpoint) { e.Spec.Lifecycle = "Resting" },
		"channel":                func(e *v1alpha1.Endpoint) { e.Status.Connection.Channel = "Pigeon" },
		"pace":                   func(e *v1alpha1.Endpoint) { e.Status.Policy.OfflineAfterSeconds = -1 },
		"assignment is a beacon": func(e *v1alpha1.Endpoint) { e.Status.Policy.Assignment.PayloadType = string(envelope.Beacon) },
		"assignment is empty":    func(e *v1alpha1.Endpoint) { e.Status.Policy.Assignment = v1alpha1.Envelope{} },
		"assignment is garbage":  func(e *v1alpha1.Endpoint) { e.Status.Policy.Assignment.Payload = []byte("}{") },
	} {
		t.Run(name, func(t *testing.T) {
			e := machine(t, 1)
			change(e)
			if r := newRecord(e); r != nil {
				r.endpoint().Assignment()
				r.state()
			}
		})
	}
}

// A fleet of 100,000 is to fit into a small Pod. The typed object costs 6,600 B (BenchmarkHeap prints the exact figure of a record).
func TestAnEndpointCostsLittleMemory(t *testing.T) {
	const fleet, bound = 5000, 700
	x := newEndpoints(testLog(t), func(string) {}, func(string) {})
	before := heap()
	for n := range fleet {
		x.event(machine(t, n))
	}
	if each := (heap() - before) / fleet; each > bound {
		t.Errorf("%d B for each Endpoint, want at most %d", each, bound)
	}
	runtime.KeepAlive(x)
}

// BenchmarkHeap prints what an Endpoint costs in a gateway's memory, indexes included.
func BenchmarkHeap(b *testing.B) {
	const fleet = 20_000
	for b.Loop() {
		before := heap()
		x := newEndpoints(testLog(b), func(string) {}, func(string) {})
		all := make([]*record, 0, fleet)
		for n := range fleet {
			all = append(all, newRecord(machine(b, n)))
		}
		x.replace(all)
		b.ReportMetric(float64(heap()-before)/fleet, "B/endpoint")
		runtime.KeepAlive(x)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkLookup(b *testing.B) {
	x := newEndpoints(testLog(b), func(string) {}, func(string) {})
	for n := range 1000 {
		x.event(machine(b, n))
	}
	id := uuidOf("identity", 500)
	b.ReportAllocs()
	for b.Loop() {
		if e := x.identity(id).endpoint(); e.IdentityID != id {
			b.Fatal(e)
		}
	}
}
