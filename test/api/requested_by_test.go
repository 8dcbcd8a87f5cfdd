package api_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// asked makes and reads actions on a cluster of the test's own: the stamp is for a whole cluster, and others do without it.
type asked struct {
	t   *testing.T
	api *harness.API
	ns  string
}

func (a asked) person() harness.Person { return a.api.Person(a.t, a.ns) }

// annotated is an action with annotations in YAML's flow style, made by kubectl create.
func annotated(name, annotations string) string {
	return "apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: " + name + ", annotations: {" + annotations + "}}\nspec: {type: PerformHeartbeat, endpointName: devbox}\n"
}

func requestedBy(name string) string { return `rollcall.dev/requested-by: "` + name + `"` }

// by is who asked for it, as the object says.
func (a asked) by(name string) string {
	a.t.Helper()
	return a.api.Kubectl(a.t, "get", "epa", name, "-n", a.ns, "-o", `jsonpath={.metadata.annotations.rollcall\.dev/requested-by}`)
}

func (a asked) is(name, want string) {
	a.t.Helper()
	if got := a.by(name); got != want {
		a.t.Errorf("%s was requested by %q, want %q", name, got, want)
	}
}

func (a asked) refuses(out string, err error, words string) {
	a.t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		a.t.Errorf("want a refusal with: %s\ngot: %s %v", words, out, err)
	}
}

func TestWhoAskedForAnAction(t *testing.T) {
	api := ownCluster(t)
	a := asked{t: t, api: api, ns: api.Namespace(t)}
	api.Kubectl(t, "delete", "mutatingadmissionpolicybinding", "requested-by-stamp.rollcall.dev", "--ignore-not-found")
	t.Run("without the stamp", func(t *testing.T) { a.t = t; a.withoutTheStamp() })
	api.Kubectl(t, "apply", "-k", stamped(t))
	t.Run("with the stamp", func(t *testing.T) { a.t = t; a.withTheStamp() })
	t.Run("applied again", func(t *testing.T) {
		allUnchanged(t, api.Kubectl(t, "apply", "-k", stamped(t)))
		noDifference(t, func(args ...string) (string, error) { return api.TryKubectl(t, "", args...) }, "diff", "-k", stamped(t))
	})
}

// stamped is a kustomization as docs/api.md tells people to write it.
func stamped(t *testing.T) string {
	t.Helper()
	return asShown(t, "docs/api.md", "config/components/requested-by-stamp")
}

