package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// victim is a program of a path of its own that is started again whenever it ends, and counts the TERMs that it got.
type victim struct {
	path, count string
	args        []string
	over        sync.WaitGroup
	starts      atomic.Int32 // after which it takes TERMs

	mu     sync.Mutex
	ending bool
	now    *exec.Cmd
}

// startVictim starts one in a new directory. A stubborn one goes on after a TERM.
func startVictim(bin, dir string, stubborn bool) (*victim, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	v := &victim{path: filepath.Join(dir, "victim"), count: filepath.Join(dir, "terms")}
	v.args = []string{"--count=" + v.count}
	if stubborn {
		v.args = append(v.args, "--stubborn")
	}
	if err := os.Link(filepath.Join(bin, "victim"), v.path); err != nil {
		return nil, err
	}
	ready := make(chan error, 1)
	v.over.Go(func() {
		for v.run(ready) {
		}
	})
	return v, <-ready
}

// run starts it and waits for its end. It tells whether there is to be another.
func (v *victim) run(ready chan<- error) bool {
	cmd := exec.Command(v.path, v.args...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	v.mu.Lock()
	if err == nil && !v.ending {
		err = cmd.Start()
	}
	if v.ending || err != nil {
		v.mu.Unlock()
		tell(ready, err)
		return false
	}
	v.now = cmd
	v.mu.Unlock()
	bufio.NewScanner(out).Scan() // it says that it takes TERMs now
	v.starts.Add(1)
	tell(ready, nil)
	_ = cmd.Wait() // it was ended
	return true
}

func tell(ready chan<- error, err error) {
	select {
	case ready <- err:
	default: // it was told of the first
	}
}

// terms are how many TERMs all of them got.
func (v *victim) terms() (int, error) {
	b, err := os.ReadFile(v.count)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return strings.Count(string(b), "\n"), err
}

// standing waits until it is there again after the last TERM, by which it ended.
func (v *victim) standing(ctx context.Context) error {
	return until(ctx, patience, "the victim is started again", func() (bool, error) {
		n, err := v.terms()
		return int(v.starts.Load()) > n, err
	})
}

// stop ends it for good, and returns how many TERMs it got in all.
func (v *victim) stop() (int, error) {
	v.mu.Lock()
	v.ending = true
	if v.now != nil {
		_ = v.now.Process.Kill()
	}
	v.mu.Unlock()
	v.over.Wait()
	n, err := v.terms()
	if err != nil {
		return 0, fmt.Errorf("count the TERMs of %s: %w", v.path, err)
	}
	return n, os.RemoveAll(filepath.Dir(v.path))
}
