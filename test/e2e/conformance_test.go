package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// conformanceCommand is how docs/protocol.md says to run the agent that was written from it alone, in a module that cannot import this one.
const conformanceCommand = "go -C test/conformance run . -server https://host:8443 -token-file FILE"

// conformance runs it.
func conformance(t *testing.T, s *system) {
	n := s.tenant(t, "conformance")
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(n.tokenText(t, "conformance", "{expiresAfterHours: 0}")), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Apply(t, `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: 1}}}`)
	command := strings.NewReplacer("https://host:8443", "https://"+s.GatewayAddress, "FILE", file).Replace(conformanceCommand)
	out, err := bash(t, command).CombinedOutput()
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
