package main

import (
	"context"
	"sync"

	"github.com/rollcall-dev/rollcall/internal/agent/perform"
)

// processes are those of a machine that is made up: one of each program that is asked for by its path, until it is ended. Every result says that
// nothing real was.
type processes struct {
	mu    sync.Mutex
	ended map[string]bool
}

// Perform ends a process that never was.
func (p *processes) Perform(_ context.Context, t *perform.Task) perform.Result {
	path := t.Action.GetTerminateProcess().GetExecutable()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case path == "":
		return perform.Failed("NoSuchProcess", "simulated: this machine's processes are known by their executables only")
	case p.ended[path]:
		return perform.Failed("NoSuchProcess", "simulated: no process runs %s any more", path)
	case p.ended == nil:
		p.ended = map[string]bool{}
	}
	p.ended[path] = true
	return perform.Done("simulated: a made-up process of %s ended with TERM", path)
}

// Interrupted says what a real agent would.
func (p *processes) Interrupted(context.Context, *perform.Task) (perform.Result, bool) {
	return perform.Unknown(perform.ReasonInterrupted, "simulated: the agent was interrupted before it ended anything"), true
}
