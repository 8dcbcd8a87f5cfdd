// Command test is `make test`: it starts one real control plane for the whole run, builds the programs in the flavour that is tested, runs
// every package's tests, reads the audit log, and says what the run cost.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/test/audit"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// budget of a run on 2 cores, without the control plane's one-time build.
const budget = 10 * time.Minute

// longest lists all packages, those first that take longest. They wait more than they compute, so others run meanwhile, more at once than there
// are cores.
var longest = []string{"./test/e2e", "./controllers", "./test/demo", "./..."}

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "make test:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	if _, err := controlplane.Ensure(ctx, controlplane.Options{Out: out}); err != nil {
		return err
	}
	began := time.Now()
	dir, err := os.MkdirTemp("", "rollcall-test-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	step := func(what string) { fmt.Fprintf(out, "make test: %s (%.0fs)\n", what, time.Since(began).Seconds()) }

	step("building the programs with -race")
	if err := buildAll(ctx, out, filepath.Join(dir, "bin")); err != nil {
		return err
	}
	step("starting the control plane that the tests share")
	api, err := harness.Start(ctx, filepath.Join(dir, "cluster"))
	if err != nil {
		return err
	}
	defer func() { _ = api.ControlPlane.Stop() }() // the run's verdict is made already

	whole := len(args) == 0
	if whole {
		args = longest
	}
	step("go test -race " + strings.Join(args, " "))
	rights := filepath.Join(dir, "rights")
	if err := os.Mkdir(rights, 0o700); err != nil {
		return err
	}
	env := []string{audit.RightsEnv + "=" + rights, harness.Env + "=" + filepath.Join(dir, "cluster"), harness.BinEnv + "=" + filepath.Join(dir, "bin")}
	testErr := goTool(ctx, out, ".", env, append([]string{"test", "-race", "-timeout=30m", "-p=4"}, args...)...)

	step("reading the audit log")
	if err := checkAudit(out, api.AuditLog); err != nil {
		return err
	}
	if err := audit.Keep(api.AuditLog, rights); err != nil {
		return err
	}
	if err := checkRights(out, rights, whole && testErr == nil); err != nil {
		return err
	}
	fmt.Fprintf(out, "make test: %.0fs of the %.0fs that a run may take\n", time.Since(began).Seconds(), budget.Seconds())
	return testErr
}

func buildAll(ctx context.Context, out io.Writer, bin string) error {
	for _, p := range harness.Programs {
		if err := goTool(ctx, out, ".", nil, p.BuildArgs(filepath.Join(bin, p.Name))...); err != nil {
			return err
		}
	}
	return nil
}

func goTool(ctx context.Context, out io.Writer, dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w", args[0], err)
	}
	return nil
}

// checkAudit looks at every write of our kinds in the shared log.
func checkAudit(out io.Writer, log string) error {
	writes, violations, err := audit.Judge(log)
	if err != nil {
		return err
	}
	all := 0
	for _, n := range writes {
		all += n
	}
	for _, v := range violations {
		fmt.Fprintln(out, "audit:", v)
	}
	if len(violations) > 0 {
		return fmt.Errorf("%d of %d writes to our kinds were by somebody who may not make them: see above", len(violations), all)
	}
	fmt.Fprintf(out, "audit: %d writes to our kinds, every one by whom it is for\n", all)
	return nil
}

// checkRights tells which rights of the shipped roles the programs have not used in this run, and what they lacked. A part of the tests uses a part of
// the rights, and so do tests that fail: what is not used is told of a whole run that has passed.
func checkRights(out io.Writer, dir string, whole bool) error {
	granted, unused, missing, err := audit.Rights(dir, "config/rbac")
	if err != nil {
		return err
	}
	for _, r := range missing {
		fmt.Fprintln(out, "audit: RBAC refused", r)
	}
	if len(missing) > 0 {
		return fmt.Errorf("RBAC has refused the shipped programs %d things that they need: see above", len(missing))
	}
	if !whole {
		return nil
	}
	for _, r := range unused {
		fmt.Fprintln(out, "audit: nothing has used what is granted in config/rbac/"+r)
	}
	if len(unused) > 0 {
		return fmt.Errorf("%d of %d rights of manager and gateway were not used: see above. Take each out of its role, "+
			"have a test make the program use it, or say in unasked of test/audit/rights.go why no request can show it", len(unused), granted)
	}
	fmt.Fprintf(out, "audit: %d rights are granted to manager and gateway, and each was used or has its reason\n", granted)
	return nil
}
