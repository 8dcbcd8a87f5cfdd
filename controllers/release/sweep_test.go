package release

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/artifact"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/test/harness"
)

func TestUnnamed(t *testing.T) {
	now := time.Now()
	of := func(digest string, age time.Duration) artifact.Kept {
		return artifact.Kept{Digest: digest, At: now.Add(-age)}
	}
	for name, tc := range map[string]struct {
		all   []artifact.Kept
		named []string
		want  []string
	}{
		"nothing":             {nil, []string{"a"}, nil},
		"named":               {[]artifact.Kept{of("a", 999*time.Hour)}, []string{"b", "a"}, nil},
		"young":               {[]artifact.Kept{of("a", 0), of("b", time.Hour)}, nil, nil},
		"of the future":       {[]artifact.Kept{of("a", -time.Hour)}, nil, nil},
		"older than an hour":  {[]artifact.Kept{of("a", time.Hour+time.Second)}, nil, []string{"a"}},
		"some of one of each": {[]artifact.Kept{of("a", 2*time.Hour), of("b", 2*time.Hour), of("c", time.Minute)}, []string{"b"}, []string{"a"}},
	} {
		if got := unnamed(tc.all, sets.New(tc.named...), now); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v go, want %v", name, got, tc.want)
		}
	}
}

// The manager watches one namespace, and a release of another one keeps its artifact all the same.
func TestSweep(t *testing.T) {
	w := start(t)
	elsewhere := &world{T: t, api: w.api, ns: w.api.Namespace(t), publisher: w.publisher}
	elsewhere.person = w.api.Person(t, elsewhere.ns).Client
	elsewhere.publish("2")
	stranger := filepath.Join(w.store, "sha256", "README")
	for _, version := range []string{"1", "2", "3"} {
		w.see(w.publish(version), is(metav1.ConditionTrue, "Offered"))
	}
	if err := os.WriteFile(stranger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.age(stranger)
	drop := func(version string) {
		for _, o := range []client.Object{&v1alpha1.ContentRelease{}, &corev1.ConfigMap{}} {
			o.SetNamespace(w.ns)
			o.SetName("content-" + version)
			if err := w.person.Delete(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	drop("1")
	drop("2")
	for _, version := range []string{"2", "3"} { // old, and named
		w.age(w.file(version))
	}
	w.see(w.publish("4"), is(metav1.ConditionTrue, "Offered"))
	drop("4") // named no more, and young
	w.age(w.file("1"))
	harness.Eventually(t, patience, func() error {
		if _, err := os.Stat(w.file("1")); !errors.Is(err, os.ErrNotExist) {
			return errors.Join(errors.New("the artifact of the release that was deleted is there"), err)
		}
		return nil
	})
	for _, kept := range []string{w.file("2"), w.file("3"), w.file("4"), stranger} {
		if _, err := os.Stat(kept); err != nil {
			t.Error(err)
		}
	}

	// Somebody who wants it back gets it, though it was good a moment ago.
	w.see(w.publish("1"), is(metav1.ConditionTrue, "Offered"))
	if _, err := os.Stat(w.file("1")); err != nil {
		t.Error(err)
	}
}

func (w *world) file(version string) string {
	return filepath.Join(w.store, "sha256", content.Digest(local.Document(version)))
}

// age makes a file older than the grace.
func (w *world) age(file string) {
	w.Helper()
	then := time.Now().Add(-grace - time.Minute)
	if err := os.Chtimes(file, then, then); err != nil {
		w.Fatal(err)
	}
}
