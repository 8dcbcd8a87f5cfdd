package e2e

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// blocksRunBy names the tests that run all console blocks of a document, whatever is in them.
var blocksRunBy = map[string]string{"README.md": "TestREADME in test/demo", "docs/protocol.md": "TestEnrollment, with curl", "docs/operations.md": "make test-node"}

// runBy names the tests that run a single command, or says why none may.
var runBy = map[string]string{
	conformanceCommand:                                "TestEnrollment, an agent from the document alone",
	"curl --cert … --key …":                           "TestCurlCanUseTheIdentity in cmd/agent",
	"go test ./internal/action/model -v":              "make test",
	"go test ./internal/action/model -v -seeds=20000": "it is the same for longer",
	"go test ./internal/action/model -v -seed=8":      "it is the same with one seed",
	"timedatectl set-ntp true":                        "it would set the clock of whoever runs the tests",
}

// A machine's life: what is typed on it, and what goes with that in the cluster, in an order that makes sense. The other kubectl commands of
// the documents are run in between, while the machine is online.
var (
	lifeBefore = []string{
		"kubectl apply -k config/default",
		"kubectl apply -k config/samples",
		"kubectl get secret <name>-token -o go-template='{{.data.install | base64decode}}'",
		"echo 'ret1.…' | sudo rollcall-agent install --server https://gateway.example.com:8443 --token-file -",
		"cytool status",
		"cytool status -o json",
		"sudo cytool status",
		"cytool checkin",
		"cytool websocket",
		"cytool actions",
		"systemctl restart rollcall-agent",
	}
	lifeAfter = []string{
		"kubectl get ept",
		`kubectl patch fep NAME --type=merge -p '{"spec":{"lifecycle":"Active"}}'`,
		"systemctl stop rollcall-agent",
		"rollcall-agent reset --yes",
		"rollcall-agent run --server URL --token-file FILE --state-dir DIR",
		"systemctl disable --now rollcall-agent",
	}
	life = slices.Concat(lifeBefore, lifeAfter)
)

func isKubectl(c harness.Command) bool { return strings.HasPrefix(c.Text, "kubectl ") }

func isMake(c harness.Command) bool {
	return regexp.MustCompile(`^([A-Z_]+=\S+ )?make `).MatchString(c.Text)
}

// shown is everything that the documents tell people to type.
func shown(t testing.TB) (commands, mentions []harness.Command) {
	t.Helper()
	docs, err := harness.Documents()
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range docs {
		c, m, err := harness.Commands(doc)
		if err != nil {
			t.Fatal(err)
		}
		commands, mentions = append(commands, c...), append(mentions, m...)
	}
	return commands, mentions
}

// A command that is shown and that no test runs is wrong some day.
func TestEveryCommandOfTheDocumentsIsRun(t *testing.T) {
	const help = "see the machine's life in test/e2e/documents_test.go: put it there, where it is run, or say there which test runs it"
	commands, mentions := shown(t)
	typed := map[string]bool{}
	for _, c := range commands {
		typed[c.Text] = true
		inLife := slices.Contains(life, c.Text)
		if !inLife && !isKubectl(c) && !isMake(c) && runBy[c.Text] == "" && (!c.Block || blocksRunBy[c.Document] == "") {
			t.Errorf("%s\nis run by no test: %s", c, help)
		}
	}
	ours := slices.Clone(life)
	for text := range runBy {
		ours = append(ours, text)
	}
	for _, text := range ours {
		if !typed[text] && !slices.ContainsFunc(mentions, begins(text)) {
			t.Errorf("no document shows %q: %s", text, help)
		}
		typed[text] = true
	}
	for _, m := range mentions {
		known := false
		for text := range typed {
			known = known || begins(text)(m)
		}
		if !known {
			t.Errorf("%s\nbegins with no command that a test runs: %s", m, help)
		}
	}
}

func begins(text string) func(harness.Command) bool {
	return func(m harness.Command) bool { return strings.HasPrefix(m.Text, text) }
}

