package controlplane

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestEnsureHonoursReadyBinaries(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(AssetsEnv, dir)
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} { // what setup-envtest downloads
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Ensure(t.Context(), Options{})
	if want := "has no kube-controller-manager"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "kube-controller-manager"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := Ensure(t.Context(), Options{}); err != nil || got != dir {
		t.Errorf("Ensure = %q, %v; want %q", got, err, dir)
	}
}

// No module is here and none can be fetched: the real go command says so.
func TestEnsureExplainsFailure(t *testing.T) {
	cache := emptyCache(t)
	t.Setenv("GOMODCACHE", t.TempDir())
	t.Setenv("GOPROXY", "off")
	var out bytes.Buffer
	_, err := Ensure(t.Context(), Options{Version: "1.37.1", Out: &out, Hint: "Have a cluster?"})
	if err == nil {
		t.Fatal("built without any module")
	}
	dir := filepath.Join(cache, "rollcall", "kubernetes", "v1.37.1")
	for _, want := range []string{"could not be built", "disabled by GOPROXY=off", tilde(dir), ".log", AssetsEnv} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "exit status") {
		t.Errorf("an exit status tells nobody anything:\n%v", err)
	}
	if !strings.Contains(out.String(), "first run here: building Kubernetes v1.37.1") || !strings.Contains(out.String(), "          Have a cluster?\n") {
		t.Errorf("progress does not say what happens and what else one can do:\n%s", out.String())
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*", "*kube*")); len(left) != 0 {
		t.Errorf("a failed build left %v", left)
	}
}

func TestEnsureWaitsForAnotherBuild(t *testing.T) {
	cache := emptyCache(t)
	version, dir, err := cacheDir(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, _, err := tryLock(dir + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	out := &firstWrite{happened: make(chan struct{})}
	answer := make(chan error, 1)
	go func() {
		got, err := Ensure(t.Context(), Options{Out: out})
		if err == nil && got != dir {
			err = errors.New("built into " + got)
		}
		answer <- err
	}()
	<-out.happened // it waits, and says so
	for _, c := range components {
		if err := os.WriteFile(filepath.Join(dir, c.name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	if want := "Kubernetes v" + version + " is being built by process "; !strings.Contains(out.text.String(), want) {
		t.Errorf("progress does not say for whom it waits:\n%s", out.text.String())
	}
	if strings.Contains(out.text.String(), "first run here") {
		t.Errorf("built what the other one had built in %s:\n%s", cache, out.text.String())
	}
}

func TestEnsureStopsWaitingWhenAsked(t *testing.T) {
	emptyCache(t)
	_, dir, err := cacheDir(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, _, err := tryLock(dir + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Release() }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Ensure(ctx, Options{Out: &bytes.Buffer{}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the deadline", err)
	}
}

// emptyCache gives the test a user's cache directory of its own, and keeps
// Go's build cache where it is.
func emptyCache(t *testing.T) string {
	t.Helper()
	t.Setenv(AssetsEnv, "")
	userCache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("GOCACHE") == "" {
		t.Setenv("GOCACHE", filepath.Join(userCache, "go-build"))
	}
	home := t.TempDir()
	t.Cleanup(func() { // the go command's telemetry may still write there for a moment
		for range 100 {
			if os.RemoveAll(home) == nil {
				return
			}
			<-time.After(20 * time.Millisecond)
		}
	})
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", "")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

// firstWrite tells when something was written.
type firstWrite struct {
	text     bytes.Buffer
	happened chan struct{}
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.text.Len() == 0 {
		defer close(w.happened)
	}
	return w.text.Write(p)
}
