package release

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// endpoint creates one in the group laptops, and writes its status as the manager and a gateway do.
func (w *world) endpoint(name string, change func(*v1alpha1.Endpoint)) {
	w.Helper()
	e := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name, Labels: map[string]string{"group": "laptops"}}}
	e.Status.Identity = &v1alpha1.EndpointIdentity{ID: "0b9a43c2-6a1c-4a52-9e11-0d7b4c6e8f10", EnrolledTime: metav1.Now(), PublicKeys: [][]byte{make([]byte, 66)}}
	change(e)
	status := e.Status
	w.create(e)
	agent := status.Agent
	status.Agent = nil
	w.writes(local.ManagerAccount, e, types.MergePatchType, map[string]any{"status": status})
	if agent != nil {
		w.writes(local.GatewayAccount, e, types.JSONPatchType, []map[string]any{{"op": "add", "path": "/status/agent", "value": agent}})
	}
}

func (w *world) writes(account string, e *v1alpha1.Endpoint, kind types.PatchType, patch any) {
	w.Helper()
	text, err := json.Marshal(patch)
	if err != nil {
		w.Fatal(err)
	}
	if err := w.api.Client(w.T, account).Status().Patch(w.Context(), e, client.RawPatch(kind, text)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) tells(name, message string) {
	w.Helper()
	w.see(name, func(r *v1alpha1.ContentRelease) error {
		if r.Status.Rollout == nil || r.Status.Rollout.Message != message {
			return fmt.Errorf("it says %+v, want %q", r.Status.Rollout, message)
		}
		return nil
	})
}

func TestCounts(t *testing.T) {
	w := start(t)
	in := func(kind string, status metav1.ConditionStatus) func(*v1alpha1.Endpoint) {
		return func(e *v1alpha1.Endpoint) {
			e.Status.Conditions = []metav1.Condition{{Type: kind, Status: status, Reason: "Test", LastTransitionTime: metav1.Now()}}
		}
	}
	w.create(&v1alpha1.EndpointPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "pins"},
		Spec:       v1alpha1.EndpointPolicySpec{Content: &v1alpha1.ContentPolicy{Mode: v1alpha1.ContentPinned, Version: "1041"}},
	})
	w.endpoint("runs", func(e *v1alpha1.Endpoint) { e.Status.Agent = &v1alpha1.EndpointAgent{ContentVersion: "1042"} })
	w.endpoint("fails", func(e *v1alpha1.Endpoint) {
		e.Status.Agent = &v1alpha1.EndpointAgent{ContentVersion: "1041", ContentError: "DigestDiffers: it differs"}
	})
	w.endpoint("away", in(v1alpha1.EndpointOnline, metav1.ConditionFalse))
	w.endpoint("cloned", in(v1alpha1.EndpointIdentityConflict, metav1.ConditionTrue))
	w.endpoint("waits", func(*v1alpha1.Endpoint) {})
	w.endpoint("pinned", func(e *v1alpha1.Endpoint) {
		e.Status.Policy = &v1alpha1.AssignedPolicy{Name: "pins", Assignment: v1alpha1.Envelope{PayloadType: "x", Payload: []byte("x"), Signatures: []v1alpha1.EnvelopeSignature{{Sig: []byte("x")}}}}
	})
	w.endpoint("server", func(e *v1alpha1.Endpoint) { e.Labels = map[string]string{"group": "servers"} })
	w.create(&v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "declared", Labels: map[string]string{"group": "laptops"}}})

	w.publish("1042", func(r *v1alpha1.ContentRelease) {
		r.Spec.Selector = &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{"group": "laptops"}}
	})
	w.tells("content-1042", "1 of 6 run it; away is offline, cloned is held, fails failed, 1 will with the next heartbeat, 1 is to run another one")

	// What changes is counted, at once where it is the release itself.
	if err := w.person.Delete(t.Context(), &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "away"}}); err != nil {
		t.Fatal(err)
	}
	w.tells("content-1042", "1 of 5 run it; cloned is held, fails failed, 1 will with the next heartbeat, 1 is to run another one")
	w.endpoint("blocked", func(e *v1alpha1.Endpoint) { e.Spec.Lifecycle = v1alpha1.LifecycleBlocked })
	w.tells("content-1042", "1 of 6 run it; blocked is refused, cloned is held, fails failed, 1 will with the next heartbeat, 1 is to run another one")
	w.patch("content-1042", `{"spec":{"selector":{"matchLabels":{"group":"servers"}}}}`)
	w.tells("content-1042", "offered with the next heartbeat of each endpoint")
	server := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "server"}}
	if err := w.person.Patch(t.Context(), server, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"group":"laptops"}}}`))); err != nil {
		t.Fatal(err)
	}
	w.tells("content-1042", "it selects no endpoint that has enrolled")
}

func TestSources(t *testing.T) {
	w := start(t)
	cm, _ := w.publisher.Release(w.ns, "1", local.Document("1"))
	cm.BinaryData = map[string][]byte{"binary": local.Document("1")}
	w.create(cm)
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if asked++; r.URL.Path == "/round" {
			http.Redirect(rw, r, "/round", http.StatusFound)
			return
		}
		_, _ = rw.Write(make([]byte, content.MaxBytes+1))
	}))
	defer server.Close()
	s := Sources{Live: w.api.Client(t, ""), HTTP: server.Client()}
	own, err := NewHTTPClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	s.HTTP.CheckRedirect = own.CheckRedirect
	web := func(path string) v1alpha1.ReleaseSource {
		return v1alpha1.ReleaseSource{HTTPS: &v1alpha1.HTTPSSource{URL: server.URL + path}}
	}
	from := func(name, key string) v1alpha1.ReleaseSource {
		return v1alpha1.ReleaseSource{ConfigMap: &v1alpha1.ConfigMapSource{Name: v1alpha1.LocalName(name), Key: key}}
	}
	if got, err := s.fetch(t.Context(), w.ns, from(cm.Name, "binary")); err != nil || string(got) != string(local.Document("1")) {
		t.Errorf("of binaryData came %q, %v", got, err)
	}
	for _, tc := range []struct {
		from   v1alpha1.ReleaseSource
		reason string
		passes bool
	}{
		{from("nothing", "content.json"), "SourceNotFound", true},
		{from(cm.Name, "nothing"), "SourceNotFound", true},
		{v1alpha1.ReleaseSource{}, "SourceUnknown", false},
		{web("/round"), "FetchFailed", true},
		{web("/large"), "TooLarge", false},
	} {
		_, err := s.fetch(t.Context(), w.ns, tc.from)
		if p := problemOf(err); p.reason != tc.reason || p.passes != tc.passes {
			t.Errorf("%s: %+v", where(tc.from), p)
		}
	}
	if asked != 1+maxRedirects+1 {
		t.Errorf("it asked %d times", asked)
	}
	if _, err := NewHTTPClient([]byte("no PEM")); err == nil {
		t.Error("a CA that is none is believed")
	}
}

// people see in `kubectl describe` what became of a release, once.
func (w *world) hasEvents(name, want string) {
	w.Helper()
	harness.Eventually(w.T, patience, func() error {
		got := w.api.Kubectl(w.T, "get", "events", "-n", w.ns, "--field-selector", "involvedObject.name="+name, "--sort-by=.metadata.creationTimestamp", "-o", `jsonpath={range .items[*]}{.type} {.reason}, {end}`)
		if got != want {
			return fmt.Errorf("events of %s are %q, want %q", name, got, want)
		}
		return nil
	})
}
