package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
)

// realAgent is a rollcall-agent process with its state directory.
type realAgent struct {
	*local.Process
	bin, dir string
	program  string
	args     []string
}

// startAgent starts the shipped agent with a token, as its systemd unit would.
func (s *system) startAgent(t testing.TB, name, token string, args ...string) *realAgent {
	t.Helper()
	return s.startProgram(t, "rollcall-agent", name, token, args...)
}

// startProgram is startAgent with an agent of another version.
func (s *system) startProgram(t testing.TB, program, name, token string, args ...string) *realAgent {
	t.Helper()
	return s.startAgentIn(t, t.TempDir(), program, name, token, args...)
}

// startAgentIn keeps its state in a directory below parent.
func (s *system) startAgentIn(t testing.TB, parent, program, name, token string, args ...string) *realAgent {
	t.Helper()
	dir := filepath.Join(parent, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &realAgent{bin: s.Bin, dir: dir, program: program, args: append([]string{
		"run", "--state-dir=" + dir, "--server=https://" + s.GatewayAddress, "--token-file=" + file,
	}, args...)}
	a.start(t)
	t.Cleanup(func() {
		a.Stop(5 * time.Second)
		if t.Failed() {
			t.Logf("the agent's last words:\n%s", local.Tail(a.Log, 20))
		}
	})
	return a
}

// start starts it, again perhaps, on the same state.
func (a *realAgent) start(t testing.TB) {
	t.Helper()
	var err error
	if a.Process, err = local.StartEnv("agent", filepath.Join(a.dir, "..", "agent.log"), []string{raceless}, filepath.Join(a.bin, a.program), a.args...); err != nil {
		t.Fatal(err)
	}
}

// raceless spares a program that was built with -race the second for which it waits at its end, in case there is more to report.
const raceless = "GORACE=atexit_sleep_ms=0"

// cytool runs it against this agent and returns what it printed and its exit code.
func (a *realAgent) cytool(t testing.TB, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(a.bin, "cytool"), append([]string{"--state-dir=" + a.dir}, args...)...)
	cmd.Env = append(os.Environ(), raceless)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return string(out), 0
	case errors.As(err, &exit):
		return string(out), exit.ExitCode()
	default:
		t.Fatal(err)
		return "", -1
	}
}
