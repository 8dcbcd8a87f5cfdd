package api_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/rollcall-dev/rollcall/test/harness"
)

const immutableWords = "spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"

// mutable are the fields of an action's spec that may change.
var mutable = []string{"spec.cancel", "spec.ttlSecondsAfterFinished"}

// What was asked for does not become something else. Every field that the schema has is added, removed and changed, each time between two
// specs that could have been created: a new field has to be in acceptedActions, and immutable.
func TestSpecOfAnActionIsImmutable(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	trial := &immutability{t: t, ns: ns, who: person(t, ns, []string{"rollcall-edit", "rollcall-responder"}, endpointVerbs("terminal")), tried: map[string]map[string]bool{}}
	for _, f := range fields(t, "epa") {
		if !strings.HasPrefix(f.path, "spec.") || strings.HasSuffix(f.path, "{}") || slices.Contains(mutable, f.path) {
			continue // the values of a map are tried as the map's
		}
		trial.tried[f.path] = map[string]bool{}
		for _, m := range acceptedActions {
			trial.field(f, object(t, "epa", "x", m.body))
		}
		for _, how := range []string{"changed", "added", "removed"} {
			if !trial.tried[f.path][how] && (how == "changed" || !f.required && !bound[f.path]) {
				t.Errorf("%s: nothing in acceptedActions lets it be %s", f.path, how)
			}
		}
	}
}

// bound are fields that no spec can lose or gain alone: another field needs them.
var bound = map[string]bool{
	"spec.endpointName": true, "spec.selector": true, "spec.quarantineFile": true, "spec.restoreFile": true, "spec.terminateProcess": true,
	"spec.setEndpointProxy": true, "spec.retrieveFiles": true, "spec.retrieveSecurityEventData": true,
	"spec.terminateProcess.pid": true, "spec.terminateProcess.startTime": true, "spec.selector.matchExpressions[].values": true,
}

type immutability struct {
	t     *testing.T
	ns    string
	who   account
	made  int
	tried map[string]map[string]bool
}

// field tries one field of one spec that has it.
func (i *immutability) field(f field, with *unstructured.Unstructured) {
	i.t.Helper()
	if _, _, value := at(with.Object, "."+f.path); value == nil {
		return
	}
	without := with.DeepCopy()
	i.remove(without, f.path)
	if i.possible(without) {
		i.refusesToBecome(f, "removed", with, without)
		i.refusesToBecome(f, "added", without, with)
	}
	for _, other := range others(f.schema, with, f.path) {
		if i.possible(other) {
			i.refusesToBecome(f, "changed", with, other)
			return
		}
	}
}

// possible tells whether an action with that spec could be created.
func (i *immutability) possible(o *unstructured.Unstructured) bool {
	_, err := i.who.of("epa", i.ns).Create(i.t.Context(), o, metav1.CreateOptions{DryRun: dryRun})
	if err != nil && !apierrors.IsInvalid(err) {
		i.t.Fatal(err)
	}
	return err == nil
}

func (i *immutability) refusesToBecome(f field, how string, from, to *unstructured.Unstructured) {
	i.t.Helper()
	i.made++
	from, to = from.DeepCopy(), to.DeepCopy()
	name := fmt.Sprintf("action-%d", i.made)
	from.SetName(name)
	to.SetName(name)
	made, err := i.who.of("epa", i.ns).Create(i.t.Context(), from, metav1.CreateOptions{})
	if err != nil {
		i.t.Fatal(err)
	}
	to.SetResourceVersion(made.GetResourceVersion())
	_, err = i.who.of("epa", i.ns).Update(i.t.Context(), to, metav1.UpdateOptions{DryRun: dryRun})
	if !slices.ContainsFunc(told(err), func(s string) bool { return strings.HasSuffix(s, immutableWords) }) {
		i.t.Errorf("%s %s: told %s\nfrom %s\nto   %s", f.path, how, told(err), asJSON(i.t, from.Object["spec"]), asJSON(i.t, to.Object["spec"]))
	}
	i.tried[f.path][how] = true
}

func (i *immutability) remove(o *unstructured.Unstructured, path string) {
	parent, key, _ := at(o.Object, "."+path)
	switch p := parent.(type) {
	case map[string]any:
		delete(p, key)
	case []any: // the list without its first item
		holder, name, _ := at(o.Object, "."+strings.TrimSuffix(path, "[]"))
		of, _ := holder.(map[string]any)
		of[name] = p[1:]
	}
}

