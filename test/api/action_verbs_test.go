package api_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// verbOf is the verb on endpoints.rollcall.dev that each type of action needs.
var verbOf = map[string]string{
	"PerformHeartbeat":          "heartbeat",
	"TerminateProcess":          "terminate",
	"QuarantineFile":            "quarantine",
	"RestoreFile":               "restore",
	"IsolateEndpoint":           "isolate",
	"CancelIsolation":           "release",
	"SetEndpointProxy":          "proxy",
	"DisableEndpointProxy":      "proxy",
	"LiveTerminal":              "terminal",
	"RetrieveFiles":             "retrieve",
	"RetrieveSecurityEventData": "retrieve-events",
	"RetrieveSupportFile":       "support",
}

// create tries to create an action without effect; where is endpointName or selector.
func (a account) create(t *testing.T, ns, kind, where string) error {
	t.Helper()
	body := `spec: {type: ` + kind + `, ` + where + `, ` + parameters[kind] + `}`
	_, err := a.of("epa", ns).Create(t.Context(), object(t, "epa", "x", body), metav1.CreateOptions{DryRun: dryRun})
	return err
}

const (
	onDevbox  = `endpointName: devbox`
	onLaptops = `selector: {matchLabels: {device: laptop}}`
)

// Each type needs its own verb: whoever has all the others is refused, whoever has it alone is allowed.
func TestEveryTypeOfActionNeedsItsVerb(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	var all []string
	for _, verb := range verbOf {
		all = append(all, verb)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	with, without := map[string]account{}, map[string]account{}
	for _, verb := range all {
		others := slices.DeleteFunc(slices.Clone(all), func(v string) bool { return v == verb })
		with[verb], without[verb] = person(t, ns, nil, acts, endpointVerbs(verb)), person(t, ns, nil, acts, endpointVerbs(others...))
	}
	for _, kind := range actionTypes(t) {
		verb := verbOf[kind]
		if verb == "" {
			t.Errorf("%s has no verb", kind)
			continue
		}
		t.Run(kind, func(t *testing.T) {
			for where, words := range map[string]string{onDevbox: ` on endpoint "devbox"`, onLaptops: ` on all endpoints`} {
				if kind == "LiveTerminal" && where == onLaptops {
					continue // there is no such thing
				}
				who := without[verb]
				refused(t, who.create(t, ns, kind, where),
					fmt.Sprintf("%q may not %s%s in namespace %q: it needs the verb %q on endpoints.rollcall.dev", who.user, verb, words, ns, verb))
				if err := with[verb].create(t, ns, kind, where); err != nil {
					t.Errorf("with the verb %s, %s: %v", verb, where, err)
				}
			}
		})
	}
}

// By the shipped roles alone, as a helpdesk would have them.
func TestTheHelpdeskAsksForReportsAndEndsNothing(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	helpdesk := person(t, ns, []string{"rollcall-view", "rollcall-edit"})
	responder := person(t, ns, []string{"rollcall-edit", "rollcall-responder"})
	for where, words := range map[string]string{onDevbox: ` on endpoint "devbox"`, onLaptops: ` on all endpoints`} {
		if err := helpdesk.create(t, ns, "PerformHeartbeat", where); err != nil {
			t.Error(err)
		}
		refused(t, helpdesk.create(t, ns, "TerminateProcess", where), fmt.Sprintf(`may not terminate%s in namespace %q: it needs the verb "terminate" on endpoints.rollcall.dev`, words, ns))
		for _, kind := range actionTypes(t) {
			if kind == "LiveTerminal" {
				continue
			}
			if err := responder.create(t, ns, kind, where); err != nil {
				t.Errorf("a responder, %s: %v", kind, err)
			}
		}
	}
	refused(t, responder.create(t, ns, "LiveTerminal", onDevbox), `it needs the verb "terminal" on endpoints.rollcall.dev`)
}

// The verb alone does not create, and the other way round.
func TestAResponderWithoutTheRightToCreateActions(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	err := person(t, ns, []string{"rollcall-view", "rollcall-responder"}).create(t, ns, "PerformHeartbeat", onDevbox)
	if !apierrors.IsForbidden(err) {
		t.Errorf("created by somebody who may not create: %v", err)
	}
}

// A verb may be given for one Endpoint alone. A selector reaches others too.
func TestAVerbOnOneEndpointIsNoneOnASelector(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	one := endpointVerbs("terminate")
	one.ResourceNames = []string{"devbox"}
	who := person(t, ns, nil, acts, one)
	if err := who.create(t, ns, "TerminateProcess", onDevbox); err != nil {
		t.Error(err)
	}
	const needs = `: it needs the verb "terminate" on endpoints.rollcall.dev`
	refused(t, who.create(t, ns, "TerminateProcess", `endpointName: other`), `may not terminate on endpoint "other" in namespace "`+ns+`"`+needs)
	refused(t, who.create(t, ns, "TerminateProcess", onLaptops), `may not terminate on all endpoints in namespace "`+ns+`"`+needs)
}

// Rights in one namespace are none in another.
func TestAVerbForActionsInAnotherNamespace(t *testing.T) {
	api := harness.Cluster(t)
	mine, other := api.Namespace(t), api.Namespace(t)
	who := person(t, mine, nil, endpointVerbs("terminate"))
	bindTo(t, other, who, acts)
	refused(t, who.create(t, other, "TerminateProcess", onDevbox),
		`may not terminate on endpoint "devbox" in namespace "`+other+`": it needs the verb "terminate" on endpoints.rollcall.dev`)
}

// The manager makes children for whoever was asked already; the gateway makes nothing at all.
func TestWhoMakesActionsWithoutAVerb(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	for _, kind := range actionTypes(t) {
		if err := manager(t).create(t, ns, kind, onDevbox); err != nil {
			t.Errorf("the manager, %s: %v", kind, err)
		}
		if err := gateway(t).create(t, ns, kind, onDevbox); !apierrors.IsForbidden(err) {
			t.Errorf("the gateway, %s: %v", kind, err)
		}
	}
}

// Cancelling and deleting is for whoever may write actions, whatever the verbs: to stop is never harder than to begin.
func TestStoppingAnActionNeedsNoVerb(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	responder := person(t, ns, nil, acts, endpointVerbs("terminate"))
	made, err := responder.of("epa", ns).Create(t.Context(), object(t, "epa", "stop", `spec: {type: TerminateProcess, endpointName: devbox, terminateProcess: {executable: /a}}`), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	colleague := person(t, ns, nil, rbacv1.PolicyRule{APIGroups: acts.APIGroups, Resources: acts.Resources, Verbs: []string{"update", "delete"}})
	spec, _ := made.Object["spec"].(map[string]any)
	spec["cancel"] = true
	if _, err := colleague.of("epa", ns).Update(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	if err := colleague.of("epa", ns).Delete(t.Context(), "stop", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// What kubectl prints says which verb is missing, and on what.
func TestKubectlSaysWhichVerbIsMissing(t *testing.T) {
	api := harness.Cluster(t)
	ns := api.Namespace(t)
	api.Kubectl(t, "create", "rolebinding", "helpdesk", "-n", ns, "--clusterrole=rollcall-edit", "--user=helpdesk")
	const action = "apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: stop}\nspec: {type: TerminateProcess, endpointName: devbox, terminateProcess: {executable: /a}}\n"
	const want = `"helpdesk" may not terminate on endpoint "devbox" in namespace "%s": it needs the verb "terminate" on endpoints.rollcall.dev`
	harness.Eventually(t, 20*time.Second, func() error { // until the binding is known
		_, err := api.TryKubectl(t, action, "--as", "helpdesk", "-n", ns, "create", "-f", "-")
		if says := fmt.Sprint(err); !strings.Contains(says, "Error from server (Forbidden)") || !strings.HasSuffix(says, fmt.Sprintf(want, ns)) {
			return fmt.Errorf("kubectl says: %s", says)
		}
		return nil
	})
}
