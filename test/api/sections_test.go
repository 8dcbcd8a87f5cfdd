package api_test

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/test/harness"
)

type patch []map[string]any

func (p patch) bytes(t *testing.T) []byte {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const (
	identityIsTheManagers = "status.identity is the manager's"
	policyIsTheManagers   = "status.policy is the manager's"
	verdictIsTheManagers  = "conditions, observedGeneration, summary and message are the manager's"
)

// The gateway, by its own token, writes what it knows and nothing that the manager decides.
func TestSectionsOfAnEndpointsStatus(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	author, gw, mgr := person(t, ns, []string{"rollcall-admin"}), gateway(t), manager(t)
	for _, name := range []string{"bare", "full"} {
		if _, err := author.of("fep", ns).Create(t.Context(), object(t, "fep", name, ""), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	full := fullStatus(t, "fep")
	writeStatus(t, "fep", ns, "full", full)
	op := func(op, path string, value any) patch {
		o := map[string]any{"op": op, "path": "/status" + path}
		if value != nil {
			o["value"] = value
		}
		return patch{o}
	}
	for _, tc := range []struct {
		name, endpoint string
		patch          patch
		refusal        string // empty: allowed to the gateway
	}{
		{"make an identity", "bare", op("add", "/identity", full["identity"]), identityIsTheManagers},
		{"change an identity", "full", op("replace", "/identity/id", "6f1ad7f4-52cf-4f0e-9f3a-000000000000"), identityIsTheManagers},
		{"put another key there", "full", op("replace", "/identity/publicKeys/0", "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAH"), identityIsTheManagers},
		{"let an old key live on", "full", op("replace", "/identity/previousKeyExpirationTime", "2099-01-01T00:00:00Z"), identityIsTheManagers},
		{"say that its journal is another", "full", op("replace", "/identity/journalID", "00112233445566778899aabbccddeeff"), identityIsTheManagers},
		{"drop an identity", "full", op("remove", "/identity", nil), identityIsTheManagers},
		{"assign a policy", "bare", op("add", "/policy", full["policy"]), policyIsTheManagers},
		{"assign another policy", "full", op("replace", "/policy/name", "lax"), policyIsTheManagers},
		{"assign no policy", "full", op("remove", "/policy", nil), policyIsTheManagers},
		{"set conditions", "bare", op("add", "/conditions", full["conditions"]), verdictIsTheManagers},
		{"change a condition", "full", op("replace", "/conditions/0/status", "False"), verdictIsTheManagers},
		{"drop conditions", "full", op("remove", "/conditions", nil), verdictIsTheManagers},
		{"claim to have looked", "bare", op("replace", "/observedGeneration", 1), verdictIsTheManagers},
		{"set a summary", "bare", op("add", "/summary", "Online"), verdictIsTheManagers},
		{"change the summary", "full", op("replace", "/summary", "Isolated"), verdictIsTheManagers},
		{"drop the message", "full", op("remove", "/message", nil), verdictIsTheManagers},
		{"replace everything", "full", op("replace", "", map[string]any{"lastSeenTime": "2026-03-01T12:00:00Z"}), identityIsTheManagers},
		{"remove everything", "full", op("remove", "", nil), identityIsTheManagers},

		{"the first contact", "bare", op("add", "/lastSeenTime", "2026-03-01T12:00:00Z"), ""},
		{"a contact", "full", op("replace", "/lastSeenTime", "2026-03-01T13:00:00Z"), ""},
		{"a connection", "bare", op("add", "/connection", full["connection"]), ""},
		{"another channel", "full", op("replace", "/connection/channel", "None"), ""},
		{"a conflict", "full", op("replace", "/connection/conflictInstanceID", "11112222333344445555666677778888"), ""},
		{"how they differ", "full", op("replace", "/connection/conflictReason", "RolledBack"), ""},
		{"the agent", "bare", op("add", "/agent", full["agent"]), ""},
		{"another version", "full", op("replace", "/agent/version", "8.0.1"), ""},
		{"the inventory", "bare", op("add", "/inventory", full["inventory"]), ""},
		{"no inventory", "full", op("remove", "/inventory", nil), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			write := func(a account) error {
				_, err := a.of("fep", ns).Patch(t.Context(), tc.endpoint, types.JSONPatchType, tc.patch.bytes(t), metav1.PatchOptions{DryRun: dryRun}, "status")
				return err
			}
			if err := write(gw); tc.refusal != "" {
				refused(t, err, tc.refusal)
			} else if err != nil {
				t.Error(err)
			}
			if err := write(mgr); err != nil {
				t.Errorf("the manager: %v", err)
			}
		})
	}
}

// An applier's entry in managedFields stays for ever, and a client names as many appliers as it likes.
func TestTheGatewayDoesNotApply(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	author, gw := person(t, ns, []string{"rollcall-admin"}), gateway(t)
	if _, err := author.of("fep", ns).Create(t.Context(), object(t, "fep", "applied", `spec: {displayName: x}`), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"apiVersion":"rollcall.dev/v1alpha1","kind":"Endpoint","status":{"lastSeenTime":"2026-03-01T12:00:00Z"}}`)
	apply := func(a account) error {
		_, err := a.of("fep", ns).Patch(t.Context(), "applied", types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "a", Force: ptr.To(true), DryRun: dryRun}, "status")
		return err
	}
	refused(t, apply(gw), "an endpoint's status is not written by server-side apply: use a JSON Patch")
	if err := apply(manager(t)); err != nil {
		t.Errorf("the manager: %v", err)
	}
	// People may apply the spec by as many tools as they like; it does not keep the gateway out.
	for _, tool := range []string{"flux", "argo"} {
		_, err := author.of("fep", ns).Patch(t.Context(), "applied", types.ApplyPatchType,
			[]byte(`{"apiVersion":"rollcall.dev/v1alpha1","kind":"Endpoint","spec":{"displayName":"x"}}`), metav1.PatchOptions{FieldManager: tool, Force: ptr.To(true)})
		if err != nil {
			t.Fatal(err)
		}
	}
	seen := patch{{"op": "add", "path": "/status/lastSeenTime", "value": "2026-03-01T12:00:00Z"}}
	if _, err := gw.of("fep", ns).Patch(t.Context(), "applied", types.JSONPatchType, seen.bytes(t), metav1.PatchOptions{DryRun: dryRun}, "status"); err != nil {
		t.Error(err)
	}
}
