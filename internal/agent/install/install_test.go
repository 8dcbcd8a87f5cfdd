package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/unit"

	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

func TestInstallIntoAnImage(t *testing.T) {
	root, bin := t.TempDir(), t.TempDir()
	for _, name := range []string{"agent-linux-amd64", "cytool"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	server, err := client.ParseServer("https://gw.example")
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := client.ParseProxy("http://u:p@proxy.example:3128", server)
	if err != nil {
		t.Fatal(err)
	}
	token := identity.Token{UID: "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02", TrustVersion: 1}
	var out strings.Builder
	o := Options{Server: server, Proxy: proxy, Token: token, Executable: filepath.Join(bin, "agent-linux-amd64"), Root: root, Out: &out}
	for range 2 { // the second time over the first
		if err := Run(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]struct {
		mode    os.FileMode
		content string
	}{
		"usr/local/bin/rollcall-agent":              {0o755, "agent-linux-amd64"},
		"usr/local/bin/cytool":                      {0o755, "cytool"},
		"etc/rollcall/agent.env":                    {0o600, "ROLLCALL_SERVER=https://gw.example:8443\nROLLCALL_PROXY=http://u:p@proxy.example:3128\n"},
		"etc/systemd/system/rollcall-agent.service": {0o644, "ExecStart=/usr/local/bin/rollcall-agent run\n"},
		"var/lib/rollcall/token":                    {0o600, token.Reveal()},
	} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil {
			t.Error(err)
			continue
		}
		b, err := os.ReadFile(filepath.Join(root, path))
		if err != nil || info.Mode().Perm() != want.mode || !strings.Contains(string(b), want.content) {
			t.Errorf("%s has %v and %q, %v", path, info.Mode().Perm(), b, err)
		}
	}
	if said := out.String() + o.Describe(); strings.Contains(said, token.Reveal()) || strings.Contains(said, "u:p") {
		t.Errorf("a secret was printed: %s", said)
	}
}

// The unit parses, and systemd itself has nothing to say against it where it is at hand.
func TestUnit(t *testing.T) {
	options, err := unit.DeserializeOptions(strings.NewReader(string(unitText)))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"Type": "notify", "Restart": "always", "StateDirectory": "rollcall", "NoNewPrivileges": "yes", "WantedBy": "multi-user.target",
		"CapabilityBoundingSet": "CAP_KILL CAP_SYS_PTRACE CAP_DAC_READ_SEARCH",
	}
	for _, o := range options {
		if w, ok := want[o.Name]; ok && o.Value == w {
			delete(want, o.Name)
		}
	}
	if len(want) > 0 {
		t.Errorf("the unit lacks %v", want)
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	root := t.TempDir()
	file := filepath.Join(root, Unit)
	text := strings.ReplaceAll(string(unitText), "/usr/local/bin/rollcall-agent", "/bin/true")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput(); err != nil || strings.Contains(string(out), Unit) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
