// Command faults is `make faults`. It runs actions on a real system in which one program dies, once, at a moment of its work, and is started again;
// the moments are around each arrow of docs/actions.md, on either channel. After each run it asks whether the action was done at most once, has an
// end in time, has the agent's result, and is not said to be cancelled or expired although it was begun. It prints the matrix of moments and
// ends, and fails if something was wrong, or a moment was never there.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
)

// options are the command line.
type options struct {
	runs, only, races, lanes int
	seed                     uint64
	keep                     string
	match                    *regexp.Regexp
}

func main() {
	o := options{}
	f := pflag.NewFlagSet("faults", pflag.ContinueOnError)
	f.IntVar(&o.runs, "runs", 0, "how many; 0: each moment once")
	f.Uint64Var(&o.seed, "seed", 1, "decides the order of the runs, and what is random in each")
	f.IntVar(&o.only, "run", 0, "only the run with this number")
	match := f.String("match", "", "only moments of which this regular expression finds something in what is shown of a run")
	f.IntVar(&o.races, "races", 0, "no faults: as many actions that are cancelled, or expire, while they are sent")
	f.IntVar(&o.lanes, "lanes", 4, "gateways with their machines, side by side")
	f.StringVar(&o.keep, "keep", "", "directory for state and logs, which stays; empty: a temporary one")
	err := f.Parse(os.Args[1:])
	if err == nil {
		o.match, err = regexp.Compile(*match)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "make faults:", err)
		os.Exit(2)
	}
	log.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err = command(ctx, os.Stdout, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "make faults:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, out io.Writer, o options) (err error) {
	if _, err := controlplane.Ensure(ctx, controlplane.Options{Out: out}); err != nil {
		return err
	}
	dir := o.keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "rollcall-faults-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(out, "make faults: "+format+" (%.0fs)\n", append(args, time.Since(began).Seconds())...)
	}
	say("building the programs with -tags=faults")
	if err := build(ctx, filepath.Join(dir, "bin")); err != nil {
		return err
	}
	s := &suite{options: o, dir: dir, say: say}
	say("starting the systems")
	err = s.start(ctx)
	switch {
	case err != nil:
	case o.races > 0:
		err = s.race(ctx, out)
	default:
		err = s.play(ctx, out)
	}
	return errors.Join(err, s.stop())
}
