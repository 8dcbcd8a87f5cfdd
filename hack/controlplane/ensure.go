package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// AssetsEnv names the environment variable that points at ready binaries, as
// it does for envtest. Nothing is built then.
const AssetsEnv = "KUBEBUILDER_ASSETS"

// Options say what to build and whom to tell.
type Options struct {
	// Version of Kubernetes, such as 1.37.2. Empty: VersionEnv, then DefaultVersion.
	Version string
	// Out gets the progress. Nil: standard error.
	Out io.Writer
	// Hint is a line shown below the first one of a build, for what a person
	// may do instead of waiting. Empty: none.
	Hint string
}

// Ensure returns the directory of the control plane's binaries, and compiles
// them first where the machine does not have them yet. A process that finds
// another one compiling the same version waits for it.
func Ensure(ctx context.Context, o Options) (string, error) {
	return ensure(ctx, o, "", components)
}

// EnsureNode is Ensure for what runs Pods: kubelet, kube-scheduler and
// kube-proxy. They have a directory of their own, and most people never need it.
func EnsureNode(ctx context.Context, o Options) (string, error) {
	return ensure(ctx, o, "-node", nodeComponents)
}

func ensure(ctx context.Context, o Options, suffix string, components []component) (string, error) {
	if dir := os.Getenv(AssetsEnv); dir != "" {
		if missing := missingFrom(dir, components); len(missing) > 0 {
			return "", fmt.Errorf("%s=%s has no %s: add it there, or unset %s to have everything compiled here",
				AssetsEnv, dir, strings.Join(missing, ", "), AssetsEnv)
		}
		return filepath.Abs(dir)
	}
	version, dir, err := cacheDir(o)
	if err != nil {
		return "", err
	}
	dir += suffix
	if len(missingFrom(dir, components)) == 0 {
		return dir, nil
	}
	if err := buildOnce(ctx, o, version, dir, components); err != nil {
		return "", err
	}
	return dir, nil
}

// Cached returns the version of Kubernetes that Ensure would answer with, and
// whether it would do so at once. With AssetsEnv the version is empty.
func Cached(o Options) (version string, ready bool, err error) {
	if dir := os.Getenv(AssetsEnv); dir != "" {
		return "", len(missingFrom(dir, components)) == 0, nil
	}
	version, dir, err := cacheDir(o)
	if err != nil {
		return "", false, err
	}
	return version, len(missingFrom(dir, components)) == 0, nil
}

func cacheDir(o Options) (version, dir string, err error) {
	version, err = resolveVersion(o.Version)
	if err != nil {
		return "", "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", fmt.Errorf("no place for the control plane's binaries: %w", err)
	}
	return version, filepath.Join(cache, "rollcall", "kubernetes", "v"+version, runtime.GOOS+"-"+runtime.GOARCH), nil
}

func missingFrom(dir string, components []component) []string {
	var missing []string
	for _, c := range components {
		if info, err := os.Stat(filepath.Join(dir, c.name)); err != nil || !info.Mode().IsRegular() {
			missing = append(missing, c.name)
		}
	}
	return missing
}

func names(components []component) string {
	all := make([]string, 0, len(components))
	for _, c := range components {
		all = append(all, c.name)
	}
	return strings.Join(all, ", ")
}

// buildOnce builds into dir under the version's lock.
func buildOnce(ctx context.Context, o Options, version, dir string, components []component) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make the cache of control planes: %w", err)
	}
	out := o.Out
	if out == nil {
		out = os.Stderr
	}
	p := newProgress(out)
	defer p.Close()

	waited := false
	lock, err := waitLock(ctx, dir+".lock", func(holder string) {
		waited = true
		p.Say("rollcall: Kubernetes v%s is being built by %s already: waiting for it", version, cmp.Or(holder, "another process"))
		p.Step("waiting", "for "+cmp.Or(holder, "another process"))
	})
	if err != nil {
		return fmt.Errorf("wait for the build of Kubernetes v%s: %w", version, err)
	}
	defer func() { _ = lock.Release() }()
	if waited {
		p.End("the other build has ended")
	}
	if len(missingFrom(dir, components)) == 0 {
		return nil
	}
	p.Say("rollcall: first run here: building Kubernetes v%s (%s) from Go modules into %s, once, 5 to 10 minutes on 2 cores",
		version, names(components), tilde(filepath.Dir(filepath.Dir(filepath.Dir(dir)))))
	if o.Hint != "" {
		p.Say("          %s", o.Hint)
	}
	return build(ctx, version, dir, components, p)
}

// build compiles everything into a directory beside dir, which becomes dir
// when it is complete.
func build(ctx context.Context, version, dir string, components []component, p *progress) (err error) {
	logPath := dir + ".log"
	logFile, err := os.Create(logPath)
	if err != nil {
		return fmt.Errorf("open the build's log: %w", err)
	}
	defer logFile.Close()
	b := &builder{version: version, log: logFile, progress: p}
	defer func() { err = explain(ctx, err, b.trouble, logPath) }()

	work := dir + ".building" // whatever a killed build left here, nobody else uses
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := os.MkdirAll(work, 0o700); err != nil {
		return err
	}
	if err := b.module(ctx, dir+".module"); err != nil {
		return err
	}
	if err := b.download(ctx, components); err != nil {
		return err
	}
	for _, c := range components {
		if err := b.compile(ctx, c, work); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil { // incomplete, or we would not be here
		return err
	}
	return os.Rename(work, dir)
}

// explain makes of a failed build what a person needs: what, why, where the
// log is, and what to do.
func explain(ctx context.Context, err error, trouble []string, logPath string) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errors.New("the build of Kubernetes was interrupted; the next one goes on from there, with what Go has compiled so far")
	}
	why := ""
	if len(trouble) > 0 {
		why = "\n          " + strings.Join(trouble, "\n          ")
	}
	return fmt.Errorf("the components of Kubernetes could not be built: %w%s\n"+
		"          The whole output is in %s. It needs Go %s or later, the Go module proxy (go env GOPROXY) and 4 GB of disk;\n"+
		"          run it again once that is so, or point %s at ready binaries",
		err, why, tilde(logPath), strings.TrimPrefix(minimumGo, "go"), AssetsEnv)
}

func tilde(path string) string {
	if home, err := os.UserHomeDir(); err == nil {
		if rest, ok := strings.CutPrefix(path, home+string(filepath.Separator)); ok {
			return "~/" + rest
		}
	}
	return path
}
