package api_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// may asks the API server whether somebody may do something.
func (a account) may(t *testing.T, what authorizationv1.ResourceAttributes) bool {
	t.Helper()
	got, err := a.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &what},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got.Status.Allowed
}

// What people may do with our kinds by each role, and by the roles of Kubernetes itself that ours aggregate to. What is not listed is refused.
func TestRolesForPeople(t *testing.T) {
	api := harness.Cluster(t)
	ns := api.Namespace(t)
	const read = "get list watch"
	view := map[string]string{"contentreleases": read, "endpoints": read, "endpointactions": read, "endpointpolicies": read, "enrollmenttokens": read}
	const write, act = "create update patch delete", read + " create update patch delete"
	edit := map[string]string{"contentreleases": read, "endpoints": read + " heartbeat", "endpointactions": act, "endpointpolicies": read, "enrollmenttokens": read}
	all := read + " create update patch delete deletecollection"
	const own = write + " lifecycle isolate release"
	admins := map[string]string{"contentreleases": read, "endpoints": read + " " + own, "endpointactions": read, "endpointpolicies": all, "enrollmenttokens": all}
	everything := map[string]string{"contentreleases": read, "endpoints": read + " " + own + " heartbeat", "endpointactions": act, "endpointpolicies": all, "enrollmenttokens": all}
	for _, tc := range []struct {
		roles []string
		may   map[string]string
	}{
		{nil, nil},
		{[]string{"rollcall-view"}, view},
		{[]string{"rollcall-edit"}, map[string]string{"endpoints": "heartbeat", "endpointactions": write}},
		{[]string{"rollcall-admin"}, map[string]string{"endpoints": own, "endpointpolicies": all, "enrollmenttokens": all}},
		{[]string{"rollcall-view", "rollcall-admin"}, admins},
		{[]string{"rollcall-responder"}, map[string]string{"endpoints": "isolate release quarantine restore terminate proxy retrieve retrieve-events support heartbeat"}},
		{[]string{"rollcall-releases"}, map[string]string{"contentreleases": all}},
		{[]string{"view"}, view},
		{[]string{"edit"}, edit},
		{[]string{"admin"}, everything},
	} {
		t.Run(strings.Join(tc.roles, " and "), func(t *testing.T) {
			who := person(t, ns, tc.roles)
			want := map[string]string{}
			for resource, verbs := range tc.may {
				sorted := strings.Fields(verbs)
				slices.Sort(sorted)
				want[resource] = strings.Join(sorted, " ")
			}
			// kube-controller-manager aggregates roles a moment after they are made.
			harness.Eventually(t, 20*time.Second, func() error {
				if diff := cmp.Diff(want, allowedOnOurs(t, who, ns)); diff != "" {
					return &difference{diff}
				}
				return nil
			})
			if got := allowedOnOurs(t, who, "default"); len(got) > 0 {
				t.Errorf("in another namespace: %v", got)
			}
		})
	}
}

type difference struct{ diff string }

func (d *difference) Error() string { return "(-want +got):\n" + d.diff }

func allowedOnOurs(t *testing.T, who account, ns string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, resource := range []string{"contentreleases", "endpoints", "endpointactions", "endpointpolicies", "enrollmenttokens"} {
		for _, subresource := range []string{"", "status", "finalizers"} {
			var verbs []string
			for _, verb := range slices.Concat(everyVerb, ourVerbs) {
				if who.may(t, authorizationv1.ResourceAttributes{Group: "rollcall.dev", Resource: resource, Subresource: subresource, Verb: verb, Namespace: ns}) {
					verbs = append(verbs, verb)
				}
			}
			if slices.Sort(verbs); verbs != nil {
				got[strings.TrimSuffix(resource+"/"+subresource, "/")] = strings.Join(verbs, " ")
			}
		}
	}
	return got
}

// An administrator of a namespace must not be able to hand out what they lack.
func TestAnAdministratorGrantsNoMoreThanTheyHave(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	who := person(t, ns, []string{"admin"})
	grant := func(role string) error {
		_, err := who.kube.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "granted-"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "helpdesk"}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		}, metav1.CreateOptions{DryRun: dryRun})
		return err
	}
	for _, role := range []string{"rollcall-view", "rollcall-edit", "rollcall-admin"} {
		harness.Eventually(t, 20*time.Second, func() error { return grant(role) })
	}
	for _, role := range []string{"rollcall-responder", "rollcall-manager", "rollcall-gateway"} {
		if err := grant(role); err == nil || !strings.Contains(err.Error(), "attempting to grant RBAC permissions not currently held") {
			t.Errorf("granting %s: %v", role, err)
		}
	}
}

// What went wrong is told in Events, which kubectl describe shows: whoever may see our objects sees them.
func TestViewersSeeEvents(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	for role, want := range map[string]bool{"rollcall-view": true, "rollcall-responder": false} {
		for _, group := range []string{"", "events.k8s.io"} {
			if got := person(t, ns, []string{role}).may(t, authorizationv1.ResourceAttributes{Group: group, Resource: "events", Verb: "list", Namespace: ns}); got != want {
				t.Errorf("%s may list events of %q: %t", role, group, got)
			}
		}
	}
}
