package release

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/artifact"
	"github.com/rollcall-dev/rollcall/internal/content"
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

var orders = ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", ed25519.SeedSize)))

// world is a namespace with a manager that runs these controllers alone.
type world struct {
	*testing.T
	api       *harness.API
	ns, store string
	person    client.Client
	publisher local.Publisher
	keys      atomic.Pointer[[]crypto.PublicKey]
	changed   chan event.GenericEvent
	web       *http.Client
	notShared bool
	stop      func()
}

func start(t *testing.T) *world {
	t.Helper()
	api := harness.Cluster(t)
	ns := api.Namespace(t)
	publisher, err := local.NewPublisher()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, api: api, ns: ns, store: t.TempDir(), person: api.Person(t, ns).Client, publisher: publisher, changed: make(chan event.GenericEvent, 1)}
	w.believe(publisher)
	w.run()
	return w
}

func (w *world) believe(publishers ...local.Publisher) {
	w.Helper()
	all := []crypto.PublicKey{}
	for _, p := range publishers {
		key, err := content.ParseReleaseKey(p.PublicKey())
		if err != nil {
			w.Fatal(err)
		}
		all = append(all, key)
	}
	w.keys.Store(&all)
}

func (w *world) run(more ...string) {
	w.Helper()
	store, err := artifact.Open(w.Context(), "file://"+w.store)
	if err != nil {
		w.Fatal(err)
	}
	w.stop = w.api.RunManager(w.T, w.ns, func(mgr ctrl.Manager) error {
		return Setup(context.Background(), mgr, Options{
			FleetID: fleetID, Orders: orders, Keys: func() []crypto.PublicKey { return *w.keys.Load() }, KeysChanged: w.changed,
			Store: store, Sources: Sources{HTTP: w.web}, NotShared: w.notShared, CountInterval: countInterval, Recheck: time.Second,
		})
	}, more...)
}

func (w *world) create(all ...client.Object) {
	w.Helper()
	for _, o := range all {
		if err := w.person.Create(w.Context(), o); err != nil {
			w.Fatal(err)
		}
	}
}

// publish creates a release of a small document, and returns its name.
func (w *world) publish(version string, change ...func(*v1alpha1.ContentRelease)) string {
	w.Helper()
	cm, r := w.publisher.Release(w.ns, version, local.Document(version))
	for _, f := range change {
		f(r)
	}
	w.create(cm, r)
	return r.Name
}

func (w *world) patch(name, patch string) {
	w.Helper()
	r := &v1alpha1.ContentRelease{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}
	if err := w.person.Patch(w.Context(), r, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		w.Fatal(err)
	}
}

// see waits until a release is as check wants it.
func (w *world) see(name string, check func(*v1alpha1.ContentRelease) error) *v1alpha1.ContentRelease {
	w.Helper()
	r := &v1alpha1.ContentRelease{}
	harness.Eventually(w.T, patience, func() error {
		if err := w.person.Get(w.Context(), types.NamespacedName{Namespace: w.ns, Name: name}, r); err != nil {
			return err
		}
		if r.Status.ObservedGeneration != r.Generation {
			return fmt.Errorf("generation %d is not observed, %d is", r.Generation, r.Status.ObservedGeneration)
		}
		return check(r)
	})
	return r
}

// is wants the condition Ready with a status and a reason.
func is(status metav1.ConditionStatus, reason string) func(*v1alpha1.ContentRelease) error {
	return func(r *v1alpha1.ContentRelease) error {
		c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Status != status || c.Reason != reason {
			return fmt.Errorf("Ready is %+v, want %s, %s", c, status, reason)
		}
		return nil
	}
}

// opened verifies the offer of a release as an agent does.
func (w *world) opened(r *v1alpha1.ContentRelease) *agentv1.Offer {
	w.Helper()
	got := &agentv1.Offer{}
	if err := envelope.Open(order.FromResource(*r.Status.Offer), envelope.Offer, got, orders.Public()); err != nil {
		w.Fatalf("the offer of %s: %v", r.Name, err)
	}
	return got
}

