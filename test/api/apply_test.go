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
	revisions := []string{"get", "fep,epa,epp,ept", "-o", `jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`}
	author.Kubectl(t, "apply", "--server-side", "-k", config("samples"))
	// The manager's first look stores the status; until then it is a default, which any write stores and so counts as a change.
	samples := map[string][]string{
		"fep": {"lobby-kiosk"}, "epa": {"hello-servers", "stop-miner-on-lobby-kiosk"}, "epp": {"default", "servers"}, "ept": {"laptops"},
	}
	for short, names := range samples {
		for _, name := range names {
			writeStatus(t, short, author.Namespace, name, map[string]any{"observedGeneration": int64(1)})
		}
	}
	before := author.Kubectl(t, revisions...)
	author.Kubectl(t, "apply", "--server-side", "-k", config("samples"))
	if after := author.Kubectl(t, revisions...); after != before || strings.Count(before, "\n") != 6 {
		t.Errorf("before the second server-side apply:\n%s\nafter it:\n%s", before, after)
	}
	noDifference(t, func(args ...string) (string, error) { return author.Try(t, "", args...) }, "diff", "--server-side", "-k", config("samples"))
}

// What is made again and again is created, and each time it is another object.
func TestCreatingTheSampleThatHasNoNameTwice(t *testing.T) {
	api := harness.Cluster(t)
	author := api.Person(t, api.Namespace(t))
	const file = "action_perform_heartbeat.yaml"
	for range 2 {
		author.Kubectl(t, "create", "-f", filepath.Join(config("samples"), file))
	}
	if got := strings.Fields(author.Kubectl(t, "get", "epa", "-o", "name")); len(got) != 2 || !strings.HasPrefix(got[0], "endpointaction.rollcall.dev/hello-") {
		t.Errorf("kubectl create -f %s, twice, made %s", file, got)
	}
}

func allUnchanged(t *testing.T, printed string) {
	t.Helper()
	if strings.TrimSpace(printed) == "" {
		t.Error("kubectl apply printed nothing")
	}
	for line := range strings.Lines(printed) {
		// kubectl sends the selector of a PodDisruptionBudget each time, changed or not: its patchStrategy is replace.
		if strings.HasPrefix(line, "poddisruptionbudget.") {
			continue
		}
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
