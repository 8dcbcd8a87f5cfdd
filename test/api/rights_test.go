package api_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// everyVerb is every verb of the API and of the authorizers, ourVerbs are those that our policies ask for on our kinds.
var (
	everyVerb = []string{
		"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection",
		"bind", "escalate", "impersonate", "approve", "sign", "attest", "use", "*",
	}
	ourVerbs = []string{
		"admit", "delegate", "lifecycle", "isolate", "release", "proxy",
		"heartbeat", "terminate", "quarantine", "restore", "terminal", "retrieve", "retrieve-events", "support",
	}
)

// The rights of the two accounts, as lines of verb, resource.group and name. They are written out here once more: a right that is added to a
// role has to be added here too, by somebody who has thought about it.
var (
	gatewayClusterRights = lines(`
		list,watch            contentreleases.rollcall.dev endpointpolicies.rollcall.dev enrollmenttokens.rollcall.dev
		get,list,watch        endpoints.rollcall.dev endpointactions.rollcall.dev
		patch                 endpoints/status.rollcall.dev
		update                endpointactions/status.rollcall.dev
		create,get,list,watch certificatesigningrequests.certificates.k8s.io`)
	gatewaySystemRights = lines(`
		list,watch               configmaps.:rollcall-trust configmaps.:rollcall-beacon
		get,create,update,delete leases.coordination.k8s.io`)
	managerClusterRights = lines(`
		list,watch            contentreleases.rollcall.dev endpointpolicies.rollcall.dev
		get,list,watch        endpoints.rollcall.dev endpointactions.rollcall.dev enrollmenttokens.rollcall.dev
		create,patch          endpoints.rollcall.dev
		create,delete         endpointactions.rollcall.dev
		patch                 contentreleases/status.rollcall.dev endpoints/status.rollcall.dev endpointpolicies/status.rollcall.dev enrollmenttokens/status.rollcall.dev
		update                endpointactions/status.rollcall.dev enrollmenttokens/status.rollcall.dev
		update                endpoints/finalizers.rollcall.dev endpointactions/finalizers.rollcall.dev
		admit,delegate        endpoints.rollcall.dev endpointactions.rollcall.dev
		list,watch,delete     certificatesigningrequests.certificates.k8s.io
		update                certificatesigningrequests/approval.certificates.k8s.io certificatesigningrequests/status.certificates.k8s.io
		approve,sign          signers.certificates.k8s.io:rollcall.dev/agent signers.certificates.k8s.io:rollcall.dev/gateway
		create                secrets.
		get                   configmaps.
		create,patch          events.events.k8s.io`)
	managerSystemRights = lines(`
		get                                 secrets.:rollcall-root-key secrets.:rollcall-order-key secrets.:rollcall-agent-ca secrets.:rollcall-server-ca secrets.:rollcall-token-key
		create                              configmaps.
		get,update                          configmaps.:rollcall-trust configmaps.:rollcall-beacon
		get,list,watch                      configmaps.:rollcall-release-keys
		get,list,create,update,delete       leases.coordination.k8s.io
		create                              serviceaccounts/token.:rollcall-gateway
		create                              events.`)
)

// lines spells "get,list a b" out: get a, get b, list a, list b.
func lines(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		for _, what := range words[min(1, len(words)):] {
			for verb := range strings.SplitSeq(words[0], ",") {
				all = append(all, verb+" "+what)
			}
		}
	}
	slices.Sort(all)
	return all
}

var accounts = []struct {
	name            string
	log             func(*testing.T) account
	cluster, system []string
}{
	{"manager", manager, managerClusterRights, managerSystemRights},
	{"gateway", gateway, gatewayClusterRights, gatewaySystemRights},
}

// The authorizer's own list of an account's rights, names included, less what any account has that nobody gave a right.
func TestRulesOfTheAccounts(t *testing.T) {
	api := harness.Cluster(t)
	tenant := api.Namespace(t)
	anybody := person(t, tenant, nil)
	for _, account := range accounts {
		for _, ns := range []string{system, "kube-system", tenant} {
			want := slices.Clone(account.cluster)
			if ns == system {
				want = append(want, account.system...)
			}
			slices.Sort(want)
			everybody := rulesOf(t, anybody, ns)
			got := slices.DeleteFunc(rulesOf(t, account.log(t), ns), func(rule string) bool { return slices.Contains(everybody, rule) })
			if diff := cmp.Diff(slices.Compact(want), got); diff != "" {
				t.Errorf("%s in %s (-want +got):\n%s", account.name, ns, diff)
			}
		}
	}
}

func rulesOf(t *testing.T, who account, ns string) []string {
	t.Helper()
	review, err := who.kube.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var rules []string
	for _, rule := range review.Status.ResourceRules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					for _, name := range names {
						rules = append(rules, right(verb, group, resource, name))
					}
				}
			}
		}
	}
	for _, rule := range review.Status.NonResourceRules {
		for _, verb := range rule.Verbs {
			for _, url := range rule.NonResourceURLs {
				rules = append(rules, verb+" "+url)
			}
		}
	}
	slices.Sort(rules)
	return slices.Compact(rules)
}

func right(verb, group, resource, name string) string {
	text := verb + " " + resource + "." + group
	if name != "" {
		text += ":" + name
	}
	return text
}

