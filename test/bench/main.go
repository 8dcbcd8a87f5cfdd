// Command bench is `make bench`: it measures what an agent costs the server, side by side with the least that a server in Go can cost and with
// opamp-go's, in one run, and prints one table. docs/performance.md explains the rows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/rollcall-dev/rollcall/test/bench/rig"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

// options are the command line.
type options struct {
	rows   []string
	agents int
	dir    string
	doc    string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, os.Stdout, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "make bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	rows := f.String("rows", "", "rows to measure, comma separated: "+strings.Join(keys(), ", ")+"; empty: all")
	f.IntVar(&o.agents, "n", 5000, "agents that connect; all else scales with it")
	f.StringVar(&o.dir, "dir", filepath.Join(rig.Root(), ".run", "bench"), "directory for logs and profiles")
	f.StringVar(&o.doc, "doc", "", "document to put the table into; needs all rows")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if *rows != "" {
		o.rows = strings.Split(*rows, ",")
	}
	for _, r := range o.rows {
		if !slices.Contains(keys(), r) {
			return nil, fmt.Errorf("there is no row %q; there are %s", r, strings.Join(keys(), ", "))
		}
	}
	switch {
	case o.agents < 100 || o.agents > 16000:
		return nil, fmt.Errorf("between 100 and 16000 agents can connect (N), not %d", o.agents)
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.doc != "" && len(o.rows) > 0:
		return nil, errors.New("a document gets the whole table: leave out ROWS")
	}
	return o, nil
}

// run measures the rows that are asked for. A row that fails does not keep the others from being measured.
func run(ctx context.Context, out io.Writer, o *options) error {
	ctrllog.SetLogger(logr.Discard()) // or its clients complain that nobody has
	b, err := newBench(ctx, out, o)
	if err != nil {
		return err
	}
	defer b.close()
	began := time.Now()
	machine := rig.Machine(o.agents)
	var rows []table.Row
	var failed []error
	left := wanted(o.rows)
	for ; len(left) > 0; left = left[1:] {
		m := left[0]
		if mayEnrol(left) {
			b.enrol(ctx)
		}
		b.say("%s: %s", m.key, m.what)
		made, err := m.do(b, ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", m.key, err))
			b.say("%s failed: %v", m.key, err)
		}
		for _, r := range made {
			b.say("%s: %s", m.key, r)
		}
		rows = append(rows, made...)
	}
	b.close()
	if len(rows) > 0 {
		fmt.Fprintf(out, "\n%s\n%s\n", table.Text(machine, rows), conclude(rows, time.Since(began)))
	}
	if len(failed) == 0 && o.doc != "" {
		failed = append(failed, write(o.doc, table.Markdown(machine, rows)))
	}
	return errors.Join(failed...)
}

func conclude(rows []table.Row, took time.Duration) string {
	goals, met := 0, 0
	for _, r := range rows {
		if r.Goal != (table.Goal{}) {
			goals++
			if !r.Goal.Missed() {
				met++
			}
		}
	}
	return fmt.Sprintf("%d of %d goals met, in %.0f s", met, goals, took.Seconds())
}

func write(doc, made string) error {
	b, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	s, err := table.Replace(string(b), made)
	if err != nil {
		return err
	}
	return os.WriteFile(doc, []byte(s), 0o644)
}
