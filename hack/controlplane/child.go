package controlplane

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// child is a process that envtest does not know: kube-controller-manager.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

func startChild(path, logPath string, args ...string) (*child, error) {
	logFile, err := openLog(logPath)
	if err != nil {
		return nil, err
	}
	defer logFile.Close() // the process has its own
	c := &child{cmd: exec.Command(path, args...), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = logFile, logFile
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.done)
		_ = c.cmd.Wait() // how it ended is in its log
	}()
	return c, nil
}

// stop asks the process to end and waits for that, within grace.
func (c *child) stop(grace time.Duration) {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // fails where it has ended
	select {
	case <-c.done:
	case <-time.After(grace):
	}
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// startError says why a process did not start: its own last words, and where
// the others are.
func startError(err error, logPath string) error {
	name := strings.TrimSuffix(filepath.Base(logPath), ".log")
	words := lastLine(logPath)
	if words == "" {
		return fmt.Errorf("%s did not start: %w", name, err)
	}
	return fmt.Errorf("%s did not start (its log is %s): %s", name, logPath, words)
}

func lastLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	text = bytes.TrimSpace(text)
	return string(text[bytes.LastIndexByte(text, '\n')+1:])
}
