// Package demo runs the README's commands as a newcomer types them, and compares what they print with golden files. Times, ports, UIDs and
// host names are masked, for they are the machine's. `go test ./test/demo -update` writes the files anew.
package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hexops/gotextdiff"
	"github.com/hexops/gotextdiff/myers"
	"github.com/hexops/gotextdiff/span"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/test/harness"
)

var update = flag.Bool("update", false, "write the golden files anew")

// terminal is a shell in the repository whose make works on a demo of the test's own.
type terminal struct {
	env []string
}

func TestREADME(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".run")
	for _, v := range []string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL"} { // a person's shell has none of the make that runs the tests
		t.Setenv(v, "")
		_ = os.Unsetenv(v)
	}
	port, err := controlplane.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{env: append(os.Environ(),
		"DEMO_FLAGS=--dir="+dir+" --bin="+harness.Bin(t),
		"GATEWAY_PORT="+strconv.Itoa(port),
	)}
	run := term.start(t, "make", "run")
	run.waitFor(t, "Ctrl-C stops all of it.", 3*time.Minute)
	golden(t, "make-run", run.output())

	commands := readmeCommands(t)
	for _, want := range []string{"make run", strings.TrimSpace(enter), "kubectl get fep", "make block", "make unblock", "make agents N=50", "make stop", "make test"} {
		if !strings.Contains(strings.Join(commands, "\n"), want) {
			t.Errorf("the README does not show %q", want)
		}
	}
	term.shell(t, enter+until("WebSocket"))
	seen := term.start(t, "bash", "-c", enter+
		`exec kubectl get "$(kubectl get fep -o name)" --watch --no-headers -o custom-columns=S:.status.summary,C:.status.connection.channel`)
	golden(t, "readme", term.shell(t, readmeSession(commands)))
	lines := strings.Split(strings.TrimSpace(masked(t, seen.output())), "\n")
	if got, want := slices.Compact(lines), []string{"Online  WebSocket", "Online  Heartbeat", "Online  WebSocket"}; !slices.Equal(got, want) {
		t.Errorf("a watch saw %q while websockets were blocked and came back, want %q", got, want)
	}
	var websocket struct{ State string }
	if out := term.shell(t, enter+"cytool websocket -o json"); json.Unmarshal([]byte(out), &websocket) != nil || websocket.State != "connected" {
		t.Errorf("cytool websocket -o json has no state connected:\n%s", out)
	}
	harness.Eventually(t, time.Minute, func() error {
		out := term.shell(t, enter+"kubectl get fep\nkubectl get epp --no-headers")
		if strings.Contains(out, "Updating") || !strings.Contains(out, "1043 not applied") || !takenByTheHealthy(out) || !strings.Contains(out, "Conflict") || !regexp.MustCompile(`demo +6 +6 `).MatchString(out) {
			return fmt.Errorf("not all have applied their policy, met their clone and are counted:\n%s", out)
		}
		return nil
	})
	golden(t, "fleet", term.shell(t, enter+"kubectl get fep\nkubectl get epp"))

	t.Run("a second one is refused", func(t *testing.T) {
		second := term.start(t, "make", "run")
		second.waitFor(t, "runs already", time.Minute)
	})
	t.Run("the second start goes on with the same fleet, and is fast", func(t *testing.T) {
		if out := term.shell(t, "make stop"); !strings.Contains(out, "stopped; state kept in .run/") {
			t.Errorf("make stop said:\n%s", out)
		}
		run.wait(t, 30*time.Second)
		again := term.start(t, "make", "run")
		began := time.Now()
		again.waitFor(t, "Ready in", time.Minute)
		t.Logf("ready again after %.1fs", time.Since(began).Seconds())
		out := term.shell(t, enter+"kubectl get fep --no-headers | wc -l")
		if strings.TrimSpace(out) != "6" {
			t.Errorf("%s endpoints after the second start, want the 6 from before", out)
		}
		term.shell(t, enter+"make block\n"+until("answered with 403")+"\nmake unblock\n"+until("WebSocket"))
		out = term.shell(t, "make clean")
		again.wait(t, 30*time.Second)
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("make clean left %s (it said %s)", dir, out)
		}
	})
}

// takenByTheHealthy tells whether all endpoints run content 1043 that have nothing against it.
func takenByTheHealthy(endpoints string) bool {
	for line := range strings.Lines(endpoints) {
		odd := regexp.MustCompile(`^(NAME|agent-0[345]|demo) `).MatchString(line)
		if !odd && !strings.Contains(line, " 1043 ") {
			return false
		}
	}
	return true
}

// enter is the first that is typed in a new terminal.
const enter = `eval "$(make env)"` + "\n"

// until waits until kubectl shows an endpoint like this, and says nothing but that there is none.
func until(shown string) string {
	return "for i in $(seq 600); do kubectl get fep | grep -q '" + shown + "' && break; sleep 0.1; done; kubectl get fep | grep -q '" + shown + "' || { kubectl get fep; exit 1; }"
}

// settles is what a command brings about that takes a moment: a person has read its output by then.
var settles = map[string]string{
	"make block":   until("answered with 403"),
	"make unblock": until("WebSocket"),
}