// To run make test in make test would be absurd. That make knows the target, and that somebody reads the variable, is what goes stale.
func TestMakeCommandsOfTheDocuments(t *testing.T) {
	commands, _ := shown(t)
	for _, c := range commands {
		if !isMake(c) || blocksRunBy[c.Document] != "" && c.Block {
			continue
		}
		plan := bash(t, strings.Replace(c.Text, "make ", "make --dry-run ", 1))
		if out, err := plan.CombinedOutput(); err != nil {
			t.Errorf("%s\n%v\n%s", c, err, out)
		}
		for _, variable := range regexp.MustCompile(`\b([A-Z_]+)=`).FindAllStringSubmatch(c.Text, -1) {
			if out, err := bash(t, `grep -rqw "$1" Makefile hack`, variable[1]).CombinedOutput(); err != nil {
				t.Errorf("%s\nnothing in Makefile or hack reads %s %s", c, variable[1], out)
			}
		}
	}
}

// bash runs a script in the repository, as a person's shell would: without the make that runs the tests.
func bash(t testing.TB, script string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{"-eu", "-c", script, "bash"}, args...)...)
	cmd.Dir = harness.Root()
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=") })
	return cmd
}

//go:embed testdata/systemctl
var systemctl string

//go:embed testdata/machine.sh
var machineScript string

// documented lives a machine's life as the documents tell it, with the shipped programs, on a machine that is this one but for the files that
// an installation writes: those are in a mount namespace, and systemd is a few lines there.
func documented(t *testing.T, s *system) {
	if out, err := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--mount", "true").CombinedOutput(); err != nil {
		t.Skipf("installing on a machine needs user namespaces, which this one does not allow: %v %s", err, out)
	}
	n := s.tenant(t, "devbox")
	d := &documentation{tenant: n, dir: t.TempDir(), url: "https://" + s.GatewayAddress, token: n.tokenText(t, "devbox", "{expiresAfterHours: 0, endpointName: devbox}")}
	d.prepare(t)
	commands, _ := shown(t)
	script := strings.Builder{}
	script.WriteString(machineScript)
	var steps []harness.Command
	for _, text := range lifeBefore {
		steps = append(steps, shownAs(commands, text))
	}
	for _, c := range commands {
		if isKubectl(c) && runBy[c.Text] == "" && (!c.Block || blocksRunBy[c.Document] == "") && !slices.ContainsFunc(steps, func(s harness.Command) bool { return s.Text == c.Text }) && !slices.Contains(lifeAfter, c.Text) {
			steps = append(steps, c)
		}
	}
	for _, text := range lifeAfter {
		steps = append(steps, shownAs(commands, text))
	}
	for _, c := range steps {
		script.WriteString(d.step(t, c))
	}
	cmd := bash(t, `exec unshare --user --map-root-user --mount bash -eu -o pipefail "$1"`, d.write(t, "machine.sh", script.String()))
	cmd.Env = append(cmd.Env, "PATH="+d.dir+":/usr/local/bin:"+s.Bin+":"+filepath.Dir(s.api.KubectlPath)+":"+os.Getenv("PATH"))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it stops the agent then
	out, err := cmd.CombinedOutput()
	transcript := strings.ReplaceAll(string(out), d.token, "ret1.…")
	if err != nil {
		t.Fatalf("%v after:\n%s", err, transcript)
	}
	t.Logf("\n%s", transcript)
	printed := strings.Split(string(out), "\x1e")[1:]
	for i, c := range steps {
		d.check(t, c, printed[i])
	}
}

// shownAs is the command as it is shown, with its output; one that only prose mentions has none.
func shownAs(commands []harness.Command, text string) harness.Command {
	for _, c := range commands {
		if c.Text == text {
			return c
		}
	}
	return harness.Command{Text: text}
}

// documentation is what the documents' names stand for.
type documentation struct {
	*tenant
	dir, url, token string
}

