package api_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// specs are the least that each kind takes.
var specs = map[string]string{
	"fep": "", "epa": "spec: {type: PerformHeartbeat, endpointName: devbox}", "epp": "spec: {}", "ept": "spec: {expiresAfterHours: 72, maxUses: 50}",
	"ctr": "spec: {version: '1042', source: {sha256: " + strings.Repeat("a", 64) + ", signature: untrusted comment, configMap: {name: c, key: k}}}",
}

// authors may create an object of each kind.
var authors = []string{"rollcall-admin", "rollcall-edit", "rollcall-releases"}

// fullStatus has every field that a status can have.
func fullStatus(t *testing.T, short string) map[string]any {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "status", short+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	status, _, _ := unstructured.NestedMap(object(t, short, "x", string(content)).Object, "status")
	return status
}

// writeStatus writes a status as the manager does.
func writeStatus(t *testing.T, short, namespace, name string, status map[string]any) *unstructured.Unstructured {
	t.Helper()
	o, err := tryStatus(t, manager(t), short, namespace, name, status)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// tryStatus is writeStatus for one that may be refused. The manager updates the status of an action, and patches all others.
func tryStatus(t *testing.T, writer account, short, namespace, name string, status map[string]any, dryRun ...string) (*unstructured.Unstructured, error) {
	t.Helper()
	objects := writer.of(short, namespace)
	if short != "epa" {
		whole := patch{{"op": "add", "path": "/status", "value": status}}
		return objects.Patch(t.Context(), name, types.JSONPatchType, whole.bytes(t), metav1.PatchOptions{DryRun: dryRun, FieldValidation: metav1.FieldValidationStrict}, "status")
	}
	o, err := objects.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	o.Object["status"] = status
	return objects.UpdateStatus(t.Context(), o, metav1.UpdateOptions{DryRun: dryRun, FieldValidation: metav1.FieldValidationStrict})
}

// at finds the value at a field's path; parent holds it under key.
func at(root map[string]any, path string) (parent any, key string, value any) {
	var current any = root
	for _, step := range strings.Split(strings.ReplaceAll(path, "[]", ".[]"), ".")[1:] {
		parent, key = current, step
		switch c := current.(type) {
		case map[string]any:
			current = c[step]
		case []any:
			current = c[0]
		default:
			return nil, "", nil
		}
	}
	return parent, key, current
}

// A process that is seized, or merely wrong, writes no more into a status than its schema has room for.
func TestEveryRuleOnAStatusRefuses(t *testing.T) {
	api := harness.Cluster(t)
	ns, writer := api.Namespace(t), manager(t)
	author := person(t, ns, authors)
	for short := range kinds {
		if _, err := author.of(short, ns).Create(t.Context(), object(t, short, "full", specs[short]), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		write := func(status map[string]any) error {
			_, err := tryStatus(t, writer, short, ns, "full", status, dryRun...)
			return err
		}
		if err := write(fullStatus(t, short)); err != nil {
			t.Fatalf("%s: the full status is refused: %v", short, err)
		}
		for _, f := range fields(t, short) {
			if !strings.HasPrefix(f.path, "status.") || f.condition() {
				continue
			}
			if _, _, value := at(fullStatus(t, short), f.path); value == nil {
				t.Errorf("%s.%s: testdata/status/%s.yaml does not have it", short, f.path, short)
				continue
			}
			for words, bad := range violations(f) {
				status := fullStatus(t, short)
				parent, key, was := at(status, f.path)
				switch p := parent.(type) {
				case map[string]any:
					if p[key] = bad(was); p[key] == nil {
						delete(p, key)
					}
				case []any:
					p[0] = bad(was)
				}
				err := write(status)
				want := strings.ReplaceAll(f.path, "[]", "[0]")
				if !slices.ContainsFunc(told(err), func(s string) bool { return strings.HasPrefix(s, want) && strings.Contains(s, words) }) {
					t.Errorf("%s.%s: want %q, told %s", short, f.path, words, told(err))
				}
			}
		}
	}
}

// violations break one rule of a field each; the key is how the API server speaks of it.
func violations(f field) map[string]func(was any) any {
	s, bad := f.schema, map[string]func(any) any{}
	if f.required {
		bad["Required value"] = func(any) any { return nil }
	}
	if len(s.Enum) > 0 {
		bad["Unsupported value"] = func(any) any { return "Bogus" }
	}
	if s.MaxLength != nil {
		bad["Too long"] = func(any) any { return strings.Repeat("aaaa", int(*s.MaxLength)/4+1) }
	}
	if s.Pattern != "" {
		bad["should match"] = func(any) any { return "!" }
	}
	if s.Minimum != nil {
		bad["greater than or equal"] = func(any) any { return int64(*s.Minimum) - 1 }
	}
	if s.MinItems != nil {
		bad["at least 1 items"] = func(any) any { return []any{} }
	}
	if s.MaxItems != nil {
		bad["must have at most"] = func(was any) any {
			items, _ := was.([]any)
			return slices.Repeat(items[:1], int(*s.MaxItems)+1)
		}
	}
	return bad
}

func TestNothingIsListedTwiceInAStatus(t *testing.T) {
	ns, writer := harness.Cluster(t).Namespace(t), manager(t)
	author := person(t, ns, authors)
	for short := range kinds {
		if _, err := author.of(short, ns).Create(t.Context(), object(t, short, "full", specs[short]), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, f := range fields(t, short) {
			if f.schema.XListType == nil || *f.schema.XListType == "atomic" || !strings.HasPrefix(f.path, "status.") {
				continue
			}
			status := fullStatus(t, short)
			holder, key, was := at(status, f.path)
			parent, _ := holder.(map[string]any)
			items, _ := was.([]any)
			parent[key] = slices.Repeat(items[:1], 2)
			_, err := tryStatus(t, writer, short, ns, "full", status, dryRun...)
			if !slices.ContainsFunc(told(err), func(s string) bool { return strings.HasPrefix(s, f.path+"[1]: Duplicate value") }) {
				t.Errorf("%s.%s: want a refusal of the doubled item, told %s", short, f.path, told(err))
			}
		}
	}
}

// A status is not for people, and a spec not for processes.
func TestStatusAndSpecAreApart(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	author := person(t, ns, []string{"rollcall-admin"})
	o := object(t, "fep", "apart", "spec: {displayName: mine}")
	o.Object["status"] = map[string]any{"summary": "Online", "lastSeenTime": "2026-01-01T00:00:00Z"}
	got, err := author.of("fep", ns).Create(t.Context(), o, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	status, _, _ := unstructured.NestedMap(got.Object, "status")
	if want := `{"observedGeneration":-1}`; asJSON(t, status) != want {
		t.Errorf("a new Endpoint has the status %s, want %s", asJSON(t, status), want)
	}
	both := patch{{"op": "remove", "path": "/spec"}, {"op": "add", "path": "/status/summary", "value": "Online"}}
	got, err = manager(t).of("fep", ns).Patch(t.Context(), "apart", types.JSONPatchType, both.bytes(t), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	if name, _, _ := unstructured.NestedString(got.Object, "spec", "displayName"); name != "mine" {
		t.Errorf("a write of the status left the displayName %q", name)
	}
}
