package api_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rollcall-dev/rollcall/test/harness"
)

func config(dir string) string { return filepath.Join(harness.Root(), "config", dir) }

// A GitOps tool applies again and again: only "unchanged" leaves it, and whoever reads its log, in peace.
func TestApplyingTheInstallationAgainChangesNothing(t *testing.T) {
	api := harness.Cluster(t)
	api.Kubectl(t, "apply", "-k", config("default"))
	allUnchanged(t, api.Kubectl(t, "apply", "-k", config("default")))
	noDifference(t, func(args ...string) (string, error) { return api.TryKubectl(t, "", args...) }, "diff", "-k", config("default"))
	noDifference(t, func(args ...string) (string, error) { return api.TryKubectl(t, "", args...) },
		"diff", "--server-side", "--field-manager=gitops", "-k", config("default"))
}

func TestApplyingTheSamplesAgainChangesNothing(t *testing.T) {
	api := harness.Cluster(t)
	author := api.Person(t, api.Namespace(t))
	author.Kubectl(t, "apply", "-k", config("samples"))
	allUnchanged(t, author.Kubectl(t, "apply", "-k", config("samples")))
	noDifference(t, func(args ...string) (string, error) { return author.Try(t, "", args...) }, "diff", "-k", config("samples"))

	author = api.Person(t, api.Namespace(t))
	revisions := []string{"get", "fep,epp,ept", "-o", `jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`}
	author.Kubectl(t, "apply", "--server-side", "-k", config("samples"))
	// The manager's first look stores the status; until then it is a default, which any write stores and so counts as a change.
	for short, name := range map[string]string{"fep": "lobby-kiosk", "epp": "servers", "ept": "laptops"} {
		writeStatus(t, short, author.Namespace, name, map[string]any{"observedGeneration": int64(1)})
	}
	writeStatus(t, "epp", author.Namespace, "default", map[string]any{"observedGeneration": int64(1)})
	before := author.Kubectl(t, revisions...)
	author.Kubectl(t, "apply", "--server-side", "-k", config("samples"))
	if after := author.Kubectl(t, revisions...); after != before || strings.Count(before, "\n") != 4 {
		t.Errorf("before the second server-side apply:\n%s\nafter it:\n%s", before, after)
	}
	noDifference(t, func(args ...string) (string, error) { return author.Try(t, "", args...) }, "diff", "--server-side", "-k", config("samples"))
}

func allUnchanged(t *testing.T, printed string) {
	t.Helper()
	if strings.TrimSpace(printed) == "" {
		t.Error("kubectl apply printed nothing")
	}
	for line := range strings.Lines(printed) {
		if !strings.HasSuffix(strings.TrimSpace(line), " unchanged") {
			t.Errorf("the second time kubectl apply says %s", line)
		}
	}
}

func noDifference(t *testing.T, kubectl func(...string) (string, error), args ...string) {
	t.Helper()
	if out, err := kubectl(args...); err != nil || out != "" {
		t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
