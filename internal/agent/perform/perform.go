// Package perform does actions. An Executor knows how to do one type of them on this machine; the Runner lets executors run beside the agent's
// engine and brings it what they say.
package perform

import (
	"context"
	"errors"
	"fmt"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// Executor does actions of one type.
type Executor interface {
	// Perform does an action and says how it ended. It returns soon after ctx ends, with Cut(ctx) unless it knows better.
	Perform(ctx context.Context, t *Task) Result
	// Interrupted is called instead for an action that the agent's own end has interrupted. What may be repeated returns false, and Perform is
	// called again: it looks at what is there and does what is missing. What may not returns what it can still find out.
	Interrupted(ctx context.Context, t *Task) (Result, bool)
}

// Executors by the type of action, which is also the name of the capability.
type Executors map[string]Executor

// Task is one action to do.
type Task struct {
	UID    string
	Action *agentv1.Action
	// Intent is what was noted before an interruption, nil if nothing was.
	Intent []byte

	note func(context.Context, []byte) error
	tell func(context.Context, uint32, string)
}

// Note keeps something to go on with after an interruption, at most 64 KiB: once it returns nil it is on the disk. What it replaces is gone.
func (t *Task) Note(ctx context.Context, intent []byte) error { return t.note(ctx, intent) }

// Tell says how far it is, for people.
func (t *Task) Tell(ctx context.Context, percent uint32, message string) {
	t.tell(ctx, percent, message)
}

// Result is how an action ended.
type Result struct {
	Outcome agentv1.Outcome
	// Reason is one word in CamelCase; Message says more, to people.
	Reason, Message string
	// Processes that were ended.
	Processes []*agentv1.ProcessInstance
}

// Reasons that every type of action has.
const (
	ReasonDone         = "Done"
	ReasonTimedOut     = "TimedOut"
	ReasonCancelled    = "Cancelled"
	ReasonInterrupted  = "Interrupted"
	ReasonNotPermitted = "NotPermitted"
	ReasonInternal     = "Internal"
)

// Done is a success.
func Done(format string, args ...any) Result {
	return Result{Outcome: agentv1.Outcome_OUTCOME_SUCCEEDED, Reason: ReasonDone, Message: fmt.Sprintf(format, args...)}
}

// Failed is a failure for a reason.
func Failed(reason, format string, args ...any) Result {
	return Result{Outcome: agentv1.Outcome_OUTCOME_FAILED, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Unknown is an end of which nobody can tell how far it came.
func Unknown(reason, format string, args ...any) Result {
	return Result{Outcome: agentv1.Outcome_OUTCOME_UNKNOWN, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Cancelled is an end because the action was taken back.
func Cancelled(format string, args ...any) Result {
	return Result{Outcome: agentv1.Outcome_OUTCOME_CANCELLED, Reason: ReasonCancelled, Message: fmt.Sprintf(format, args...)}
}

// Why a task's context ends, besides its deadline.
var (
	ErrCancelled = errors.New("the action was taken back")
	ErrStopping  = errors.New("the agent was stopped")
)

// Cut is the end of a task whose context has ended. The message says why, then what was done.
func Cut(ctx context.Context, format string, args ...any) Result {
	done := fmt.Sprintf(format, args...)
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrCancelled):
		return Cancelled("taken back while it ran: %s", done)
	case errors.Is(cause, context.DeadlineExceeded):
		return Failed(ReasonTimedOut, "its time was over: %s", done)
	default:
		return Unknown(ReasonInterrupted, "the agent was stopped while it ran: %s", done)
	}
}