// The gateway faces the network: it is tried with every verb on every resource that this API server has, in every place that matters, and
// with every name that one of our roles knows.
func TestTheGatewayTriedWithEverything(t *testing.T) {
	api := harness.Cluster(t)
	tenant := api.Namespace(t)
	gw, anybody := gateway(t), person(t, tenant, nil)
	questions := everyQuestion(t, []string{"", system, "kube-system", "default", tenant})
	t.Logf("%d questions", len(questions))

	allowed := ask(t, gw, questions)
	var beyond []authorizationv1.ResourceAttributes
	seen := map[string]bool{}
	for _, q := range allowed {
		text := right(q.Verb, q.Group, strings.TrimSuffix(q.Resource+"/"+q.Subresource, "/"), "")
		named := text + ":" + q.Name
		switch {
		case slices.Contains(gatewayClusterRights, text), q.Namespace == system && slices.Contains(gatewaySystemRights, text):
			seen[text] = true
		case q.Namespace == system && slices.Contains(gatewaySystemRights, named):
			seen[named] = true
		default:
			beyond = append(beyond, q)
		}
	}
	// Whatever is left must be what every authenticated account has.
	everybodys := ask(t, anybody, beyond)
	for _, q := range beyond {
		if !slices.Contains(everybodys, q) {
			t.Errorf("the gateway may %s %s/%s.%s %q in %q", q.Verb, q.Resource, q.Subresource, q.Group, q.Name, q.Namespace)
		}
	}
	for _, want := range slices.Concat(gatewayClusterRights, gatewaySystemRights) {
		if !seen[want] {
			t.Errorf("the gateway may not %s", want)
		}
	}
}

// everyQuestion is every verb on every resource and subresource, served or known to authorizers alone.
func everyQuestion(t *testing.T, namespaces []string) []authorizationv1.ResourceAttributes {
	t.Helper()
	names := map[schema.GroupResource][]string{
		{Resource: "secrets"}:               {"rollcall-root-key", "rollcall-order-key", "rollcall-agent-ca", "rollcall-server-ca", "rollcall-token-key", "rollcall-gateway-token-binding", "laptops-token"},
		{Resource: "configmaps"}:            {"rollcall-trust", "rollcall-beacon", "rollcall-release-keys", "kube-root-ca.crt", "extension-apiserver-authentication"},
		{Resource: "serviceaccounts"}:       {"rollcall-manager", "rollcall-gateway", "default"},
		{Resource: "serviceaccounts/token"}: {"rollcall-manager", "rollcall-gateway", "default"},
		{Resource: "signers", Group: "certificates.k8s.io"}: {
			"rollcall.dev/agent", "rollcall.dev/gateway", "kubernetes.io/kube-apiserver-client", "kubernetes.io/kubelet-serving",
		},
	}
	resources := []schema.GroupResource{
		{Resource: "*", Group: "*"},
		{Resource: "users"},
		{Resource: "groups"},
		{Resource: "uids", Group: "authentication.k8s.io"},
		{Resource: "userextras/scopes", Group: "authentication.k8s.io"},
		{Resource: "signers", Group: "certificates.k8s.io"},
	}
	_, groups, err := admin(t).kube.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range groups {
		version, err := schema.ParseGroupVersion(group.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, resource := range group.APIResources {
			resources = append(resources, schema.GroupResource{Group: version.Group, Resource: resource.Name})
			if !strings.Contains(resource.Name, "/") {
				resources = append(resources, schema.GroupResource{Group: version.Group, Resource: resource.Name + "/finalizers"})
			}
		}
	}
	slices.SortFunc(resources, func(a, b schema.GroupResource) int { return strings.Compare(a.String(), b.String()) })
	var questions []authorizationv1.ResourceAttributes
	for _, r := range slices.Compact(resources) {
		resource, subresource, _ := strings.Cut(r.Resource, "/")
		verbs := everyVerb
		if r.Group == "rollcall.dev" || r.Group == "*" {
			verbs = slices.Concat(everyVerb, ourVerbs)
		}
		for _, namespace := range namespaces {
			for _, name := range append([]string{""}, names[r]...) {
				for _, verb := range verbs {
					questions = append(questions, authorizationv1.ResourceAttributes{
						Group: r.Group, Resource: resource, Subresource: subresource, Namespace: namespace, Name: name, Verb: verb,
					})
				}
			}
		}
	}
	return questions
}

// ask returns the questions that are answered with yes.
func ask(t *testing.T, who account, questions []authorizationv1.ResourceAttributes) []authorizationv1.ResourceAttributes {
	t.Helper()
	yes := make([]bool, len(questions))
	var group sync.WaitGroup
	const askers = 16
	for asker := range askers {
		group.Go(func() {
			for i := asker; i < len(questions); i += askers {
				review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &questions[i]}}
				got, err := who.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
				if err != nil {
					t.Errorf("%+v: %v", questions[i], err)
					return
				}
				yes[i] = got.Status.Allowed
			}
		})
	}
	group.Wait()
	var allowed []authorizationv1.ResourceAttributes
	for i, q := range questions {
		if yes[i] {
			allowed = append(allowed, q)
		}
	}
	return allowed
}
