package agent

import (
	"os/exec"
	"strings"
	"testing"
)

// An agent knows the protocol and no Kubernetes, however indirectly: it must stay small, and buildable for any machine.
func TestKnowsNoKubernetes(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "./...", "../../cmd/agent", "../../cmd/cytool", "../../cmd/fleetsim").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 50 {
		t.Fatalf("only %d packages: looked in the wrong place", len(deps))
	}
	for _, p := range deps {
		if p == "sigs.k8s.io/json" || strings.HasPrefix(p, "sigs.k8s.io/json/") {
			continue // encoding/json made strict; it knows no Kubernetes
		}
		for _, forbidden := range []string{"k8s.io/", "sigs.k8s.io/", "github.com/rollcall-dev/rollcall/api/v1alpha1"} {
			if strings.HasPrefix(p, forbidden) {
				t.Errorf("imports %s", p)
			}
		}
	}
}