func (d *documentation) write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// prepare makes what the documents take for granted: sudo, and somebody who may write Endpoints and declare nothing.
func (d *documentation) prepare(t testing.TB) {
	t.Helper()
	d.write(t, "sudo", "#!/bin/sh\nexec \"$@\"\n") // who is root there already
	d.write(t, "systemctl", systemctl)
	d.write(t, "token-file", d.token)
	d.act(t, "hello", "devbox", "PerformHeartbeat", "") // done as soon as the machine is there
	d.sys.api.Kubectl(t, "create", "role", "helpdesk", "-n", d.ns, "--verb=get,patch", "--resource=endpoints.rollcall.dev")
	d.sys.api.Kubectl(t, "create", "rolebinding", "helpdesk", "-n", d.ns, "--role=helpdesk", "--user=helpdesk")
	config, err := clientcmd.LoadFromFile(d.sys.api.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		user.Impersonate = "helpdesk"
	}
	for _, c := range config.Contexts {
		c.Namespace = d.ns
	}
	if err := clientcmd.WriteToFile(*config, filepath.Join(d.dir, "helpdesk.kubeconfig")); err != nil {
		t.Fatal(err)
	}
}

// step is the command as a person types it who has put their own names into it.
func (d *documentation) step(t testing.TB, c harness.Command) string {
	t.Helper()
	text := c.Text
	for _, stands := range []struct{ word, forWhat string }{
		{`'ret1\.…'`, "'" + d.token + "'"},
		{`https://gateway\.example\.com:8443|\bURL\b`, d.url},
		{`<name>-token`, "devbox-token"},
		{`<[^>]*instanceID[^>]*>`, "$(kubectl get fep devbox -o jsonpath={.status.connection.instanceID})"},
		{`\bNAME\b`, "devbox"},
		{`\bFILE\b`, filepath.Join(d.dir, "token-file")},
		{`\bDIR\b`, "/var/lib/other"},
	} {
		text = regexp.MustCompile(stands.word).ReplaceAllLiteralString(text, stands.forWhat)
	}
	if unknown := regexp.MustCompile(`<[a-z][^<>]*>|…`).FindString(text); unknown != "" {
		t.Errorf("%s\nstep in test/e2e/documents_test.go does not know what %s stands for", c, unknown)
	}
	who := d.Kubeconfig
	switch {
	case strings.Contains(c.Text, "config/default"), strings.Contains(c.Text, "config/crd"), strings.Contains(c.Text, "release-keys"), strings.Contains(c.Text, "-n rollcall-system"):
		who = d.sys.api.Kubeconfig // a cluster's administrator
	case strings.Contains(c.Output, `"helpdesk" may not`):
		who = filepath.Join(d.dir, "helpdesk.kubeconfig")
	}
	switch {
	case strings.HasPrefix(c.Output, "Error"):
		text = "if " + text + "; then exit 99; fi"
	case c.Text == "cytool websocket":
		text += " || test $? = 1" // there may be none
	case strings.HasPrefix(c.Text, "rollcall-agent run"):
		text = "while_online '" + text + "'"
	}
	return fmt.Sprintf("shown %s <<'END'\n%s\nEND\n%s\n", who, c.Text, text)
}

// check compares what a command printed with what the document shows.
func (d *documentation) check(t testing.TB, c harness.Command, printed string) {
	t.Helper()
	if c.Output == "" {
		return
	}
	want := strings.NewReplacer("https://gateway.example.com:8443", d.url, "namespace fleet", "namespace "+d.ns).Replace(c.Output)
	pattern := regexp.QuoteMeta(strings.Join(strings.Fields(want), " "))
	for _, varies := range []struct{ what, with string }{
		{`[0-9a-f]{8}-[0-9a-f-]{27}`, `[0-9a-f-]{36}`},
		{`…`, `.*`},
	} {
		pattern = regexp.MustCompile(varies.what).ReplaceAllLiteralString(pattern, varies.with)
	}
	_, printed, _ = strings.Cut(printed, "\n")
	if got := strings.Join(strings.Fields(printed), " "); !regexp.MustCompile("^" + pattern + "$").MatchString(got) {
		t.Errorf("%s\nprints\n%s\nand the document shows\n%s", c, printed, c.Output)
	}
}
