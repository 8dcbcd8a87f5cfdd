// Command agent is rollcall-agent, the reference agent of a machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/rollcall-dev/rollcall/internal/agent"
	"github.com/rollcall-dev/rollcall/internal/agent/host"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // what it was given cannot work: systemd does not start it again
)

const usage = `rollcall-agent keeps this machine enrolled in a Rollcall fleet.

  rollcall-agent install --server URL --token-file FILE   make it a service of systemd ("-": the token on stdin)
  rollcall-agent run                                      what the service does
  rollcall-agent reset --yes                              forget who this machine is
  rollcall-agent version

cytool status shows how it goes. Each command has --help.
`

// usageError is what a person must correct.
type usageError struct{ error }

func misused(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// std is where a command reads and writes.
type std struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], std{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

func command(ctx context.Context, args []string, s std) int {
	commands := map[string]func(context.Context, []string, std) error{"run": run, "install": installService, "reset": reset, "version": version}
	if len(args) == 0 || args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		_, _ = io.WriteString(s.err, usage)
		return exitUsage
	}
	do, ok := commands[args[0]]
	if !ok {
		_, _ = fmt.Fprintf(s.err, "rollcall-agent: there is no command %q\n\n%s", args[0], usage)
		return exitUsage
	}
	err := do(ctx, args[1:], s)
	if err == nil || errors.Is(err, pflag.ErrHelp) {
		return exitOK
	}
	_, _ = fmt.Fprintln(s.err, "rollcall-agent:", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// parse reads a command's flags; what is left over is an error.
func parse(f *pflag.FlagSet, args []string, s std) error {
	f.SetOutput(s.err)
	if err := f.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		return usageError{err}
	}
	if f.NArg() > 0 {
		return misused("%q is nothing that %s takes", f.Arg(0), f.Name())
	}
	return nil
}

func version(_ context.Context, args []string, s std) error {
	if err := parse(pflag.NewFlagSet("version", pflag.ContinueOnError), args, s); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.out, "rollcall-agent %s %s %s\n", agent.Version, host.Platform, runtime.Version())
	return err
}

func reset(_ context.Context, args []string, s std) error {
	f := pflag.NewFlagSet("reset", pflag.ContinueOnError)
	path := stateDirFlag(f)
	yes := f.Bool("yes", false, "do it: this machine's identity is gone afterwards, and it must be enrolled again")
	if err := parse(f, args, s); err != nil {
		return err
	}
	if !*yes {
		return misused("reset deletes this machine's identity in %s; it must then be enrolled again with a token. If that is what you want: reset --yes", *path)
	}
	if _, err := os.Stat(*path); err != nil {
		return fmt.Errorf("there is nothing to forget: %w", err)
	}
	dir, err := state.Open(*path)
	if errors.Is(err, state.ErrInUse) {
		return fmt.Errorf("the agent is running: systemctl stop rollcall-agent, then again: %w", err)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(dir.Reset(), dir.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.out, "forgotten; to enrol again, run the install line of a token")
	return err
}