func TestOffers(t *testing.T) {
	w := start(t)
	first := w.see(w.publish("1042"), is(metav1.ConditionTrue, "Offered"))
	got := w.opened(first)
	a := got.GetArtifacts()[0]
	if got.GetFleetId() != fleetID || got.GetNamespace() != w.ns || got.GetReleaseUid() != string(first.UID) || got.GetVersion() != "1042" ||
		got.GetShare() != 10_000 || got.GetSequence() != uint64(first.Status.Sequence) || a.GetMediaType() != content.MediaType {
		t.Errorf("agents are offered %v", got)
	}
	if _, err := content.Verify(local.Document("1042"), a, "1042", *w.keys.Load()); err != nil {
		t.Errorf("what is offered does not verify: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(w.store, "sha256", a.GetSha256()))
	if err != nil || len(files) != 1 {
		t.Errorf("the store has %v, %v", files, err)
	}
	second := w.see(w.publish("1043"), is(metav1.ConditionTrue, "Offered"))
	if second.Status.Sequence <= first.Status.Sequence {
		t.Errorf("sequences are %d, then %d", first.Status.Sequence, second.Status.Sequence)
	}

	// Withdrawn: who runs it may go back to 1042, and to nothing else.
	w.patch("content-1043", `{"spec":{"state":"Withdrawn"}}`)
	if r := w.see("content-1043", is(metav1.ConditionTrue, "Withdrawn")); r.Status.Offer != nil {
		t.Error("what was withdrawn is still offered")
	}
	again := w.see("content-1042", func(r *v1alpha1.ContentRelease) error {
		if r.Status.Sequence <= second.Status.Sequence {
			return fmt.Errorf("its sequence is %d", r.Status.Sequence)
		}
		return nil
	})
	if back := w.opened(again); fmt.Sprint(back.GetWithdrawn()) != "[1043]" {
		t.Errorf("it may be taken instead of %v", back.GetWithdrawn())
	}

	// A restarted manager signs nothing again, and fetches nothing again: the ConfigMap is gone.
	if err := w.person.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "content-1042"}}); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.run()
	w.patch("content-1042", `{"spec":{"state":"Paused"}}`)
	if r := w.see("content-1042", is(metav1.ConditionTrue, "Paused")); r.Status.Sequence != again.Status.Sequence || r.Status.Offer == nil || r.Status.Rollout.Percent != 0 {
		t.Errorf("sequence %d, then %d", again.Status.Sequence, r.Status.Sequence)
	}
}

func TestRefuses(t *testing.T) {
	w := start(t)
	stranger, err := local.NewPublisher()
	if err != nil {
		t.Fatal(err)
	}
	garbage, wrongVersion := []byte(`{"format":"rollcall.content/v1","version":"3","rules":[],"more":1}`), local.Document("77")
	for version, tc := range map[string]struct {
		make   func(version string) (*corev1.ConfigMap, *v1alpha1.ContentRelease)
		reason string
		words  []string
	}{
		"1": {func(v string) (*corev1.ConfigMap, *v1alpha1.ContentRelease) {
			cm, r := w.publisher.Release(w.ns, v, local.Document(v))
			cm.Data["content.json"] += " "
			return cm, r
		}, "DigestDiffers", []string{"ConfigMap content-1", "digest"}},
		"2": {func(v string) (*corev1.ConfigMap, *v1alpha1.ContentRelease) {
			return stranger.Release(w.ns, v, local.Document(v))
		}, "SignatureInvalid", []string{"release key"}},
		"3": {func(v string) (*corev1.ConfigMap, *v1alpha1.ContentRelease) {
			return w.publisher.Release(w.ns, v, garbage)
		}, "Unparsable", []string{"more"}},
		"4": {func(v string) (*corev1.ConfigMap, *v1alpha1.ContentRelease) {
			return w.publisher.Release(w.ns, v, wrongVersion)
		}, "VersionDiffers", []string{"77"}},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			cm, r := tc.make(version)
			w.create(cm, r)
			got := w.see(r.Name, is(metav1.ConditionFalse, tc.reason))
			stalled := meta.FindStatusCondition(got.Status.Conditions, v1alpha1.ConditionStalled)
			if stalled == nil || got.Status.Offer != nil || got.Status.Artifact != nil {
				t.Fatalf("it is not stalled: %+v", got.Status)
			}
			t.Log(stalled.Message)
			for _, word := range tc.words {
				if !strings.Contains(stalled.Message, word) || !strings.Contains(got.Status.Rollout.Message, word) {
					t.Errorf("%q, %q: does not name %q", stalled.Message, got.Status.Rollout.Message, word)
				}
			}
		})
	}
	if files, err := filepath.Glob(filepath.Join(w.store, "sha256", "*")); err != nil || len(files) > 0 {
		t.Errorf("the store has what was refused: %v, %v", files, err)
	}

	t.Run("mended", func(t *testing.T) { // the ConfigMap came late, or its text was set right
		w.patchConfigMap("content-1", string(local.Document("1")))
		if r := w.see("content-1", is(metav1.ConditionTrue, "Offered")); meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionStalled) != nil {
			t.Error("it is still stalled")
		}
	})
	t.Run("another key", func(t *testing.T) {
		w.believe(w.publisher, stranger)
		w.changed <- event.GenericEvent{Object: &v1alpha1.ContentRelease{}}
		w.see("content-2", is(metav1.ConditionTrue, "Offered"))
		w.believe(w.publisher)
		w.changed <- event.GenericEvent{Object: &v1alpha1.ContentRelease{}}
		if r := w.see("content-2", is(metav1.ConditionFalse, "SignatureInvalid")); r.Status.Offer != nil {
			t.Error("what nobody believes any more is still offered")
		}
		w.hasEvents("content-2", "Warning SignatureInvalid, Normal Offered, Warning SignatureInvalid, ")
	})
	t.Run("the same version twice", func(t *testing.T) {
		_, second := w.publisher.Release(w.ns, "1", local.Document("1"))
		second.Name, second.Spec.Version = "another", "1.0"
		w.create(second)
		r := w.see("another", is(metav1.ConditionFalse, "VersionTaken"))
		t.Log(r.Status.Rollout.Message)
		if err := w.person.Delete(t.Context(), &v1alpha1.ContentRelease{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "content-1"}}); err != nil {
			t.Fatal(err)
		}
		w.see("another", is(metav1.ConditionTrue, "Offered"))
	})
}

