// Package table is what the bench prints: one line a row, the same for people at a terminal and for docs/performance.md.
package table

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Row is one thing that was measured.
type Row struct {
	// Key is what ROWS names.
	Key string
	// Name says what it is, Value what it was; Beside what it was measured side by side with, empty if with nothing.
	Name, Value, Beside string
	// Ratio of the two, 0 where there is none.
	Ratio float64
	// Goal of the row.
	Goal Goal
	// Notes are further lines for people.
	Notes []string
}

// Goal is a bound for a figure; its zero value bounds nothing.
type Goal struct {
	set, atLeast bool
	bound        float64
	unit         string
	figure       float64
}

// AtMost says that figure is to be at most bound; unit is for people, with what precedes it: "×", " KB".
func AtMost(figure, bound float64, unit string) Goal {
	return Goal{set: true, bound: bound, unit: unit, figure: figure}
}

// AtLeast says that figure is to be at least bound.
func AtLeast(figure, bound float64, unit string) Goal {
	return Goal{set: true, atLeast: true, bound: bound, unit: unit, figure: figure}
}

// Missed tells whether there is a bound that the figure does not keep. What is no number keeps none.
func (g Goal) Missed() bool {
	if !g.set {
		return false
	}
	kept := g.figure <= g.bound
	if g.atLeast {
		kept = g.figure >= g.bound
	}
	return !kept
}

func (g Goal) String() string {
	if !g.set {
		return "–"
	}
	sign := "≤"
	if g.atLeast {
		sign = "≥"
	}
	return fmt.Sprintf("%s %g%s", sign, g.bound, g.unit)
}

// Verdict in one word.
func (g Goal) Verdict() string {
	switch {
	case !g.set:
		return "–"
	case g.Missed():
		return "missed"
	}
	return "met"
}

func (r Row) cells() []string {
	ratio := "–"
	if r.Ratio != 0 {
		ratio = fmt.Sprintf("%.2f", r.Ratio)
	}
	beside := r.Beside
	if beside == "" {
		beside = "–"
	}
	return []string{r.Name, r.Value, beside, ratio, r.Goal.String(), r.Goal.Verdict()}
}

// String is a row in a line, as soon as it was measured.
func (r Row) String() string {
	line := r.Name + ": " + r.Value
	if r.Beside != "" {
		line += ", beside it " + r.Beside
	}
	if r.Ratio != 0 {
		line += fmt.Sprintf(", ratio %.2f", r.Ratio)
	}
	if r.Goal.set {
		line += fmt.Sprintf(" (goal %s: %s)", r.Goal, r.Goal.Verdict())
	}
	return line
}

var titles = []string{"row", "value", "beside it", "ratio", "goal", ""}

// Text is the table for a terminal, its notes below.
func Text(machine string, rows []Row) string {
	var b strings.Builder
	fmt.Fprintln(&b, machine)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(titles, "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r.cells(), "\t"))
	}
	_ = w.Flush() // a strings.Builder takes everything
	for _, r := range rows {
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "%s: %s\n", r.Key, n)
		}
	}
	return b.String()
}

// Markdown is the table for a document, its notes below.
func Markdown(machine string, rows []Row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", machine)
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	line(titles)
	line([]string{"---", "---", "---", "---", "---", "---"})
	for _, r := range rows {
		line(r.cells())
	}
	fmt.Fprintln(&b)
	for _, r := range rows {
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "- `%s`: %s\n", r.Key, n)
		}
	}
	return b.String()
}

// The marks in a document between which the table is.
const (
	Begin = "<!-- the table of `make bench` begins -->"
	End   = "<!-- and ends -->"
)

// Replace puts a table between the marks of a document.
func Replace(doc, table string) (string, error) {
	before, rest, found := strings.Cut(doc, Begin)
	if !found {
		return "", fmt.Errorf("the document has no line %q", Begin)
	}
	_, after, found := strings.Cut(rest, End)
	if !found {
		return "", fmt.Errorf("the document has no line %q", End)
	}
	return before + Begin + "\n" + strings.TrimRight(table, "\n") + "\n" + End + after, nil
}