// asShown is a directory with the kustomization that a document shows, which has to mention what.
func asShown(t *testing.T, document, what string) string {
	t.Helper()
	dir := t.TempDir()
	relative, err := filepath.Rel(dir, filepath.Join(harness.Root(), "config"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(harness.Root(), document))
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(doc), "```yaml\n# kustomization.yaml\n")[1:]
	i := slices.IndexFunc(blocks, func(b string) bool { b, _, _ = strings.Cut(b, "```"); return strings.Contains(b, what) })
	if i < 0 {
		t.Fatalf("%s does not tell how to include %s", document, what)
	}
	text, _, _ := strings.Cut(blocks[i], "```")
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(strings.ReplaceAll(text, "config/", relative+"/")), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Before Kubernetes 1.36 the annotation is the caller's to write, and cannot be a lie.
func (a asked) withoutTheStamp() {
	alice := a.person()
	create := func(name, annotations string) (string, error) {
		return alice.Try(a.t, annotated(name, annotations), "create", "-f", "-")
	}
	only := `the annotation rollcall.dev/requested-by may only name the caller, "` + alice.User() + `"`
	const never = "the annotation rollcall.dev/requested-by never changes"
	harness.Eventually(a.t, time.Minute, func() error { // until the API server knows the policy
		_, err := alice.Try(a.t, annotated("forged", requestedBy("mallory")), "create", "--dry-run=server", "-f", "-")
		if err == nil {
			return errors.New("forged")
		}
		return nil
	})
	for name, by := range map[string]string{"forged": "mallory", "empty": ""} {
		out, err := create(name, requestedBy(by))
		a.refuses(out, err, only)
	}
	for _, name := range []string{"honest", "silent"} {
		annotations := map[string]string{"honest": requestedBy(alice.User()), "silent": ""}[name]
		if _, err := create(name, annotations); err != nil {
			a.t.Fatal(err)
		}
	}
	a.is("honest", alice.User())
	a.is("silent", "")
	for name, change := range map[string]string{"honest": "rollcall.dev/requested-by=mallory", "silent": "rollcall.dev/requested-by=" + alice.User()} {
		out, err := alice.Try(a.t, "", "annotate", "--overwrite", "epa", name, change)
		a.refuses(out, err, never)
	}
	out, err := alice.Try(a.t, "", "annotate", "epa", "honest", "rollcall.dev/requested-by-")
	a.refuses(out, err, never)
	alice.Kubectl(a.t, "annotate", "epa", "honest", "example.com/ticket=INC-4711")
}

// From 1.36 on the API server writes it down by itself.
func (a asked) withTheStamp() {
	alice, manager := a.person(), a.manager()
	harness.Eventually(a.t, time.Minute, func() error { // until the API server knows the policy, and the policy the kind
		alice.Kubectl(a.t, "delete", "epa", "stamped", "--ignore-not-found")
		if _, err := alice.Try(a.t, annotated("stamped", ""), "apply", "-f", "-"); err != nil {
			return err
		}
		if got := a.by("stamped"); got != alice.User() {
			return &difference{"requested by " + got}
		}
		return nil
	})

	// What is typed does not count, and nothing that anybody does later changes it.
	alice.Apply(a.t, annotated("typed", requestedBy("mallory")))
	a.is("typed", alice.User())
	bob := a.bob()
	for _, change := range []func(){
		func() {
			alice.Kubectl(a.t, "annotate", "--overwrite", "epa", "typed", "rollcall.dev/requested-by=mallory")
		},
		func() { alice.Kubectl(a.t, "annotate", "epa", "typed", "rollcall.dev/requested-by-") },
		func() {
			if _, err := alice.Try(a.t, annotated("typed", ""), "replace", "-f", "-"); err != nil {
				a.t.Error(err)
			}
		},
		func() { bob("", "patch", "epa", "typed", "--type=merge", "-p", `{"spec":{"cancel":true}}`) },
		func() { bob("", "label", "epa", "typed", "seen-by=bob") },
	} {
		change()
		a.is("typed", alice.User())
	}
	alice.Kubectl(a.t, "label", "epa", "silent", "seen-by=alice")
	a.is("silent", "") // it is from before the stamp

	// A tool that applies again and again, its author's or somebody else's, by either way, changes nothing and sees no difference.
	for _, serverSide := range []string{"--server-side=false", "--server-side=true"} {
		name := strings.ReplaceAll(serverSide[2:], "=", "-")
		manifest := annotated(name, "")
		for i, apply := range []func(string, ...string) string{a.alice(alice), a.alice(alice), bob} {
			was := a.revision(name)
			apply(manifest, "apply", serverSide, "-f", "-")
			if is := a.revision(name); i > 0 && is != was {
				a.t.Errorf("%s: the apply number %d changed it", serverSide, i+1)
			}
			if i == 0 { // the default of a status is stored with the first write, and so counts as a change
				a.look(manager, name)
			}
			if out := apply(manifest, "diff", serverSide, "-f", "-"); out != "" {
				a.t.Errorf("%s: kubectl diff: %s", serverSide, out)
			}
			a.is(name, alice.User())
		}
	}

	// A child has its parent's.
	child := object(a.t, "epa", "child", `metadata: {annotations: {`+requestedBy(alice.User())+`}}
`+specs["epa"])
	if _, err := manager.of("epa", a.ns).Create(a.t.Context(), child, metav1.CreateOptions{}); err != nil {
		a.t.Fatal(err)
	}
	a.is("child", alice.User())
}

// manager is the manager's account on that cluster.
func (a asked) manager() account {
	a.t.Helper()
	config, err := controlplane.ServiceAccountConfig(a.t.Context(), a.api.Admin, system, "rollcall-manager")
	if err != nil {
		a.t.Fatal(err)
	}
	return newAccount(a.t, "manager", config)
}

// look writes a status as the manager's first look does.
func (a asked) look(manager account, name string) {
	a.t.Helper()
	o, err := manager.of("epa", a.ns).Get(a.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	o.Object["status"] = map[string]any{"observedGeneration": o.GetGeneration(), "phase": "Pending"}
	if _, err := manager.of("epa", a.ns).UpdateStatus(a.t.Context(), o, metav1.UpdateOptions{}); err != nil {
		a.t.Fatal(err)
	}
}

func (a asked) revision(name string) string {
	a.t.Helper()
	return a.api.Kubectl(a.t, "get", "epa", name, "-n", a.ns, "--ignore-not-found", "-o", "jsonpath={.metadata.resourceVersion}")
}

func (a asked) alice(alice harness.Person) func(stdin string, args ...string) string {
	return func(stdin string, args ...string) string {
		a.t.Helper()
		out, err := alice.Try(a.t, stdin, args...)
		if err != nil {
			a.t.Fatal(err)
		}
		return out
	}
}

// bob has the same rights as alice.
func (a asked) bob() func(stdin string, args ...string) string {
	a.t.Helper()
	bob, err := local.CreatePerson(a.t.Context(), a.api.Admin, a.ns, "bob", a.t.TempDir())
	if err != nil {
		a.t.Fatal(err)
	}
	return func(stdin string, args ...string) string {
		a.t.Helper()
		out, err := local.Kubectl(a.t.Context(), a.api.KubectlPath, bob.Kubeconfig, stdin, args...)
		if err != nil {
			a.t.Fatal(err)
		}
		return out
	}
}
