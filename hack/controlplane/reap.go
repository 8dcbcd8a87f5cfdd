package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/shirou/gopsutil/v4/process"
	"golang.org/x/sys/unix"
)

// A process of ours is known by an argument that names its cluster's state
// directory, which no two clusters share. That survives everything a file of
// process ids doesn't: a number used again, a death before the file was written.
func etcdMark(state string) string { return "--data-dir=" + filepath.Join(state, "etcd") }

func apiServerMark(state string) string         { return "--cert-dir=" + filepath.Join(state, "pki") }
func controllerManagerMark(state string) string { return "--kubeconfig=" + kcmKubeconfig(state) }

// find returns the ids of the processes that carry one of the marks.
func find(ctx context.Context, marks ...string) ([]int, error) {
	all, err := process.PidsWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []int
	for _, pid := range all {
		if carries(ctx, int(pid), marks) {
			found = append(found, int(pid))
		}
	}
	return found, nil
}

func carries(ctx context.Context, pid int, marks []string) bool {
	args, err := (&process.Process{Pid: int32(pid)}).CmdlineSliceWithContext(ctx)
	if err != nil { // it has ended
		return false
	}
	return slices.ContainsFunc(args, func(arg string) bool { return slices.Contains(marks, arg) })
}

// reap kills every process that carries one of the marks, and returns when
// they and what they held, such as ports, are gone.
func reap(ctx context.Context, marks ...string) error {
	for {
		pids, err := find(ctx, marks...)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := kill(ctx, pid, marks); err != nil {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
	}
}

// kill takes a handle on the process before it looks once more, so that a
// number that was used again meanwhile is not killed.
func kill(ctx context.Context, pid int, marks []string) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer func() { _ = p.Release() }()
	if !carries(ctx, pid, marks) {
		return nil
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	for !ended(ctx, p, marks) {
		if ctx.Err() != nil {
			return fmt.Errorf("it does not end: %w", context.Cause(ctx))
		}
	}
	return nil
}

// ended waits for a moment and says whether the process has ended. A killed
// process loses its arguments before it closes its files; a handle tells when
// the last of its threads has gone, also of one that nobody has waited for.
func ended(ctx context.Context, p *os.Process, marks []string) bool {
	const moment = 50 * time.Millisecond
	over := false
	err := p.WithHandle(func(handle uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, int(moment.Milliseconds()))
		over = n > 0 && err == nil
	})
	switch {
	case errors.Is(err, os.ErrNoHandle): // not Linux
		time.Sleep(moment)
		return !carries(ctx, p.Pid, marks)
	case err != nil: // its end has been waited for
		return true
	}
	return over
}

// guardEnv makes this program a guard: see startGuard.
const guardEnv = "ROLLCALL_CONTROLPLANE_GUARD"

// init comes before main and before flags, so that any program or test that
// imports this package can be its own guard.
func init() {
	if state := os.Getenv(guardEnv); state != "" {
		guard(state, len(os.Args) > 1 && os.Args[1] == "temporary")
		os.Exit(0)
	}
}

// startGuard starts this same program again as a guard over the processes of
// one cluster. The guard waits for its standard input to end, which happens
// when this process dies, however it dies, and then kills them. (envtest's
// children are in process groups of their own and would stay.) It shares the
// cluster's lock, so that nobody starts the cluster again before it is done.
func startGuard(state string, temporary bool, lock *fileLock) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	if temporary {
		cmd.Args = append(cmd.Args, "temporary")
	}
	cmd.Env = []string{guardEnv + "=" + state, "GOMAXPROCS=1"}
	cmd.ExtraFiles = []*os.File{lock.f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	if _, err := cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	return cmd, nil
}

func stopGuard(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// guard does its best: there is nobody left to tell.
func guard(state string, temporary bool) {
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_ = reap(ctx, etcdMark(state), apiServerMark(state), controllerManagerMark(state))
	if temporary {
		_ = os.RemoveAll(state)
	}
}
