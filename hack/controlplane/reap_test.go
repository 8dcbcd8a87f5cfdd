package controlplane

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// roleEnv makes this test binary play one of the roles below instead of
// running tests.
const roleEnv = "ROLLCALL_CONTROLPLANE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "idle": // until somebody kills it or the test ends
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "cluster":
		runCluster()
	}
}

// role is this test binary, playing one.
type role struct {
	*exec.Cmd
	stdin io.Closer
}

// playRole starts cmd and returns once it has written its first line.
func playRole(t *testing.T, cmd *exec.Cmd) role {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := role{cmd, stdin}
	t.Cleanup(func() { _ = r.end() })
	line := make([]byte, 1024)
	n, err := stdout.Read(line)
	if err != nil || string(line[:n]) != "ready\n" {
		t.Fatalf("the process said %q, %v", line[:n], err)
	}
	return r
}

// end lets the process end by itself. Without an error it lived until then.
func (r role) end() error {
	_ = r.stdin.Close()
	return r.Wait()
}

// idle starts a process with the given arguments, which does nothing.
func idle(t *testing.T, args ...string) role {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = append([]string{"etcd"}, args...)
	cmd.Env = append(os.Environ(), roleEnv+"=idle")
	return playRole(t, cmd)
}

func assertKilled(t *testing.T, r role) {
	t.Helper()
	err := r.end()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != -1 {
		t.Errorf("the cluster's own process ended with %v, want killed", err)
	}
}

func TestReapEndsOnlyThatClustersProcesses(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	ours := idle(t, etcdMark(state), "--unsafe-no-fsync")
	others := map[string]role{
		"another cluster's process":       idle(t, etcdMark(state+"2")),
		"one that only mentions the path": idle(t, "-f", etcdMark(state)+"/member", state),
	}
	if err := reap(t.Context(), etcdMark(state), apiServerMark(state)); err != nil {
		t.Fatal(err)
	}
	assertKilled(t, ours)
	for what, other := range others {
		if err := other.end(); err != nil {
			t.Errorf("%s ended too: %v", what, err)
		}
	}
}

func TestKillSparesAProcessThatGotTheNumber(t *testing.T) {
	innocent := idle(t, "--data-dir=/somewhere/else")
	if err := kill(t.Context(), innocent.Process.Pid, []string{etcdMark(t.TempDir())}); err != nil {
		t.Fatal(err)
	}
	if err := innocent.end(); err != nil {
		t.Errorf("killed a process that is not the cluster's: %v", err)
	}
}

func TestLockNamesItsHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	lock, _, err := tryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	_, holder, err := tryLock(path)
	dir, _ := os.Getwd()
	if want := fmt.Sprintf("process %d in %s", os.Getpid(), dir); !errors.Is(err, errLocked) || holder != want {
		t.Errorf("a second lock: holder %q, error %v; want %q, %v", holder, err, want, errLocked)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	again, _, err := tryLock(path)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	_ = again.Release()
}
