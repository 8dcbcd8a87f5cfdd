//go:build linux

package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// needed are the programs that are not built from Go modules, by the Debian package that has them.
var needed = []struct{ program, pkg string }{
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"runc", "runc"},
	{"/usr/lib/cni/bridge", "containernetworking-plugins"},
	{"ip", "iproute2"},
	{"iptables", "iptables"},
	{"nft", "nftables"},
	{"conntrack", "conntrack"},
}

// Missing says what this machine lacks to run a node; nil: nothing.
func Missing() error {
	if os.Getuid() != 0 {
		return errors.New("a node needs root: its containers have cgroups and namespaces")
	}
	if _, err := os.Stat(cgroups + "/memory/cgroup.procs"); err != nil {
		return fmt.Errorf("this node needs cgroup v1, with its controllers below %s: %w", cgroups, err)
	}
	var install []string
	for _, n := range needed {
		if _, err := exec.LookPath(n.program); err != nil && (len(install) == 0 || install[len(install)-1] != n.pkg) {
			install = append(install, n.pkg)
		}
	}
	if len(install) > 0 {
		return fmt.Errorf("some programs are missing: apt-get install -y %s", strings.Join(install, " "))
	}
	return nil
}

const (
	cgroups = "/sys/fs/cgroup"
	// stageEnv tells a program that was started again where it is; dirEnv is the node's directory.
	stageEnv, dirEnv = "ROLLCALL_NODE_STAGE", "ROLLCALL_NODE_DIR"
	stageInit        = "init"
	stageInside      = "inside"
	// stopGrace is what the program inside has after a signal, before everything in the namespaces is killed.
	stopGrace = 10 * time.Second
)

// Inside returns the node's directory, in the program that Enter has started again.
func Inside() (dir string, inside bool) {
	return os.Getenv(dirEnv), os.Getenv(stageEnv) == stageInside
}

// Enter starts this program again with args, in new namespaces and in cgroups of its own, and waits for its end. dir gets all that the node
// writes. With ctx it is told to end, and everything in the namespaces ends with it.
func Enter(ctx context.Context, dir string, args ...string) (err error) {
	own, err := enterCgroups(filepath.Base(dir))
	if err != nil {
		return fmt.Errorf("make cgroups: %w", err)
	}
	defer func() { err = errors.Join(err, own.remove()) }()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stageEnv+"="+stageInit, dirEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWCGROUP,
		Setpgid:    true, // Ctrl-C on the terminal reaches it through us
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Start()
	if err = errors.Join(err, own.leave()); err != nil {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		return fmt.Errorf("start in namespaces: %w", err)
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(stopGrace):
			_ = cmd.Process.Kill() // the first process of the namespace: all others go with it
		}
	}()
	return cmd.Wait()
}

// ownCgroups are directories, one for each hierarchy, below those that this process was in.
type ownCgroups map[string]string // by the directory that it came from

// enterCgroups moves this process into new cgroups: a cgroup namespace begins at those that its maker is in.
func enterCgroups(name string) (ownCgroups, error) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	own := ownCgroups{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) != 3 || parts[1] == "" {
			continue
		}
		from := filepath.Join(cgroups, strings.TrimPrefix(parts[1], "name="), parts[2])
		if _, err := os.Stat(from); err != nil {
			continue
		}
		to := filepath.Join(from, name)
		if err := os.Mkdir(to, 0o755); err != nil {
			return own, errors.Join(err, own.remove())
		}
		own[from] = to
		if parts[1] == "cpuset" { // empty at first, and nothing may run there
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile(filepath.Join(from, file))
				if err = errors.Join(err, os.WriteFile(filepath.Join(to, file), value, 0o600)); err != nil {
					return own, errors.Join(err, own.remove())
				}
			}
		}
		if err := join(to); err != nil {
			return own, errors.Join(err, own.leave(), own.remove())
		}
	}
	return own, lines.Err()
}

func join(cgroup string) error {
	return os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o600)
}

// leave moves this process back.
func (c ownCgroups) leave() error {
	var errs []error
	for from := range c {
		errs = append(errs, join(from))
	}
	return errors.Join(errs...)
}

// remove waits until the last process in them has gone.
func (c ownCgroups) remove() error {
	deadline := time.Now().Add(stopGrace)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var left error
		for _, dir := range c {
			left = errors.Join(left, removeCgroup(dir))
		}
		if left == nil || time.Now().After(deadline) {
			return left
		}
		<-tick.C
	}
}

// removeCgroup removes a cgroup and all below it. Its files go with it.
func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeCgroup(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, syscall.Rmdir(dir))
}
