package local

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Person is somebody with the rights of a platform team in one namespace: rollcall-view, rollcall-edit, rollcall-admin, rollcall-responder,
// rollcall-releases, to write ConfigMaps, and to get the Secrets that are named, or AnySecret: those of enrolment tokens. It is a service account, so that it works on any cluster.
type Person struct {
	Namespace, Name string
	// Kubeconfig holds their credentials, and the namespace as its default.
	Kubeconfig string
}

// AnySecret is all of them, as Kubernetes' own roles edit and admin give.
const AnySecret = "*"

// User is the name that the API server knows them by.
func (p Person) User() string { return "system:serviceaccount:" + p.Namespace + ":" + p.Name }

// CreatePerson makes the namespace, the account and its rights where they are missing, and writes a kubeconfig into dir.
func CreatePerson(ctx context.Context, admin *rest.Config, namespace, name, dir string, secrets ...string) (Person, error) {
	p := Person{Namespace: namespace, Name: name, Kubeconfig: filepath.Join(dir, namespace+"-"+name+".kubeconfig")}
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return p, fmt.Errorf("make the person %s/%s: %w", namespace, name, err)
	}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}}
	bind := func(kind, role string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name + "-" + role}, Subjects: subjects,
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		}
	}
	core := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name + "-core"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "create", "patch", "update", "delete"}},
	}}
	if slices.Contains(secrets, AnySecret) {
		core.Rules = append(core.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "list"}})
	} else if len(secrets) > 0 {
		core.Rules = append(core.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}, ResourceNames: secrets})
	}
	opts := metav1.CreateOptions{}
	for _, step := range []func() error{
		func() error {
			_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, opts)
			return err
		},
		func() error {
			_, err := client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, opts)
			return err
		},
		func() error {
			_, err := client.RbacV1().Roles(namespace).Create(ctx, core, opts)
			return err
		},
	} {
		if err := step(); err != nil && !apierrors.IsAlreadyExists(err) {
			return p, fmt.Errorf("make the person %s/%s: %w", namespace, name, err)
		}
	}
	bindings := []*rbacv1.RoleBinding{bind("Role", core.Name)}
	for _, role := range []string{"view", "edit", "admin", "responder", "releases"} {
		bindings = append(bindings, bind("ClusterRole", "rollcall-"+role))
	}
	for _, b := range bindings {
		if _, err := client.RbacV1().RoleBindings(namespace).Create(ctx, b, opts); err != nil && !apierrors.IsAlreadyExists(err) {
			return p, fmt.Errorf("give the person %s/%s a role: %w", namespace, name, err)
		}
	}
	// of the roles that were bound, the last to come together: Kubernetes itself aggregates it
	acts := rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"endpoints"}, Verbs: []string{"terminate", "heartbeat"}}
	admins := rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"enrollmenttokens"}, Verbs: []string{"create"}}
	views := rbacv1.PolicyRule{APIGroups: admins.APIGroups, Resources: admins.Resources, Verbs: []string{"get"}}
	if err := AwaitRights(ctx, client, p.User(), namespace, append(core.Rules, admins, views, acts)...); err != nil {
		return p, err
	}
	token := filepath.Join(dir, namespace+"-"+name+".token")
	if err := WriteToken(ctx, admin, namespace, name, token); err != nil {
		return p, err
	}
	return p, WriteKubeconfig(p.Kubeconfig, admin, token, namespace)
}
