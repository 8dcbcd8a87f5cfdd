package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// conformanceCommand is how docs/protocol.md says to run the agent that was written from it alone, in a module that cannot import this one.
const conformanceCommand = "go -C test/conformance run . -server https://host:8443 -token-file FILE"

// slowDownloads are so slow that a download is not over before the next one is asked for.
const slowDownloads = "--download-rate=131072"

// conformance runs it, with content to download.
func conformance(t *testing.T, s *system) {
	n := s.tenant(t, "conformance")
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(n.tokenText(t, "conformance", "{expiresAfterHours: 0}")), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Apply(t, `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: 1}}}`)
	n.publishSlow(t, believed(t, s))
	command := strings.NewReplacer("https://host:8443", "https://"+s.GatewayAddress, "FILE", file).Replace(conformanceCommand)
	cmd := bash(t, command+" -actions")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var wanted []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		t.Log(lines.Text())
		if strings.Contains(lines.Text(), "not tried") {
			t.Error("something was not tried")
		}
		if what, ok := strings.CutPrefix(lines.Text(), "  wants "); ok {
			wanted = append(wanted, n.fulfil(t, what, len(wanted)))
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"Succeeded", "Unsupported", "Cancelled", "", "Succeeded"}; len(wanted) != len(want) {
		t.Fatalf("it wanted %q", wanted)
	} else {
		for i, name := range wanted {
			if want[i] != "" {
				n.endsAs(t, name, v1alpha1.ActionPhase(want[i]), map[string]string{"Succeeded": "Done", "Unsupported": "Unsupported", "Cancelled": "Cancelled"}[want[i]])
			}
		}
	}
}

// publishSlow publishes content that takes some seconds at slowDownloads.
func (n *tenant) publishSlow(t testing.TB, p local.Publisher) {
	t.Helper()
	cm, release := p.Release(n.ns, "1042", append(local.Document("1042"), bytes.Repeat([]byte("\n"), 256<<10)...))
	for _, o := range []client.Object{cm, release} {
		if err := n.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	n.Kubectl(t, "wait", "ctr/"+release.Name, "--for=condition=Ready", "--timeout=20s")
}

// fulfil does what the agent wants: "<type> for identity <id>", or "cancel <uid> for identity <id>". It returns the name of the action.
func (n *tenant) fulfil(t testing.TB, what string, i int) string {
	t.Helper()
	what, _, _ = strings.Cut(what, " for identity ")
	if uid, ok := strings.CutPrefix(what, "cancel "); ok {
		name := strings.TrimSpace(n.Kubectl(t, "get", "epa", "-o", `jsonpath={.items[?(@.metadata.uid=="`+uid+`")].metadata.name}`))
		n.Kubectl(t, "patch", "epa", name, "--type=merge", "-p", `{"spec":{"cancel":true}}`)
		return name
	}
	name, parameters := fmt.Sprint("wanted-", i), ""
	if what == "TerminateProcess" {
		parameters = "terminateProcess: {executable: /usr/bin/nothing}"
	}
	n.act(t, name, firstEndpoint(t, n), what, parameters)
	return name
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
