package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollcall-dev/rollcall/hack/local"
)

// claim makes this the one demo that runs here. The lock dies with the process, so a pid that was reused is never taken for ours.
func (d *demo) claim() (release func(), err error) {
	f, err := os.OpenFile(d.in("pid"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := d.running()
		_ = f.Close()
		return nil, fmt.Errorf("it runs already, as process %d: make stop ends it", pid)
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// running tells whether a demo holds .run/, and its pid.
func (d *demo) running() (pid int, ok bool) {
	f, err := os.Open(d.in("pid"))
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		return 0, false
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return pid, err == nil && pid > 0
}

// stop ends the demo that runs here, from another terminal.
func (d *demo) stop(ctx context.Context) error {
	pid, running := d.running()
	if !running {
		d.say("nothing runs here; state, if any, is kept in .run/")
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	err := local.Poll(ctx, 30*time.Second, often, func() error {
		if _, still := d.running(); still {
			return fmt.Errorf("process %d is still stopping", pid)
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.say("stopped; state kept in .run/")
	return nil
}

// clean stops it and forgets all that it knew.
func (d *demo) clean(ctx context.Context) error {
	if _, running := d.running(); running {
		if err := d.stop(ctx); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return err
	}
	d.say("forgot .run/; the built Kubernetes stays in your cache directory")
	return nil
}

// env prints shell assignments, once the demo has started.
func (d *demo) env() error {
	b, err := os.ReadFile(d.in("env"))
	if err != nil {
		if _, running := d.running(); running {
			return errors.New("make run has not come so far: wait until it says Ready")
		}
		return errors.New("nothing has run here yet: make run first, in another terminal")
	}
	_, err = d.out.Write(b)
	return err
}

// links puts kubectl, cytool and rollcall-agent into .run/bin and the person's kubeconfig and what env prints beside it.
func (d *demo) links() error {
	if err := os.MkdirAll(d.in("bin"), 0o700); err != nil {
		return err
	}
	for name, target := range map[string]string{
		"bin/kubectl": d.kubectl, "bin/cytool": filepath.Join(d.bin, "cytool"),
		"bin/rollcall-agent": filepath.Join(d.bin, "rollcall-agent"), "kubeconfig": d.person.Kubeconfig,
	} {
		_ = os.Remove(d.in(name))
		if err := os.Symlink(target, d.in(name)); err != nil {
			return err
		}
	}
	return os.WriteFile(d.in("env"), fmt.Appendf(nil, "export PATH=%s:$PATH\nexport KUBECONFIG=%s\nexport ROLLCALL_SERVER=https://%s\nexport ROLLCALL_STATE_DIR=%s\n",
		shellQuote(d.in("bin")), shellQuote(d.in("kubeconfig")), d.address(), shellQuote(d.in("agent"))), 0o600)
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