// others are the specs in which the field has another value that its schema may take.
func others(s *apiextensionsv1.JSONSchemaProps, o *unstructured.Unstructured, path string) []*unstructured.Unstructured {
	_, _, was := at(o.Object, "."+path)
	var values []any
	switch v := was.(type) {
	case string:
		for _, e := range s.Enum {
			values = append(values, strings.Trim(string(e.Raw), `"`))
		}
		values = append(values, v+"1", "1"+v, strings.Replace(v, "0", "1", 1), "2026-03-01T13:00:00Z")
	case float64:
		values = append(values, v+1, v-1)
	case []any:
		values = append(values, append(slices.Clone(v), v[0]), append(slices.Clone(v), "1"), append(slices.Clone(v), "10.99.0.0/16"), slices.Clone(v[1:]))
	case map[string]any:
		for key, item := range v {
			less, other := maps.Clone(v), maps.Clone(v)
			delete(less, key)
			switch i := item.(type) {
			case string:
				other[key] = i + "1"
			case []any:
				other[key] = i[1:]
			}
			values = append(values, less, other)
		}
	}
	var all []*unstructured.Unstructured
	for _, value := range values {
		if asText(value) == asText(was) {
			continue
		}
		other := o.DeepCopy()
		switch parent, key, _ := at(other.Object, "."+path); p := parent.(type) {
		case map[string]any:
			p[key] = value
		case []any:
			p[0] = value
		}
		all = append(all, other)
	}
	return all
}

func asText(value any) string { return fmt.Sprintf("%#v", value) }

// What may change: cancel, one way, and the time to live, any way.
func TestWhatMayChangeInAnAction(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	author := person(t, ns, authors)
	const sticky = "spec: Invalid value: a cancelled action stays cancelled: create another action"
	with := func(more string) string { return `spec: {type: PerformHeartbeat, endpointName: devbox, ` + more + `}` }
	for i, tc := range []struct{ name, from, to, want string }{
		{"cancelled", ``, `cancel: true`, ""},
		{"cancelled after all", `cancel: false`, `cancel: true`, ""},
		{"not cancelled, in so many words", ``, `cancel: false`, ""},
		{"not cancelled, without words", `cancel: false`, ``, ""},
		{"still cancelled", `cancel: true`, `cancel: true, ttlSecondsAfterFinished: 60`, ""},
		{"cancelled no more", `cancel: true`, `cancel: false`, sticky},
		{"cancel taken away", `cancel: true`, ``, sticky},
		{"a time to live", ``, `ttlSecondsAfterFinished: 60`, ""},
		{"another time to live", `ttlSecondsAfterFinished: 60`, `ttlSecondsAfterFinished: 0`, ""},
		{"no time to live", `ttlSecondsAfterFinished: 60`, ``, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := fmt.Sprintf("action-%d", i)
			made, err := author.of("epa", ns).Create(t.Context(), object(t, "epa", name, with(tc.from)), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			to := object(t, "epa", name, with(tc.to))
			to.SetResourceVersion(made.GetResourceVersion())
			_, err = author.of("epa", ns).Update(t.Context(), to, metav1.UpdateOptions{DryRun: dryRun})
			switch words := told(err); {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && !slices.Contains(words, tc.want):
				t.Errorf("told: %s\nwant: %s", words, tc.want)
			}
		})
	}
}

// A tool that applies what Git has never takes back what a person has cancelled, and is told so.
func TestApplyDoesNotTakeACancelBack(t *testing.T) {
	api := harness.Cluster(t)
	author := api.Person(t, api.Namespace(t))
	const action = "apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: hello}\nspec: {type: PerformHeartbeat, endpointName: devbox"
	author.Apply(t, action+"}\n")
	author.Kubectl(t, "patch", "epa", "hello", "--type=merge", "-p", `{"spec":{"cancel":true}}`)
	author.Apply(t, action+"}\n") // silent about it: it stays
	if got := author.Kubectl(t, "get", "epa", "hello", "-o", "jsonpath={.spec.cancel}"); got != "true" {
		t.Errorf("after another apply cancel is %q", got)
	}
	_, err := author.Try(t, action+", cancel: false}\n", "apply", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "a cancelled action stays cancelled: create another action") {
		t.Errorf("kubectl apply: %v", err)
	}
}
