package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

func planned(o options) []job {
	s := &suite{options: o}
	s.matrix.cells = cells()
	return s.plan()
}

// TestPlan: each moment is there once in a round, and a seed gives the same plan again.
func TestPlan(t *testing.T) {
	round := planned(options{seed: 1})
	seen := map[job]bool{}
	for _, j := range round {
		seen[job{cell: j.cell, channel: j.channel}] = true
	}
	all := 0
	for i, c := range cells() {
		for _, channel := range channels {
			if c.has(channel) {
				if all++; !seen[job{cell: i, channel: channel}] {
					t.Errorf("%s, %s is not planned", c, channel)
				}
			}
		}
	}
	if len(round) != all {
		t.Errorf("%d runs are planned for %d moments", len(round), all)
	}
	if !slices.Equal(round, planned(options{seed: 1})) || slices.Equal(round, planned(options{seed: 2})) {
		t.Error("the seed does not decide the plan")
	}
	long := planned(options{seed: 1, runs: 500})
	if len(long) != 500 || !slices.Equal(long[:len(round)], round) {
		t.Errorf("%d runs are planned, of 500", len(long))
	}
	if one := planned(options{seed: 1, only: 321}); len(one) != 1 || one[0] != long[320] {
		t.Errorf("run 321 alone is planned as %v, not %v", one, long[320])
	}
}

// TestCells: two moments are not the same.
func TestCells(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range cells() {
		if seen[c.String()] {
			t.Errorf("%s is there twice", c)
		}
		seen[c.String()] = true
		if c.play == nil || len(c.ends) == 0 {
			t.Errorf("%s has no play, or no end", c)
		}
	}
}

func TestMatrix(t *testing.T) {
	m := &matrix{cells: ofAgent()[:3]}
	for i := range m.cells {
		for _, channel := range channels {
			m.results = append(m.results, &result{number: len(m.results) + 1, cell: i, channel: channel, outcome: "Succeeded"})
		}
	}
	text := func() (string, bool) {
		var out strings.Builder
		fine := m.write(&out)
		return out.String(), fine
	}
	if got, fine := text(); !fine || strings.Count(got, "1 Succeeded") != 5 || !strings.Contains(got, "after telling ACKNOWLEDGED") {
		t.Errorf("%t:\n%s", fine, got)
	}
	m.results[0].wrong = []string{"it was done 2 times"}
	if got, fine := text(); fine || !strings.Contains(got, "1 Succeeded, 1 WRONG") || !strings.Contains(got, "WRONG  run 1, ") {
		t.Errorf("%t:\n%s", fine, got)
	}
	m.results[0].wrong, m.results[0].outcome = nil, missed
	if got, fine := text(); fine || !strings.Contains(got, "1 missed, EMPTY") {
		t.Errorf("%t:\n%s", fine, got)
	}
	m.results = append(m.results, &result{number: 7, channel: v1alpha1.ChannelWebSocket, outcome: "Unknown"})
	if got, fine := text(); !fine || !strings.Contains(got, "1 Unknown, 1 missed") {
		t.Errorf("%t:\n%s", fine, got)
	}
}

func TestWhere(t *testing.T) {
	for point, want := range map[string]string{"before 19a": "before row 19a", "after P1": "after row P1", "before child": "before child", "after STARTED": "after STARTED"} {
		if got := (cell{dies: manager, at: manager, point: point}).where(); got != want {
			t.Errorf("%q is shown as %q", point, got)
		}
	}
	if got := (cell{dies: agent, at: gateway, point: "after 10"}).where(); got != "after row 10 of the gateway" {
		t.Errorf("shown as %q", got)
	}
}
