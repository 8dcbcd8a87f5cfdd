// Command cytool shows the state of the agent on this machine.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/pflag"

	"github.com/rollcall-dev/rollcall/internal/agent/control"
	"github.com/rollcall-dev/rollcall/internal/agent/install"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/status"
)

// Exit codes, part of the interface.
const (
	exitOK           = 0
	exitNotConnected = 1
	exitUsage        = 2
	exitNotRunning   = 3
	exitNotPermitted = 4
)

const usage = `cytool asks the Rollcall agent on this machine.

  cytool status      who this machine is to its fleet, and what is wrong
  cytool checkin     make the agent send a heartbeat now, and wait for the answer
  cytool websocket   the websocket by which actions arrive
  cytool actions     what this machine was told to do, and what became of it

Flags: -o json for programs; --state-dir of an agent that is not at its usual place.
Exit codes: 0 connected (actions: answered), 1 not connected, 2 usage, 3 the agent is not running, 4 not permitted.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func command(ctx context.Context, args []string, out, errOut io.Writer) int {
	f := pflag.NewFlagSet("cytool", pflag.ContinueOnError)
	f.SetOutput(errOut)
	f.Usage = func() { _, _ = io.WriteString(errOut, usage) }
	format := f.StringP("output", "o", "text", "text or json")
	dir := f.String("state-dir", cmp.Or(os.Getenv("ROLLCALL_STATE_DIR"), install.StateDir), "the agent's state directory")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return exitOK
		}
		_, _ = fmt.Fprintln(errOut, "cytool:", err)
		return exitUsage
	}
	if *format != "text" && *format != "json" || f.NArg() != 1 {
		_, _ = io.WriteString(errOut, usage)
		return exitUsage
	}
	p := printer{out: out, json: *format == "json"}
	client := control.NewClient(*dir)
	commands := map[string]func() (int, error){
		"status":    func() (int, error) { return showStatus(ctx, client, p) },
		"checkin":   func() (int, error) { return checkin(ctx, client, p) },
		"websocket": func() (int, error) { return showWebSocket(ctx, client, p) },
		"actions":   func() (int, error) { return showActions(ctx, client, p) },
	}
	do, ok := commands[f.Arg(0)]
	if !ok {
		_, _ = fmt.Fprintf(errOut, "cytool: there is no command %q\n\n%s", f.Arg(0), usage)
		return exitUsage
	}
	code, err := do()
	if err != nil {
		return fail(err, errOut, f.Arg(0))
	}
	return code
}

// fail says in one line what failed and what to do.
func fail(err error, errOut io.Writer, command string) int {
	switch {
	case errors.Is(err, control.ErrNotRunning):
		_, _ = fmt.Fprintf(errOut, "cytool: %v. Start it: systemctl start rollcall-agent; why it ended: journalctl -u rollcall-agent\n", err)
		return exitNotRunning
	case errors.Is(err, control.ErrNotPermitted):
		_, _ = fmt.Fprintf(errOut, "cytool: %v. Try: sudo cytool %s\n", err, command)
		return exitNotPermitted
	default:
		_, _ = fmt.Fprintf(errOut, "cytool: %v\n", err)
		return exitNotConnected
	}
}

// text is what can print itself for people.
type text interface{ Write(io.Writer) error }

type printer struct {
	out  io.Writer
	json bool
}

func (p printer) print(v text) error {
	if !p.json {
		return v.Write(p.out)
	}
	e := json.NewEncoder(p.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func showStatus(ctx context.Context, c *control.Client, p printer) (int, error) {
	s, err := c.Status(ctx)
	if err != nil {
		return 0, err
	}
	return code(s), p.print(s)
}

func showWebSocket(ctx context.Context, c *control.Client, p printer) (int, error) {
	s, err := c.Status(ctx)
	if err != nil {
		return 0, err
	}
	if s.Websocket.State != status.Connected {
		return exitNotConnected, p.print(s.Channel())
	}
	return exitOK, p.print(s.Channel())
}

func showActions(ctx context.Context, c *control.Client, p printer) (int, error) {
	a, err := c.Actions(ctx)
	if err != nil {
		return 0, err
	}
	return exitOK, p.print(a)
}

func checkin(ctx context.Context, c *control.Client, p printer) (int, error) {
	began := time.Now()
	s, err := c.Checkin(ctx)
	if err != nil {
		return 0, err
	}
	return code(s), p.print(answer{s, time.Since(began)})
}

// answer is a check-in as people read it; as JSON it is the status.
type answer struct {
	status.Status
	took time.Duration
}

// Write prints it.
func (a answer) Write(w io.Writer) error {
	if a.State != problem.StateOnline {
		return a.Status.Write(w)
	}
	next := ""
	if s := a.Heartbeat.NextInSeconds; s != nil {
		next = "; next in " + problem.Span(time.Duration(*s)*time.Second)
	}
	_, err := fmt.Fprintf(w, "Heartbeat        accepted in %d ms by gateway %s%s\n", a.took.Milliseconds(), a.Server.Gateway, next)
	return err
}

func code(s status.Status) int {
	if s.State == problem.StateOnline {
		return exitOK
	}
	return exitNotConnected
}