func (w *world) patchConfigMap(name, text string) {
	w.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}
	if err := w.person.Get(w.Context(), client.ObjectKeyFromObject(cm), cm); err != nil {
		w.Fatal(err)
	}
	cm.Data["content.json"] = text
	if err := w.person.Update(w.Context(), cm); err != nil {
		w.Fatal(err)
	}
}

// What somebody did to the store is found, and set right from the source.
func TestStoreIsMended(t *testing.T) {
	w := start(t)
	r := w.see(w.publish("1042"), is(metav1.ConditionTrue, "Offered"))
	file := filepath.Join(w.store, "sha256", string(r.Status.Artifact.SHA256))
	if err := os.WriteFile(file, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience, func() error {
		if got, err := os.ReadFile(file); err != nil || string(got) != string(local.Document("1042")) {
			return fmt.Errorf("it has %q, %w", got, err)
		}
		return nil
	})
	if now := w.see(r.Name, is(metav1.ConditionTrue, "Offered")); now.Status.Sequence != r.Status.Sequence {
		t.Error("it was signed again")
	}

	// While its source is away it stays offered: agents have, or find elsewhere, what was verified once.
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: r.Name}}
	if err := errors.Join(w.person.Delete(t.Context(), cm), os.Remove(file)); err != nil {
		t.Fatal(err)
	}
	away := w.see(r.Name, func(r *v1alpha1.ContentRelease) error {
		c := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Message != "verified, signed and offered; checking it again: ConfigMap content-1042 does not exist" {
			return fmt.Errorf("Ready is %+v", c)
		}
		return is(metav1.ConditionTrue, "Offered")(r)
	})
	if away.Status.Offer == nil || away.Status.Sequence != r.Status.Sequence {
		t.Errorf("it is offered no more: %+v", away.Status)
	}
}

func TestHTTPS(t *testing.T) {
	w := start(t)
	w.stop()
	var down atomic.Bool
	down.Store(true)
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/away":
			http.Redirect(rw, r, "http://"+r.Host+"/content", http.StatusFound)
		case down.Load():
			http.Error(rw, "later", http.StatusServiceUnavailable)
		default:
			_, _ = rw.Write(local.Document("1042"))
		}
	}))
	defer server.Close()
	w.web = server.Client()
	own, err := NewHTTPClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.web.CheckRedirect = own.CheckRedirect
	w.run()
	from := func(path string) func(*v1alpha1.ContentRelease) { return over(server.URL + path) }
	w.publish("1042", from("/content"))
	r := w.see("content-1042", is(metav1.ConditionFalse, "FetchFailed"))
	if !strings.Contains(r.Status.Rollout.Message, "503") || meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReconciling) == nil {
		t.Errorf("it is told of as %+v", r.Status)
	}
	down.Store(false)
	w.see("content-1042", is(metav1.ConditionTrue, "Offered"))
	w.publish("1043", from("/away"))
	w.see("content-1043", func(r *v1alpha1.ContentRelease) error {
		if is(metav1.ConditionFalse, "FetchFailed")(r) != nil || !strings.Contains(r.Status.Rollout.Message, "302") {
			return errors.New(r.Status.Rollout.Message)
		}
		return nil
	})
}

