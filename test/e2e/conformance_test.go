package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// conformance runs the agent that was written from the protocol's document alone, in a module that cannot import this one.
func conformance(t *testing.T, s *system) {
	n := s.tenant(t, "conformance")
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(n.tokenText(t, "conformance", "{expiresAfterHours: 0}")), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Apply(t, `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: 1}}}`)
	client := filepath.Join(dir, "conformance")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", client, ".")
	build.Dir = filepath.Join(harness.Root(), "test", "conformance")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the conformance client: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), client, "-server", "https://"+s.GatewayAddress, "-token-file", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("\n%s", out)
}

// curl runs the console blocks of docs/protocol.md as they stand.
func curl(t *testing.T, s *system) {
	for _, tool := range []string{"curl", "jq", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("the document's commands need %s: apt-get install %s", tool, tool)
		}
	}
	doc, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := s.tenant(t, "curl")
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", harness.ConsoleBlocks(doc))
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GATEWAY=https://"+s.GatewayAddress, "TOKEN="+n.tokenText(t, "curl", "{expiresAfterHours: 0}"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("\n%s", out)
	if got := len(n.endpoints(t)); got != 1 {
		t.Errorf("%d endpoints enrolled with curl, want 1", got)
	}
}
