package api_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-dev/rollcall/test/harness"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("testdata/%s (-want +got; -update writes it anew):\n%s", file, diff)
	}
}

// What kubectl explain prints is the reference that people read.
func TestExplain(t *testing.T) {
	api, cache := harness.Cluster(t), "--cache-dir="+t.TempDir() // what kubectl knew of this port may be of another API server
	for _, path := range []string{
		"fep", "fep.spec", "fep.spec.lifecycle", "fep.status", "fep.status.connection",
		"epa", "epa.spec", "epa.spec.terminateProcess", "epa.status", "epa.status.delivery", "epa.status.result",
		"epp", "epp.spec", "epp.spec.heartbeat", "epp.status",
		"ept", "ept.spec", "ept.status",
	} {
		t.Run(path, func(t *testing.T) {
			golden(t, filepath.Join("explain", path+".txt"), api.Kubectl(t, cache, "explain", path))
		})
	}
}

var age = regexp.MustCompile(`\b\d+(s|m|h|d|y)(\d+(s|m|h|d))?\b`)

// Ages differ from run to run, and with them the width of their columns.
func masked(table string) string {
	gaps := regexp.MustCompile(` {2,}`)
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, gaps.ReplaceAllString(age.ReplaceAllString(strings.TrimRight(line, " \n"), "<age>"), "   "))
	}
	return strings.Join(lines, "\n") + "\n"
}

// The columns are what a tired person reads first.
func TestColumns(t *testing.T) {
	api := harness.Cluster(t)
	author := api.Person(t, api.Namespace(t))
	author.Kubectl(t, "apply", "-k", config("samples"))
	for short, name := range map[string]string{"fep": "lobby-kiosk", "epp": "servers", "ept": "laptops", "ctr": "content-1042"} {
		writeStatus(t, short, author.Namespace, name, fullStatus(t, short))
		golden(t, filepath.Join("columns", short+".txt"), masked(author.Kubectl(t, "get", short)))
		golden(t, filepath.Join("columns", short+"-wide.txt"), masked(author.Kubectl(t, "get", short, "-o", "wide")))
	}
	if got := strings.Fields(author.Kubectl(t, "get", "rollcall", "-o", "name")); len(got) != 8 {
		t.Errorf("kubectl get rollcall: %v; want the eight samples", got)
	}
}

var serviceAccounts = regexp.MustCompile(`system:serviceaccount:\S+`)

// One action that waits and one that has ended, with the name of who asked for it.
func TestColumnsOfActions(t *testing.T) {
	api := harness.Cluster(t)
	author := api.Person(t, api.Namespace(t))
	for name, status := range map[string]map[string]any{
		"hello": {"phase": "Pending", "message": "waits for the next heartbeat of devbox, due by 12:06:31Z"}, "stop-sleep": fullStatus(t, "epa"),
	} {
		author.Apply(t, "apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: "+name+", annotations: {rollcall.dev/requested-by: \""+author.User()+
			"\"}}\nspec: {type: TerminateProcess, endpointName: devbox, terminateProcess: {executable: /usr/bin/sleep}}\n")
		writeStatus(t, "epa", author.Namespace, name, status)
	}
	golden(t, "columns/epa.txt", masked(author.Kubectl(t, "get", "epa")))
	golden(t, "columns/epa-wide.txt", serviceAccounts.ReplaceAllString(masked(author.Kubectl(t, "get", "epa", "-o", "wide")), "<who>"))
}

// People look for endpoints by these fields; an absent one selects as the empty string.
func TestFieldSelectors(t *testing.T) {
	api := harness.Cluster(t)
	author := api.Person(t, api.Namespace(t))
	author.Apply(t, "apiVersion: rollcall.dev/v1alpha1\nkind: Endpoint\nmetadata: {name: known}\nspec: {lifecycle: Active}\n")
	author.Apply(t, "apiVersion: rollcall.dev/v1alpha1\nkind: Endpoint\nmetadata: {name: bare}\n")
	writeStatus(t, "fep", author.Namespace, "known", fullStatus(t, "fep"))
	for _, tc := range []struct{ selector, want string }{
		{"spec.lifecycle=Active", "known"},
		{"spec.lifecycle=", "bare"},
		{"status.summary=Online", "known"},
		{"status.summary=", "bare"},
		{"status.agent.version=8.0.0", "known"},
		{"status.agent.version!=8.0.0", "bare"},
		{"status.agent.contentVersion=1042", "known"},
		{"status.agent.isolation=Released", "known"},
		{"status.connection.channel=Heartbeat", "known"},
		{"status.connection.gateway=gw-5c9d7-x2k7q", "known"},
	} {
		got := strings.TrimSpace(author.Kubectl(t, "get", "fep", "--field-selector", tc.selector, "-o", "name"))
		if want := "endpoint.rollcall.dev/" + tc.want; got != want {
			t.Errorf("--field-selector %s: %q, want %q", tc.selector, got, want)
		}
	}
}

// Gateways watch the actions that are open, by the same fields.
func TestFieldSelectorsOfActions(t *testing.T) {
	api := harness.Cluster(t)
	author := api.Person(t, api.Namespace(t))
	for name, spec := range map[string]string{
		"open": "{type: PerformHeartbeat, endpointName: devbox}", "ended": "{type: RetrieveSupportFile, endpointName: kiosk}",
		"many": "{type: PerformHeartbeat, selector: {matchLabels: {device: laptop}}}",
	} {
		author.Apply(t, "apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: "+name+"}\nspec: "+spec+"\n")
	}
	writeStatus(t, "epa", author.Namespace, "ended", fullStatus(t, "epa"))
	for _, tc := range []struct{ selector, want string }{
		{"spec.type=PerformHeartbeat", "many open"},
		{"spec.endpointName=devbox", "open"},
		{"spec.endpointName=", "many"},
		{"status.phase=Pending", "many open"}, // from the first read on
		{"status.phase=Succeeded", "ended"},
		{"status.finishTime=", "many open"},
		{"status.finishTime!=", "ended"},
		{"status.finishTime=,spec.endpointName!=", "open"},
	} {
		got := strings.Join(strings.Fields(author.Kubectl(t, "get", "epa", "--field-selector", tc.selector, "-o", "jsonpath={.items[*].metadata.name}")), " ")
		if got != tc.want {
			t.Errorf("--field-selector %s: %q, want %q", tc.selector, got, tc.want)
		}
	}
}
