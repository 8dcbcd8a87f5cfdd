package table

import (
	"math"
	"strings"
	"testing"
)

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		goal          Goal
		text, verdict string
	}{
		{Goal{}, "–", "–"},
		{AtMost(1.19, 1.2, "×"), "≤ 1.2×", "met"},
		{AtMost(1.2, 1.2, "×"), "≤ 1.2×", "met"},
		{AtMost(1.21, 1.2, "×"), "≤ 1.2×", "missed"},
		{AtLeast(0.64, 0.6, "×"), "≥ 0.6×", "met"},
		{AtLeast(0.54, 0.6, "×"), "≥ 0.6×", "missed"},
		{AtMost(math.NaN(), 1, " KB"), "≤ 1 KB", "missed"},
		{AtLeast(math.NaN(), 1, " KB"), "≥ 1 KB", "missed"},
	} {
		if c.goal.String() != c.text || c.goal.Verdict() != c.verdict || c.goal.Missed() != (c.verdict == "missed") {
			t.Errorf("%+v: %q, %q", c.goal, c.goal.String(), c.goal.Verdict())
		}
	}
}

var rows = []Row{
	{Key: "memory", Name: "KB per agent", Value: "21.4 KB", Beside: "18.2 KB raw", Ratio: 21.4 / 18.2, Goal: AtMost(21.4/18.2, 1.2, "×"), Notes: []string{"opamp-go 27.9 KB"}},
	{Key: "fleet", Name: "all back", Value: "12.0 s"},
}

func TestText(t *testing.T) {
	got := strings.Split(Text("2 cores", rows), "\n")
	want := []string{
		"2 cores",
		"row           value    beside it    ratio  goal    ",
		"KB per agent  21.4 KB  18.2 KB raw  1.18   ≤ 1.2×  met",
		"all back      12.0 s   –            –      –       –",
		"memory: opamp-go 27.9 KB",
		"",
	}
	for i := range max(len(want), len(got)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("line %d:\n%q\nwant\n%q", i, got, want)
		}
	}
}

func TestReplace(t *testing.T) {
	doc := "# Performance\n" + Begin + "\nold\n" + End + "\nmore\n"
	got, err := Replace(doc, Markdown("2 cores", rows))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Replace(got, Markdown("2 cores", rows))
	if err != nil || again != got {
		t.Errorf("a second time it is another:\n%s", again)
	}
	for _, line := range []string{"# Performance\n", "\nmore\n", "| KB per agent | 21.4 KB | 18.2 KB raw | 1.18 | ≤ 1.2× | met |", "- `memory`: opamp-go 27.9 KB"} {
		if !strings.Contains(got, line) {
			t.Errorf("%q is missing in\n%s", line, got)
		}
	}
	if strings.Contains(got, "old") {
		t.Error("the old table is still there")
	}
	for _, broken := range []string{"", Begin, End} {
		if _, err := Replace(broken, "x"); err == nil {
			t.Errorf("replaced in %q", broken)
		}
	}
}
