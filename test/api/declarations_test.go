package api_test

import (
	"fmt"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// writes let somebody write Endpoints; what they may declare in them is another matter.
var writes = endpointVerbs("get", "create", "update", "patch")

var declaringVerbs = []string{"isolate", "release", "proxy", "lifecycle"}

// Each declaration needs its own verb: whoever has all the others is refused, whoever has it alone is allowed.
func TestDeclarationsNeedTheirVerb(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	owner, with, without := person(t, ns, nil, writes, endpointVerbs(declaringVerbs...)), map[string]account{}, map[string]account{}
	for _, verb := range declaringVerbs {
		var others []string
		for _, other := range declaringVerbs {
			if other != verb {
				others = append(others, other)
			}
		}
		with[verb], without[verb] = person(t, ns, nil, writes, endpointVerbs(verb)), person(t, ns, nil, writes, endpointVerbs(others...))
	}
	const create = "" // the declaration comes with a new object
	bare, instance := `spec: {}`, func(id string) string { return `metadata: {annotations: {rollcall.dev/accept-instance: ` + id + `}}` }
	proxy := func(port int) string {
		return fmt.Sprintf(`spec: {proxy: {mode: Manual, url: "http://proxy:%d"}}`, port)
	}
	for i, tc := range []struct{ name, before, after, verb, refusal string }{
		{"isolated from the start", create, `spec: {isolation: Isolated}`, "isolate", "declare isolation"},
		{"isolated", bare, `spec: {isolation: Isolated}`, "isolate", "declare isolation"},
		{"isolated after all", `spec: {isolation: Released}`, `spec: {isolation: Isolated}`, "isolate", "declare isolation"},
		{"released from the start", create, `spec: {isolation: Released}`, "release", "lift isolation"},
		{"declared released", bare, `spec: {isolation: Released}`, "release", "lift isolation"},
		{"released", `spec: {isolation: Isolated}`, `spec: {isolation: Released}`, "release", "lift isolation"},
		{"isolation no longer declared", `spec: {isolation: Isolated}`, bare, "release", "lift isolation"},
		{"isolation gone with the spec", `spec: {isolation: Isolated}`, ``, "release", "lift isolation"},
		{"a proxy from the start", create, proxy(1), "proxy", "declare a proxy, or change or remove a declared one"},
		{"a proxy", bare, proxy(1), "proxy", "declare a proxy, or change or remove a declared one"},
		{"another proxy", proxy(1), proxy(2), "proxy", "declare a proxy, or change or remove a declared one"},
		{"no proxy any more", proxy(1), bare, "proxy", "declare a proxy, or change or remove a declared one"},
		{"a stage of life from the start", create, `spec: {lifecycle: Active}`, "lifecycle", "change the lifecycle"},
		{"blocked", bare, `spec: {lifecycle: Blocked}`, "lifecycle", "change the lifecycle"},
		{"active again", `spec: {lifecycle: Suspended}`, `spec: {lifecycle: Active}`, "lifecycle", "change the lifecycle"},
		{"active by default", `spec: {lifecycle: Suspended}`, bare, "lifecycle", "change the lifecycle"},
		{"an instance from the start", create, instance("a"), "lifecycle", "say which instance is the true one"},
		{"an instance", bare, instance("a"), "lifecycle", "say which instance is the true one"},
		{"another instance", instance("a"), instance("b"), "lifecycle", "say which instance is the true one"},
		{"no instance any more", instance("a"), bare, "lifecycle", "say which instance is the true one"},
		{"an empty instance", bare, instance(`""`), "lifecycle", "say which instance is the true one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := fmt.Sprintf("declared-%d", i)
			write := func(a account) error {
				_, err := a.of("fep", ns).Create(t.Context(), object(t, "fep", name, tc.after), metav1.CreateOptions{DryRun: dryRun})
				return err
			}
			if tc.before != create {
				made, err := owner.of("fep", ns).Create(t.Context(), object(t, "fep", name, tc.before), metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				write = func(a account) error {
					o := object(t, "fep", name, tc.after)
					o.SetResourceVersion(made.GetResourceVersion())
					_, err := a.of("fep", ns).Update(t.Context(), o, metav1.UpdateOptions{DryRun: dryRun})
					return err
				}
			}
			who := without[tc.verb]
			refused(t, write(who), fmt.Sprintf("%q may not %s: it needs the verb %q on endpoints.rollcall.dev", who.user, tc.refusal, tc.verb))
			if err := write(with[tc.verb]); err != nil {
				t.Errorf("with the verb %s: %v", tc.verb, err)
			}
		})
	}
}

func refused(t *testing.T, err error, words string) {
	t.Helper()
	if !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), words) {
		t.Errorf("got:  %v\nwant a refusal that ends: %s", err, words)
	}
}