// A source that is away is not asked all the time.
func TestPauses(t *testing.T) {
	now := time.Now()
	r := &reconciler{Options: Options{CountInterval: countInterval, Now: func() time.Time { return now }}}
	passes := &problem{passes: true}
	for _, tc := range []struct {
		wrong *problem
		since time.Duration
		want  time.Duration
	}{
		{nil, time.Hour, countInterval},
		{&problem{}, time.Hour, countInterval},
		{passes, 0, 2 * time.Second},
		{passes, time.Minute, 30 * time.Second},
		{passes, time.Hour, 5 * time.Minute},
	} {
		release := &v1alpha1.ContentRelease{}
		release.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, LastTransitionTime: metav1.NewTime(now.Add(-tc.since))}}
		if got := r.next(release, tc.wrong); got != tc.want {
			t.Errorf("%s after it went wrong with %+v it is looked at again in %s, want %s", tc.since, tc.wrong, got, tc.want)
		}
	}
}

// Stalled says that a person must do something, and Reconciling that time will.
func TestConditions(t *testing.T) {
	for _, tc := range []struct {
		wrong *problem
		want  string
	}{
		{nil, "Ready=True "},
		{&problem{reason: reasonFetching, passes: true}, "Ready=Unknown Reconciling=True "},
		{&problem{reason: reasonFetchFailed, passes: true}, "Ready=False Reconciling=True "},
		{&problem{reason: content.ReasonDigestDiffers, passes: true}, "Ready=False Stalled=True "},
		{&problem{reason: reasonVersionTaken}, "Ready=False Stalled=True "},
	} {
		r, got := &v1alpha1.ContentRelease{}, ""
		setConditions(r, tc.wrong)
		for _, c := range r.Status.Conditions {
			got += fmt.Sprintf("%s=%s ", c.Type, c.Status)
		}
		if got != tc.want {
			t.Errorf("%+v is told as %q, want %q", tc.wrong, got, tc.want)
		}
	}
}

// over names a web server as the source.
func over(url string) func(*v1alpha1.ContentRelease) {
	return func(r *v1alpha1.ContentRelease) {
		r.Spec.Source.ConfigMap, r.Spec.Source.HTTPS = nil, &v1alpha1.HTTPSSource{URL: url}
	}
}

// However many sources of one namespace hang, another one's release is offered, and this one's all are at last.
func TestSourcesThatHang(t *testing.T) {
	w := start(t)
	w.stop()
	var asked atomic.Int32
	answer := make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		select {
		case <-answer:
			_, _ = rw.Write(local.Document(r.URL.Path[1:]))
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	let := sync.OnceFunc(func() { close(answer) })
	defer let() // before the server is closed, which waits for its answers
	w.web = server.Client()
	other := &world{T: t, api: w.api, ns: w.api.Namespace(t), publisher: w.publisher}
	other.person = w.api.Person(t, other.ns).Client
	w.run(other.ns)
	var hanging []string
	for i := range 2 * workers {
		version := fmt.Sprint(i + 1)
		hanging = append(hanging, w.publish(version, over(server.URL+"/"+version)))
	}
	for _, name := range hanging {
		harness.Eventually(t, patience, func() error {
			r := &v1alpha1.ContentRelease{}
			if err := w.person.Get(t.Context(), types.NamespacedName{Namespace: w.ns, Name: name}, r); err != nil {
				return err
			}
			return is(metav1.ConditionUnknown, "Fetching")(r)
		})
	}
	other.see(other.publish("1042"), is(metav1.ConditionTrue, "Offered"))
	if got := asked.Load(); got != perNamespace {
		t.Errorf("%d sources of the namespace were asked at once", got)
	}
	let()
	sequences := map[int64]string{}
	for _, name := range hanging {
		r := w.see(name, is(metav1.ConditionTrue, "Offered"))
		if another := sequences[r.Status.Sequence]; another != "" {
			t.Errorf("%s and %s have the sequence %d", another, name, r.Status.Sequence)
		}
		sequences[r.Status.Sequence] = name
	}
}

// It is offered all the same: the manager cannot know.
func TestStoreNotShared(t *testing.T) {
	w := start(t)
	w.stop()
	w.notShared = true
	w.run()
	told := func(wants bool) func(*v1alpha1.ContentRelease) error {
		return func(r *v1alpha1.ContentRelease) error {
			if c := meta.FindStatusCondition(r.Status.Conditions, "StoreNotShared"); (c != nil) != wants || wants && !strings.Contains(c.Message, "--artifact-store-shared") {
				return fmt.Errorf("it is told of as %+v", c)
			}
			return is(metav1.ConditionTrue, "Offered")(r)
		}
	}
	name := w.publish("1042")
	w.see(name, told(true))
	w.stop()
	w.notShared = false
	w.run()
	w.see(name, told(false))
}
