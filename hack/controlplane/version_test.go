package controlplane

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestResolveVersion(t *testing.T) {
	for _, tc := range []struct {
		asked, env, want string
		refused          bool
	}{
		{want: DefaultVersion},
		{env: "1.37.1", want: "1.37.1"},
		{env: "v1.37.1", want: "1.37.1"},
		{asked: "1.37.0", env: "1.37.1", want: "1.37.0"},
		{asked: "1.36.9", refused: true},
		{asked: "1.37", refused: true},
		{asked: "1.37.02", refused: true},
		{asked: "1.37.2-rc.1", refused: true},
		{asked: "1.37.2/../..", refused: true},
		{env: "latest", refused: true},
	} {
		t.Setenv(VersionEnv, tc.env)
		got, err := resolveVersion(tc.asked)
		switch {
		case tc.refused && (err == nil || !strings.Contains(err.Error(), AssetsEnv)):
			t.Errorf("asked %q, environment %q: error %v, want one that names a way out", tc.asked, tc.env, err)
		case !tc.refused && (err != nil || got != tc.want):
			t.Errorf("asked %q, environment %q: %q, %v; want %q", tc.asked, tc.env, got, err, tc.want)
		}
	}
}

func TestModulePinsDefaultVersion(t *testing.T) {
	goMod := readFile(t, "module/go.mod")
	if !strings.Contains(goMod, "k8s.io/kubernetes v"+DefaultVersion+"\n") {
		t.Errorf("module/go.mod does not pin Kubernetes v%s", DefaultVersion)
	}
	for _, line := range regexp.MustCompile(`k8s\.io/\S+ => .*`).FindAllString(goMod, -1) {
		if !strings.HasSuffix(line, " "+staging(DefaultVersion)) {
			t.Errorf("module/go.mod replaces %s, want %s", line, staging(DefaultVersion))
		}
	}
}

func TestModuleAt(t *testing.T) {
	before := readFile(t, "module/go.mod") + "require sigs.k8s.io/cli-utils v0.37.2\n"
	after := moduleAt(before, "1.37.9")
	if strings.Contains(strings.ReplaceAll(after, "cli-utils v0.37.2", ""), ".37.2") {
		t.Error("something of Kubernetes stayed at the old patch")
	}
	if !strings.Contains(after, "k8s.io/kubernetes v1.37.9\n") || !strings.Contains(after, "k8s.io/api => k8s.io/api v0.37.9\n") ||
		!strings.Contains(after, "k8s.io/api v0.37.9 // indirect\n") {
		t.Error("Kubernetes and its staging modules did not move to the new patch")
	}
	if !strings.Contains(after, "sigs.k8s.io/cli-utils v0.37.2\n") {
		t.Error("a module that only looks like Kubernetes moved")
	}
	if got := moduleAt(after, DefaultVersion); got != after {
		t.Error("a module at another patch changed")
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
