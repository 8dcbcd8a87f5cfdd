package controlplane

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const minimumGo = "go1.26"

type component struct{ name, pkg string }

// components of the control plane, which every test needs.
var components = []component{
	{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"},
	{"etcd", "go.etcd.io/etcd/server/v3"},
	{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"},
	{"kubectl", "k8s.io/kubernetes/cmd/kubectl"},
}

// nodeComponents are what a cluster needs beside them to run Pods.
var nodeComponents = []component{
	{"kubelet", "k8s.io/kubernetes/cmd/kubelet"},
	{"kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"},
	{"kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"},
}

// builder compiles the components with the go command.
type builder struct {
	version  string
	dir      string // of the module
	log      io.Writer
	progress *progress
	trouble  []string // the last lines that were no progress
}

// module finds the nested module. For another patch it works on a copy at
// scratch, moved to that patch.
func (b *builder) module(ctx context.Context, scratch string) error {
	var out bytes.Buffer
	err := b.run(ctx, &out, nil, "list", "-f", "{{.Dir}}", "github.com/rollcall-dev/rollcall/hack/controlplane")
	if err != nil {
		return fmt.Errorf("find hack/controlplane (run this inside Rollcall's repository): %w", err)
	}
	source := filepath.Join(strings.TrimSpace(out.String()), "module")
	if b.version == DefaultVersion {
		b.dir = source
		return nil
	}
	if err := os.RemoveAll(scratch); err != nil {
		return err
	}
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"go.mod", "go.sum", "tools.go"} {
		text, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return err
		}
		if name == "go.mod" {
			text = []byte(moduleAt(string(text), b.version))
		}
		if err := os.WriteFile(filepath.Join(scratch, name), text, 0o600); err != nil {
			return err
		}
	}
	b.dir = scratch
	b.progress.Step("Go modules", "moving to Kubernetes v"+b.version)
	if err := b.run(ctx, io.Discard, b.downloads(), "mod", "tidy"); err != nil {
		return fmt.Errorf("move to Kubernetes v%s: %w", b.version, err)
	}
	b.progress.End("moved to Kubernetes v" + b.version)
	return nil
}

// download gets the source of all of them.
func (b *builder) download(ctx context.Context, components []component) error {
	b.progress.Step("Go modules", "looking what is here already")
	args := []string{"list", "-deps", "-f", "{{.ImportPath}}"}
	for _, c := range components {
		args = append(args, c.pkg)
	}
	if err := b.run(ctx, io.Discard, b.downloads(), args...); err != nil {
		return fmt.Errorf("download Go modules: %w", err)
	}
	b.progress.End("all here")
	return nil
}

// downloads counts the modules that the go command says it fetches.
func (b *builder) downloads() func(line string) bool {
	count := 0
	return func(line string) bool {
		module, ok := strings.CutPrefix(line, "go: downloading ")
		if ok {
			count++
			b.progress.Count(fmt.Sprintf("downloading, %s so far: %s", thousands(count), module), count, 0)
		}
		return ok
	}
}

// compile builds one component into dir. Packages that Go's build cache has
// count as done from the start.
func (b *builder) compile(ctx context.Context, c component, dir string) error {
	b.progress.Step(c.name, "counting packages")
	var out bytes.Buffer
	list := slices.Concat([]string{"list"}, b.flags(), []string{"-deps", "-f", "{{.Stale}} {{.ImportPath}}", c.pkg})
	if err := b.run(ctx, &out, b.downloads(), list...); err != nil {
		return fmt.Errorf("list the packages of %s: %w", c.name, err)
	}
	total, todo := 0, map[string]bool{}
	for line := range strings.Lines(out.String()) {
		total++
		if pkg, ok := strings.CutPrefix(strings.TrimSpace(line), "true "); ok {
			todo[pkg] = true
		}
	}
	cached, begun := total-len(todo), 0
	b.progress.Count(packages(cached, total), cached, total)
	// The go command names a package when it begins to compile it, and has one
	// in hand on each core.
	onPackage := func(line string) bool {
		if !todo[line] {
			return false
		}
		if begun++; begun == len(todo) {
			b.progress.Count("all of "+thousands(total)+" packages, linking", total, total)
		} else {
			done := cached + max(0, begun-runtime.NumCPU())
			b.progress.Count(packages(done, total), done, total)
		}
		return true
	}
	args := slices.Concat([]string{"build", "-v"}, b.flags(), []string{"-o", filepath.Join(dir, c.name), c.pkg})
	if err := b.run(ctx, io.Discard, onPackage, args...); err != nil {
		return fmt.Errorf("compile %s: %w", c.name, err)
	}
	b.progress.End(thousands(total) + " packages")
	return nil
}

// flags stamp the version where kubectl, /version and user agents read it. The
// symbol table, which nobody needs here, would be a third of each binary.
func (b *builder) flags() []string {
	ld := "-s -w"
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		ld += fmt.Sprintf(" -X %[1]s.gitVersion=v%[2]s -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=37 -X %[1]s.gitTreeState=clean", pkg, b.version)
	}
	return []string{"-trimpath", "-buildvcs=false", "-ldflags", ld}
}

// run runs the go command in the module's directory. Each line on its standard
// error goes to the log and to known; those that known does not take are kept
// as the likely cause of a failure.
func (b *builder) run(ctx context.Context, stdout io.Writer, known func(line string) bool, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	cmd.Stdout = stdout
	cmd.SysProcAttr = compilerAttr()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	fmt.Fprintf(b.log, "$ go %s\n", strings.Join(args, " "))
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("the go command is not on PATH: install Go 1.26 or later")
		}
		return err
	}
	b.trouble = nil
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		fmt.Fprintln(b.log, line)
		if known == nil || !known(line) {
			b.trouble = append(b.trouble[max(0, len(b.trouble)-2):], strings.TrimSpace(line))
		}
	}
	err = cmd.Wait()
	if _, failed := errors.AsType[*exec.ExitError](err); failed {
		return fmt.Errorf("go %s failed", args[0])
	}
	return err
}
