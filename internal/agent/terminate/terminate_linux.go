package terminate

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/perform"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const (
	// defaultGrace is from TERM to KILL.
	defaultGrace = 5 * time.Second
	// killPatience is how long a process may take to end after KILL. It ends at once, unless it waits in the kernel.
	killPatience = 10 * time.Second
	// maxNoted processes are remembered in case that the agent is interrupted.
	maxNoted = 1000
)

// Executor does TerminateProcess.
type Executor struct{ boot time.Time }

// New is an executor, nil where the kernel cannot hold processes (before Linux 5.3), or does not let this agent.
func New() *Executor {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	boot, err := bootTime()
	if err != nil || unix.PidfdSendSignal(fd, 0, nil, 0) != nil {
		return nil
	}
	return &Executor{boot: boot}
}

// Perform ends what the task names.
func (x *Executor) Perform(ctx context.Context, t *perform.Task) perform.Result {
	m := t.Action.GetTerminateProcess()
	w := want(m)
	f, err := x.find(ctx, w)
	if err != nil {
		return perform.Failed(perform.ReasonInternal, "the processes cannot be listed: %v", err)
	}
	d := &deed{x: x, task: t, tree: m.GetTree(), grace: defaultGrace, family: f.targets, spared: f.others}
	defer func() { d.family.close() }()
	if m.GetGrace() != nil {
		d.grace = m.GetGrace().AsDuration()
	}
	switch {
	case ctx.Err() != nil:
		return perform.Cut(ctx, "nothing was ended")
	case len(f.targets) == 0:
		return f.nothing(w)
	}
	switch err := d.note(ctx); {
	case ctx.Err() != nil:
		return perform.Cut(ctx, "nothing was ended")
	case err != nil:
		return perform.Failed(perform.ReasonInternal, "nothing was ended: %v", err)
	}
	d.end(ctx)
	return d.result(ctx)
}

// deed is the end of some processes.
type deed struct {
	x      *Executor
	task   *perform.Task
	tree   bool
	grace  time.Duration
	family family
	spared []spared
}

// end ends them: TERM, and after the grace KILL. Once the context has ended it sends nothing any more, and leaves nobody stopped.
func (d *deed) end(ctx context.Context) {
	signal := unix.SIGTERM
	if d.grace == 0 {
		signal = unix.SIGKILL
	}
	if !d.round(ctx, signal, d.grace) || signal == unix.SIGKILL {
		return
	}
	d.round(ctx, unix.SIGKILL, killPatience)
}

// round sends one signal and waits. It tells whether some are left that need another.
func (d *deed) round(ctx context.Context, signal unix.Signal, limit time.Duration) (left bool) {
	if signal == unix.SIGKILL {
		limit = killPatience
	}
	if d.tree {
		d.family.freeze(ctx)
	}
	if ctx.Err() == nil {
		d.family.send(signal)
		faults.After("signal", "")
	}
	each := func() {}
	if d.tree {
		d.family.send(unix.SIGCONT)
		each = func() { d.join(signal) }
	}
	d.family.wait(ctx, limit, each)
	return d.family.live() && ctx.Err() == nil
}

// join signals what was started meanwhile.
func (d *deed) join(signal unix.Signal) {
	before := len(d.family)
	d.family.adopt()
	d.family[before:].send(signal)
}

// notes are what is known after an interruption.
type notes struct {
	Boot      string  `json:"boot"`
	Tree      bool    `json:"tree,omitempty"`
	Processes []noted `json:"processes"`
}

type noted struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
	Exe   string `json:"exe,omitempty"` // of the first
}

// note remembers what is about to be ended, so that after an interruption the agent can say what became of it.
func (d *deed) note(ctx context.Context) error {
	n := notes{Boot: bootID(), Tree: d.tree}
	for i, t := range d.family[:min(len(d.family), maxNoted)] {
		n.Processes = append(n.Processes, noted{PID: t.pid, Start: t.stat.start})
		if i == 0 {
			n.Processes[0].Exe = shorten(t.exe)
		}
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return d.task.Note(ctx, b)
}

// Interrupted says what became of the processes that were being ended, and lets go on whom the agent had stopped for a moment.
func (x *Executor) Interrupted(_ context.Context, t *perform.Task) (perform.Result, bool) {
	n := notes{}
	if t.Intent == nil || json.Unmarshal(t.Intent, &n) != nil || len(n.Processes) == 0 {
		return perform.Unknown(perform.ReasonInterrupted, "the agent was interrupted before it ended anything"), true
	}
	what := fmt.Sprintf("pid %d (%s)", n.Processes[0].PID, n.Processes[0].Exe)
	if len(n.Processes) > 1 {
		what = fmt.Sprintf("%d processes, the first %s", len(n.Processes), what)
	}
	if n.Boot != bootID() {
		return perform.Unknown(perform.ReasonInterrupted, "the machine was restarted while the agent ended %s", what), true
	}
	left := release(n)
	if left == 0 {
		return perform.Unknown(perform.ReasonInterrupted, "the agent was interrupted while it ended %s: none is left", what), true
	}
	return perform.Unknown(perform.ReasonInterrupted, "the agent was interrupted while it ended %s: %d still there", what, left), true
}

// release lets go on who was stopped, descendants too, and counts who is left.
func release(n notes) (left int) {
	var f family
	defer func() { f.close() }()
	for _, p := range n.Processes {
		fd, err := unix.PidfdOpen(p.PID, 0)
		if err != nil {
			continue
		}
		s, err := readStat(p.PID)
		if err != nil || s.start != p.Start || s.ended() {
			_ = unix.Close(fd)
			continue
		}
		f = append(f, &target{seen: seen{pid: p.PID, stat: s}, fd: fd})
	}
	left = len(f)
	if n.Tree {
		f.adopt()
		f.send(unix.SIGCONT)
	}
	return left
}

// instance is a process as a result tells it.
func (x *Executor) instance(t *target) *agentv1.ProcessInstance {
	return &agentv1.ProcessInstance{Pid: uint32(t.pid), StartTime: timestamppb.New(x.began(t.stat)), Executable: shorten(t.exe)} //nolint:gosec // a PID
}

// shorten keeps the end of a path, which tells more.
func shorten(path string) string {
	path = wire.CutText(path, len(path))
	if len(path) <= wire.MaxText {
		return path
	}
	const dots = "…"
	path = path[len(path)-wire.MaxText+len(dots):]
	for path != "" && path[0]&0xc0 == 0x80 { // not within a character
		path = path[1:]
	}
	return dots + path
}
