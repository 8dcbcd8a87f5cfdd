package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// victim is a program of a path of its own that is started again whenever it ends, and counts the TERMs that it got.
type victim struct {
	path, count string
	pids        chan int // of each start, once it is ready

	mu     sync.Mutex
	ending bool
	now    *exec.Cmd
}

// startVictim starts one for t.
func startVictim(t testing.TB, args ...string) *victim {
	t.Helper()
	dir := t.TempDir()
	v := &victim{path: filepath.Join(dir, "victim"), count: filepath.Join(dir, "terms"), pids: make(chan int, 100)}
	program, err := os.ReadFile(filepath.Join(harness.Bin(t), "victim"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(v.path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for v.run(args) {
		}
	})
	t.Cleanup(func() {
		v.mu.Lock()
		v.ending = true
		if v.now != nil {
			_ = v.now.Process.Kill()
		}
		v.mu.Unlock()
		group.Wait()
	})
	<-v.pids
	return v
}

// run starts it and waits for its end. It tells whether there is to be another.
func (v *victim) run(args []string) bool {
	cmd := exec.Command(v.path, append([]string{"--count=" + v.count}, args...)...)
	out, err := cmd.StdoutPipe()
	v.mu.Lock()
	if v.ending || err != nil || cmd.Start() != nil {
		v.mu.Unlock()
		return false
	}
	v.now = cmd
	v.mu.Unlock()
	if r := bufio.NewScanner(out); r.Scan() {
		v.pids <- cmd.Process.Pid
	}
	_ = cmd.Wait() // it was ended
	return true
}

// terms are how many TERMs all of them got.
func (v *victim) terms(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile(v.count)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "\n")
}
