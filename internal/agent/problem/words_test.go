package problem_test

import (
	"errors"
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/status"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

var update = flag.Bool("update", false, "write the golden file")

// names are those that stand in the source of a package.
func names(t *testing.T, file string) []wire.Name {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []wire.Name
	for _, m := range regexp.MustCompile(`(?m)^\t\w+ +(?:wire\.)?Name += "([a-z-]+)"`).FindAllStringSubmatch(string(b), -1) {
		out = append(out, wire.Name(m[1]))
	}
	if len(out) < 10 {
		t.Fatalf("found %d names in %s", len(out), file)
	}
	return out
}

var facts = problem.Facts{
	Identity: "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02", Instance: "00112233445566778899aabbccddeeff", Server: "https://gw.example:8443",
	Proxy: "http://proxy.example:3128", StateDir: "/var/lib/rollcall", Expires: time.Date(2026, 12, 24, 12, 0, 0, 0, time.UTC), Expired: true,
	Skew: -17 * time.Minute,
}

// Every problem, of the protocol and the agent's own, as cytool prints it.
func TestWords(t *testing.T) {
	all := slices.Concat(names(t, "../../wire/problem.go"), names(t, "problem.go"))
	slices.Sort(all)
	var out strings.Builder
	for _, n := range all {
		w := problem.Explain(n, facts)
		if strings.Contains(w.Meaning, "which this version of the agent does not know") {
			t.Errorf("%s has no words", n)
		}
		if strings.ContainsAny(w.Meaning+w.Advice, "{}") && !strings.Contains(w.Advice, "kubectl patch") {
			t.Errorf("%s: something is not filled in: %s %s", n, w.Meaning, w.Advice)
		}
		s := status.Channel{Problems: []status.Problem{{Name: string(n), Title: w.Title, Meaning: w.Meaning, Advice: w.Advice}}}
		var text strings.Builder
		if err := s.Write(&text); err != nil {
			t.Fatal(err)
		}
		_, block, _ := strings.Cut(text.String(), "Problem ")
		out.WriteString("State            " + w.State + "\nProblem " + block + "\n")
	}
	const golden = "testdata/words.golden"
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o750), os.WriteFile(golden, []byte(out.String()), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("the words changed; if they are better, run the test with -update:\n%s", diff)
	}
}

// What cannot be said by the name alone.
func TestWordsDepend(t *testing.T) {
	f := facts
	f.Expired = false
	if w := problem.Explain(wire.CertificateExpired, f); !strings.Contains(w.Meaning, "By the server's clock") {
		t.Error(w.Meaning)
	}
	if w := problem.Explain("of-the-future", f); !strings.Contains(w.Meaning, "of-the-future") || w.State != problem.StateOffline {
		t.Error(w)
	}
	if got := problem.Of(errors.New("boom")); got.Name != wire.Internal || got.Detail != "boom" {
		t.Error(got)
	}
}

// The table in the documentation is made of the same words.
func TestDocumentation(t *testing.T) {
	const doc = "../../../docs/agent.md"
	b, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(b), "<!-- problems -->\n")
	_, after, ok2 := strings.Cut(rest, "<!-- /problems -->")
	if !ok1 || !ok2 {
		t.Fatal("docs/agent.md has lost the marks of its table")
	}
	all := slices.Concat(names(t, "../../wire/problem.go"), names(t, "problem.go"))
	slices.Sort(all)
	f := facts
	f.Identity, f.Instance, f.Server, f.Proxy = "…", "…", "the gateway", "in use"
	var table strings.Builder
	table.WriteString("| problem | state | what it means | what to do |\n|---|---|---|---|\n")
	for _, n := range all {
		w := problem.Explain(n, f)
		table.WriteString("| `" + string(n) + "` | " + w.State + " | " + strings.ToUpper(w.Meaning[:1]) + strings.ReplaceAll(w.Meaning[1:], " on 2026-12-24 at 12:00:00Z", "") + " | " + strings.ReplaceAll(w.Advice, "|", "\\|") + " |\n")
	}
	want := before + "<!-- problems -->\n" + table.String() + "<!-- /problems -->" + after
	if *update {
		if err := os.WriteFile(doc, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want != string(b) && !*update {
		t.Error("docs/agent.md does not say what cytool says: go test ./internal/agent/problem -update")
	}
}
