package agent

import (
	"context"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent/perform"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const (
	typePerformHeartbeat = "PerformHeartbeat"
	// reasonReportRefused is of a full report that the server does not take.
	reasonReportRefused = "ReportRefused"
)

// report is a whole heartbeat, with all sections, that somebody waits for.
type report struct {
	done chan reportEnd // room for one
	// sentAt is when it was sent, 0 for not yet.
	sentAt time.Duration
}

// reportEnd is how long the server took to accept it, or why it did not.
type reportEnd struct {
	took    time.Duration
	refused wire.Name
}

// reporter does PerformHeartbeat.
type reporter struct{ requests chan<- *report }

// Perform has the engine send a full report, and waits for its answer.
func (x reporter) Perform(ctx context.Context, _ *perform.Task) perform.Result {
	r := &report{done: make(chan reportEnd, 1)}
	select {
	case x.requests <- r:
	case <-ctx.Done():
		return perform.Cut(ctx, "no heartbeat was sent")
	}
	select {
	case end := <-r.done:
		if end.refused != "" {
			return perform.Failed(reasonReportRefused, "the server does not take the full report (%s)", end.refused)
		}
		return perform.Done("full report received in %d ms", end.took.Milliseconds())
	case <-ctx.Done():
		return perform.Cut(ctx, "the full report was not received")
	}
}

// Interrupted lets it be sent again: the server knows whether it has it, and another does no harm.
func (reporter) Interrupted(context.Context, *perform.Task) (perform.Result, bool) {
	return perform.Result{}, false
}

// wantReport makes the next heartbeat, at once, a full one.
func (e *Engine) wantReport(r *report) {
	e.reports = append(e.reports, r)
	e.beat.due = min(e.beat.due, e.boot())
}

// reportsSent says that a full heartbeat is on its way.
func (e *Engine) reportsSent() {
	for _, r := range e.reports {
		r.sentAt = e.boot()
	}
}

// reportsEnd answers those who wait for the heartbeat that was accepted, or refused for what is in it. It tells whether some wait for the next.
func (e *Engine) reportsEnd(at time.Duration, refused wire.Name) (more bool) {
	waiting := e.reports
	e.reports = nil
	for _, r := range waiting {
		if r.sentAt == 0 {
			e.reports = append(e.reports, r)
			continue
		}
		r.done <- reportEnd{took: max(0, at-r.sentAt), refused: refused}
	}
	return len(e.reports) > 0
}
