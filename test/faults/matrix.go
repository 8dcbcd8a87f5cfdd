package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// result is what came of a run.
type result struct {
	number  int
	cell    int
	channel v1alpha1.Channel
	// outcome is the end of the action, or "missed" if nobody came by the point.
	outcome string
	wrong   []string
	took    time.Duration
}

const missed = "missed"

// matrix is the runs of each cell.
type matrix struct {
	cells   []cell
	results []*result
}

// of are the results of a cell on a channel.
func (m *matrix) of(cell int, channel v1alpha1.Channel) (of []*result) {
	for _, r := range m.results {
		if r.cell == cell && r.channel == channel {
			of = append(of, r)
		}
	}
	return of
}

// write writes the matrix. It tells whether each cell was reached, and nothing was wrong.
func (m *matrix) write(w io.Writer) (fine bool) {
	fine = true
	const layout = "%-10s  %-35s  %-45s"
	fmt.Fprintf(w, "\n"+layout, "dies", "at", "")
	for _, channel := range channels {
		fmt.Fprintf(w, "  %-22s", channel)
	}
	fmt.Fprintln(w)
	for i, c := range m.cells {
		fmt.Fprintf(w, layout, c.dies, c.where(), c.about)
		for _, channel := range channels {
			text, ok := m.outcomes(i, channel)
			fine = fine && ok
			fmt.Fprintf(w, "  %-22s", text)
		}
		fmt.Fprintln(w)
	}
	for _, r := range m.results {
		for _, wrong := range r.wrong {
			fmt.Fprintf(w, "WRONG  run %d, %s, %s: %s\n", r.number, m.cells[r.cell], r.channel, wrong)
		}
	}
	return fine
}

// outcomes are those of a cell, with how often each was.
func (m *matrix) outcomes(i int, channel v1alpha1.Channel) (text string, fine bool) {
	if !m.cells[i].has(channel) {
		return "-", true
	}
	counts, wrong, reached := map[string]int{}, 0, 0
	for _, r := range m.of(i, channel) {
		counts[r.outcome]++
		if len(r.wrong) > 0 {
			wrong++
		}
		if r.outcome != missed {
			reached++
		}
	}
	var all []string
	for _, outcome := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, fmt.Sprintf("%d %s", counts[outcome], outcome))
	}
	if wrong > 0 {
		all = append(all, fmt.Sprintf("%d WRONG", wrong))
	}
	if reached == 0 {
		all = append(all, "EMPTY")
	}
	return strings.Join(all, ", "), wrong == 0 && reached > 0
}

// took is how long a share of the runs took at most.
func (m *matrix) took(share float64) time.Duration {
	if len(m.results) == 0 {
		return 0
	}
	all := make([]time.Duration, len(m.results))
	for i, r := range m.results {
		all[i] = r.took
	}
	slices.Sort(all)
	return all[int(share*float64(len(all)-1))]
}

// row of docs/actions.md in the name of a point.
var row = regexp.MustCompile(` (P?[0-9]+a?)$`)

// where is the cell's point, for people.
func (c cell) where() string {
	where := row.ReplaceAllString(strings.ReplaceAll(c.point, "ACTION_PHASE_", "telling "), " row $1")
	if c.at != c.dies {
		where += fmt.Sprintf(" of the %s", c.at)
	}
	return where
}

// has tells whether the cell is one on a channel.
func (c cell) has(channel v1alpha1.Channel) bool { return c.only == "" || c.only == channel }