// What is declared already binds nobody who changes something else.
func TestOtherChangesNeedNoVerb(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	const all = `
metadata: {annotations: {rollcall.dev/accept-instance: a}}
spec: {lifecycle: Suspended, isolation: Isolated, proxy: {mode: Manual, url: "http://proxy:1"}}`
	made, err := person(t, ns, nil, writes, endpointVerbs(declaringVerbs...)).of("fep", ns).Create(t.Context(), object(t, "fep", "declared", all), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	writer := person(t, ns, nil, writes)
	made.SetLabels(map[string]string{"device": "kiosk"})
	if err := unstructured.SetNestedField(made.Object, "Kiosk", "spec", "displayName"); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.of("fep", ns).Update(t.Context(), made, metav1.UpdateOptions{DryRun: dryRun}); err != nil {
		t.Error(err)
	}
	if _, err := writer.of("fep", ns).Create(t.Context(), object(t, "fep", "bare", ``), metav1.CreateOptions{DryRun: dryRun}); err != nil {
		t.Error(err)
	}
}

// A verb may be given for one Endpoint alone.
func TestAVerbOnOneEndpoint(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	one := endpointVerbs("isolate")
	one.ResourceNames = []string{"mine"}
	who := person(t, ns, nil, writes, one)
	create := func(name string) error {
		_, err := who.of("fep", ns).Create(t.Context(), object(t, "fep", name, `spec: {isolation: Isolated}`), metav1.CreateOptions{DryRun: dryRun})
		return err
	}
	if err := create("mine"); err != nil {
		t.Error(err)
	}
	refused(t, create("other"), `may not declare isolation: it needs the verb "isolate" on endpoints.rollcall.dev`)
}

// Rights in one namespace are none in another.
func TestAVerbInAnotherNamespace(t *testing.T) {
	api := harness.Cluster(t)
	mine, other := api.Namespace(t), api.Namespace(t)
	who := person(t, mine, nil, endpointVerbs("isolate"))
	bindTo(t, other, who, writes)
	_, err := who.of("fep", other).Create(t.Context(), object(t, "fep", "x", `spec: {isolation: Isolated}`), metav1.CreateOptions{DryRun: dryRun})
	refused(t, err, `may not declare isolation: it needs the verb "isolate" on endpoints.rollcall.dev`)
}

// bindTo gives somebody rights in one more namespace.
func bindTo(t *testing.T, namespace string, who account, rule rbacv1.PolicyRule) {
	t.Helper()
	client := admin(t).kube
	role, err := client.RbacV1().Roles(namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{GenerateName: "person-"}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "person-"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: who.user}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := local.AwaitRights(t.Context(), client, who.user, namespace, rule); err != nil {
		t.Fatal(err)
	}
}

// The manager was asked for by somebody who was judged already.
func TestTheManagerIsExempt(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	o := object(t, "fep", "enrolled", `
metadata: {annotations: {rollcall.dev/accept-instance: a}}
spec: {lifecycle: Active, isolation: Isolated, proxy: {mode: Direct}}`)
	if _, err := manager(t).of("fep", ns).Create(t.Context(), o, metav1.CreateOptions{DryRun: dryRun}); err != nil {
		t.Error(err)
	}
}
