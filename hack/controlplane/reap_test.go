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

// idle starts a process with the given arguments, which does nothing.
func idle(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = append([]string{"etcd"}, args...)
	cmd.Env = append(os.Environ(), roleEnv+"=idle")
	startRole(t, cmd)
	return cmd
}

// startRole starts cmd and returns once it has written its first line.
func startRole(t *testing.T, cmd *exec.Cmd) {
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
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	line := make([]byte, 1024)
	n, err := stdout.Read(line)
	if err != nil || string(line[:n]) != "ready\n" {
		t.Fatalf("the process said %q, %v", line[:n], err)
	}
}

func TestReapEndsOnlyThatClustersProcesses(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	ours := idle(t, etcdMark(state), "--unsafe-no-fsync")
	others := map[string]*exec.Cmd{
		"another cluster's process":       idle(t, etcdMark(state+"2")),
		"one that only mentions the path": idle(t, "-f", etcdMark(state)+"/member", state),
	}
	if err := reap(t.Context(), etcdMark(state), apiServerMark(state)); err != nil {
		t.Fatal(err)
	}
	err := ours.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != -1 {
		t.Errorf("the cluster's own process ended with %v, want killed", err)
	}
	for what, cmd := range others {
		if !carries(t.Context(), cmd.Process.Pid, cmd.Args[1:2]) && !carries(t.Context(), cmd.Process.Pid, cmd.Args[2:3]) {
			t.Errorf("%s was killed", what)
		}
	}
}

func TestKillSparesAProcessThatGotTheNumber(t *testing.T) {
	state := t.TempDir()
	innocent := idle(t, "--data-dir=/somewhere/else")
	if err := kill(t.Context(), innocent.Process.Pid, []string{etcdMark(state)}); err != nil {
		t.Fatal(err)
	}
	if !carries(t.Context(), innocent.Process.Pid, []string{"--data-dir=/somewhere/else"}) {
		t.Error("killed a process that is not the cluster's")
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