// readmeSession is a script of the README's commands, each printed before it runs.
func readmeSession(commands []string) string {
	session := []string{"set -e"}
	for _, c := range commands {
		switch {
		case c == "make run", c == "make test", strings.HasPrefix(c, "make stop"):
			continue // that runs already; this is it; comes last
		case strings.HasPrefix(c, "make agents"):
			c = "make agents N=5" // as many are odd on purpose
		}
		session = append(session, "echo '$ "+strings.ReplaceAll(c, "'", `'\''`)+"'")
		if strings.Contains(c, "$?") {
			c = "set +e; " + c + "; set -e"
		}
		session = append(session, c, settles[c])
	}
	return strings.Join(session, "\n")
}

// readmeCommands are the lines that begin with "$ " in the README's console blocks.
func readmeCommands(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for line := range strings.Lines(harness.ConsoleBlocks(b)) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ "); ok {
			commands = append(commands, command)
		}
	}
	return commands
}

// shell runs a script as a person's bash would and returns what it printed.
func (m *terminal) shell(t testing.TB, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = harness.Root(), m.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	return string(out)
}

// foreground is a command that stays, in a terminal of its own.
type foreground struct {
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	buf  bytes.Buffer
}

func (m *terminal) start(t testing.TB, name string, args ...string) *foreground {
	t.Helper()
	f := &foreground{cmd: exec.Command(name, args...), done: make(chan struct{})}
	f.cmd.Dir, f.cmd.Env = harness.Root(), m.env
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	f.cmd.Stdout, f.cmd.Stderr = f, f
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = f.cmd.Wait()
		close(f.done)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-f.cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-f.done:
		case <-time.After(30 * time.Second):
			_ = syscall.Kill(-f.cmd.Process.Pid, syscall.SIGKILL)
		}
	})
	return f
}

func (f *foreground) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.buf.Write(b)
}

func (f *foreground) output() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.buf.String()
}

func (f *foreground) waitFor(t testing.TB, text string, patience time.Duration) {
	t.Helper()
	harness.Eventually(t, patience, func() error {
		if strings.Contains(f.output(), text) {
			return nil
		}
		select {
		case <-f.done:
			if !strings.Contains(f.output(), text) {
				t.Fatalf("%s ended without %q:\n%s", f.cmd, text, f.output())
			}
			return nil
		default:
			return fmt.Errorf("no %q in:\n%s", text, f.output())
		}
	})
}

func (f *foreground) wait(t testing.TB, patience time.Duration) {
	t.Helper()
	select {
	case <-f.done:
	case <-time.After(patience):
		t.Fatalf("%s does not end:\n%s", f.cmd, f.output())
	}
}

// masks replace what differs from run to run, and the white space that goes with it.
var masks = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`/\S*/\.run\b`), ".run"},
	{regexp.MustCompile(`(demo) +\d+ +\d+ +\d+ +(\d+ +True)`), "$1 N N N $2"},
	{regexp.MustCompile(`(content-\d+ +\d+ +100) +\d+ +\d+ +\d+ +(True.*?) +(all \d+ run it|\d+ of \d+ run it.*|offered with.*)`), "$1 N N N $2 ROLLOUT"},
	{regexp.MustCompile(`(agent-0[45] .*8\.0\.0) +104[23]`), "$1 CONTENT"},              // it is about to stop, or held
	{regexp.MustCompile(`(kiosk .*8\.0\.0)(?: +1042)?`), "$1 CONTENT"},                  // that it had, or was just getting
	{regexp.MustCompile(`(agent-05 +Conflict) +(?:WebSocket|Heartbeat)`), "$1 CHANNEL"}, // whichever of the two came last
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(`gw-[a-z0-9]{1,5}-[a-z0-9]{5}`), "GATEWAY"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`(?:\d+d)?(?:\d+h)?(?:\d+m)?\d+(?:\.\d+)?s\b`), "AGO"},
	{regexp.MustCompile(`\b\d+d(?:\d+h)?\b`), "AGO"},
	{regexp.MustCompile(`\b\d+m\b`), "AGO"}, // to the second
	{regexp.MustCompile(`\b\d+(?:\.\d+)? ms\b`), "N ms"},
	{regexp.MustCompile(`(in AGO|under way) \(the \d+(?:st|nd|rd|th)\)`), "in AGO (the Nth)"},
	{regexp.MustCompile(`(Payload|Sig|Keyid|Resource Version|Journal ID|Pid): +\S+`), "$1: VALUE"},
	{regexp.MustCompile(`\bpid \d+`), "pid N"},
	{regexp.MustCompile(`\b(hello|stop-victim)-[a-z0-9]{5}\b`), "$1-XXXXX"},
	{regexp.MustCompile(`Kubernetes v1\.37\.\d+`), "Kubernetes VERSION"},
	{regexp.MustCompile(`' '+|  +`), "  "},
}

func masked(t testing.TB, s string) string {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range masks {
		s = m.what.ReplaceAllString(s, m.with)
	}
	return regexp.MustCompile(`\b`+regexp.QuoteMeta(strings.ToLower(host))+`\b`).ReplaceAllString(s, "HOST")
}

// golden compares what people see with a file.
func golden(t testing.TB, name, got string) {
	t.Helper()
	got = masked(t, got)
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s differs (write it anew with -update, after a look):\n%s", file,
			fmt.Sprint(gotextdiff.ToUnified("want", "got", string(want), myers.ComputeEdits(span.URIFromPath(file), string(want), got))))
	}
}

var _ io.Writer = (*foreground)(nil)
