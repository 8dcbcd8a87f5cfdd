package perform

import (
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Patience is how long a task may go on after its context has ended. Then its end is told without it.
const Patience = 10 * time.Second

// Event is what an executor says of a task: how far it is, something to note, or its result.
type Event struct {
	UID string
	// Result ends the task.
	Result *Result
	// Stack is where the executor failed by a fault of its own, which the result tells too.
	Stack []byte
	// Intent is to be noted, and Noted called with what came of it.
	Intent []byte
	Noted  func(error)
	// Percent and Message are how far it is, if it is none of the others.
	Percent uint32
	Message string
}

// Runner runs tasks, each in a goroutine of its own. Its methods are for one goroutine, the one that receives the events.
type Runner struct {
	events chan Event // unbuffered
	gone   chan struct{}
	tasks  sync.WaitGroup
	live   atomic.Int32
	cancel map[string]context.CancelCauseFunc // of the tasks whose result was not taken up
}

// NewRunner makes one.
func NewRunner() *Runner {
	return &Runner{events: make(chan Event), gone: make(chan struct{}), cancel: map[string]context.CancelCauseFunc{}}
}

// Events are to be received. One that has a result is given to Ended.
func (r *Runner) Events() <-chan Event { return r.events }

// Len is how many tasks run, those that were given up included.
func (r *Runner) Len() int { return int(r.live.Load()) }

// Runs tells whether a task is under way, and its result still to come.
func (r *Runner) Runs(uid string) bool { return r.cancel[uid] != nil }

// Start begins a task, or goes on with one that was interrupted, for as long as limit.
func (r *Runner) Start(t *Task, x Executor, limit time.Duration, interrupted bool) {
	// Not the caller's context: how a task takes the agent's end is for Stop to decide.
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancel[t.UID] = cancel
	t.note, t.tell = r.note(t.UID), r.tell(t.UID)
	r.live.Add(1)
	overdue := time.AfterFunc(limit+Patience, func() {
		result := Failed(ReasonTimedOut, "its time was over, and it did not stop: it may still do something")
		r.send(Event{UID: t.UID, Result: &result})
	})
	r.tasks.Go(func() {
		defer cancel(nil)
		ctx, stop := context.WithTimeout(ctx, limit)
		defer stop()
		e := perform(ctx, t, x, interrupted)
		overdue.Stop()
		r.live.Add(-1)
		r.send(e)
	})
}

func perform(ctx context.Context, t *Task, x Executor, interrupted bool) (e Event) {
	e.UID = t.UID
	defer func() { // one action must not take the agent with it, least of all one that is begun again at each start
		if fault := recover(); fault != nil {
			result := Unknown(ReasonInternal, "the agent has a fault: %v", fault)
			e.Result, e.Stack = &result, debug.Stack()
		}
	}()
	result, ended := Result{}, false
	if interrupted {
		result, ended = x.Interrupted(ctx, t)
	}
	if !ended {
		result = x.Perform(ctx, t)
	}
	e.Result = &result
	return e
}

// send hands an event over, unless nobody hears any more.
func (r *Runner) send(e Event) {
	select {
	case r.events <- e:
	case <-r.gone:
	}
}

func (r *Runner) note(uid string) func(context.Context, []byte) error {
	return func(ctx context.Context, intent []byte) error {
		noted := make(chan error, 1)
		select {
		case r.events <- Event{UID: uid, Intent: intent, Noted: func(err error) { noted <- err }}:
		case <-r.gone:
			return ErrStopping
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select {
		case err := <-noted:
			return err
		case <-r.gone:
			return ErrStopping
		}
	}
}

func (r *Runner) tell(uid string) func(context.Context, uint32, string) {
	return func(ctx context.Context, percent uint32, message string) {
		select {
		case r.events <- Event{UID: uid, Percent: percent, Message: message}:
		case <-r.gone:
		case <-ctx.Done():
		}
	}
}

// Ended says that the result of a task was taken up.
func (r *Runner) Ended(uid string) { delete(r.cancel, uid) }

// Cancel asks a task to stop.
func (r *Runner) Cancel(uid string) {
	if cancel := r.cancel[uid]; cancel != nil {
		cancel(ErrCancelled)
	}
}

// Stop asks all tasks to end because the agent does, and gives what they say to take, which calls Ended, until all have ended or the time is over.
func (r *Runner) Stop(within time.Duration, take func(Event)) {
	for _, cancel := range r.cancel {
		cancel(ErrStopping)
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	for len(r.cancel) > 0 {
		select {
		case e := <-r.events:
			take(e)
		case <-timer.C:
			return
		}
	}
}

// Abandon asks all tasks to end, and nobody hears of them any more.
func (r *Runner) Abandon() {
	for uid, cancel := range r.cancel {
		cancel(ErrStopping)
		delete(r.cancel, uid)
	}
	select {
	case <-r.gone:
	default:
		close(r.gone)
	}
}

// Wait returns when no task runs any more.
func (r *Runner) Wait() { r.tasks.Wait() }
