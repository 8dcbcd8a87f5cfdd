// Package api_test tries the shipped manifests on a real API server: kinds, roles and admission policies as people and processes meet them.
package api_test

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const system = "rollcall-system"

// resources are our kinds, by their short names.
var resources = map[string]schema.GroupVersionResource{
	"fep": {Group: "rollcall.dev", Version: "v1alpha1", Resource: "endpoints"},
	"epa": {Group: "rollcall.dev", Version: "v1alpha1", Resource: "endpointactions"},
	"epp": {Group: "rollcall.dev", Version: "v1alpha1", Resource: "endpointpolicies"},
	"ept": {Group: "rollcall.dev", Version: "v1alpha1", Resource: "enrollmenttokens"},
	"ctr": {Group: "rollcall.dev", Version: "v1alpha1", Resource: "contentreleases"},
}

var kinds = map[string]string{"fep": "Endpoint", "epa": "EndpointAction", "epp": "EndpointPolicy", "ept": "EnrollmentToken", "ctr": "ContentRelease"}

// object makes an object of ours; body is the YAML of what it has besides its type and name.
func object(t *testing.T, short, name, body string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(body), &u.Object); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if u.Object == nil {
		u.Object = map[string]any{}
	}
	u.SetAPIVersion("rollcall.dev/v1alpha1")
	u.SetKind(kinds[short])
	u.SetName(name)
	return u
}

// account is somebody whom the API server authenticates by a token of a service account.
type account struct {
	user   string
	config *rest.Config
	kube   kubernetes.Interface
	dyn    dynamic.Interface
}

func (a account) of(short, namespace string) dynamic.ResourceInterface {
	return a.dyn.Resource(resources[short]).Namespace(namespace)
}

func newAccount(t *testing.T, user string, config *rest.Config) account {
	t.Helper()
	config.QPS = -1
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return account{user: user, config: config, kube: kube, dyn: dyn}
}

func admin(t *testing.T) account {
	t.Helper()
	return newAccount(t, "admin", rest.CopyConfig(harness.Cluster(t).Admin))
}

// serviceAccount is the account by a real token.
func serviceAccount(t *testing.T, namespace, name string) account {
	t.Helper()
	api := harness.Cluster(t)
	token, err := admin(t).kube.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(api.Admin)
	config.BearerToken = token.Status.Token
	return newAccount(t, "system:serviceaccount:"+namespace+":"+name, config)
}

func manager(t *testing.T) account { t.Helper(); return serviceAccount(t, system, "rollcall-manager") }

func gateway(t *testing.T) account { t.Helper(); return serviceAccount(t, system, "rollcall-gateway") }

// person makes somebody with no rights but those of the cluster roles and rules that are named, in one namespace.
func person(t *testing.T, namespace string, clusterRoles []string, rules ...rbacv1.PolicyRule) account {
	t.Helper()
	client, home := admin(t).kube, harness.Cluster(t).Namespace(t)
	opts := metav1.CreateOptions{}
	// The audit of the whole test run knows people by this name.
	if _, err := client.CoreV1().ServiceAccounts(home).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "person"}}, opts); err != nil {
		t.Fatal(err)
	}
	bind := func(kind, role string) {
		t.Helper()
		_, err := client.RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "person-"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: home, Name: "person"}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		}, opts)
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, role := range clusterRoles {
		bind("ClusterRole", role)
	}
	if len(rules) > 0 {
		role, err := client.RbacV1().Roles(namespace).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{GenerateName: "person-"}, Rules: rules}, opts)
		if err != nil {
			t.Fatal(err)
		}
		bind("Role", role.Name)
	}
	for _, name := range clusterRoles {
		role, err := client.RbacV1().ClusterRoles().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, role.Rules...)
	}
	who := serviceAccount(t, home, "person")
	if err := local.AwaitRights(t.Context(), client, who.user, namespace, rules...); err != nil {
		t.Fatal(err)
	}
	return who
}

func endpointVerbs(verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{"rollcall.dev"}, Resources: []string{"endpoints"}, Verbs: verbs}
}

// acts let somebody create actions; of which types is another matter.
var acts = rbacv1.PolicyRule{APIGroups: []string{"rollcall.dev"}, Resources: []string{"endpointactions"}, Verbs: []string{"create", "get", "update", "patch", "delete"}}

var dryRun = []string{metav1.DryRunAll}

// ownCluster is one that no other test sees, for what would change it under them.
func ownCluster(t *testing.T) *harness.API {
	t.Helper()
	api, err := harness.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Stop(); err != nil {
			t.Error(err)
		}
	})
	return api
}
