package dispatch

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// rowSent is the row of the table by which an action is sent for the first time.
const rowSent action.Arrow = "8"

// maxDecisions about one event in one go: others may be writing the same action at the same moment.
const maxDecisions = 5

// errRaced: others have written it, every time.
var errRaced = errors.New("others write the same action all the time")

// advance takes an action on by an event, and writes that. Where the action is not what was assumed, or nobody knows, it is read and decided again.
// It gives the action as it is then, and the row that was written; None if nothing was to be written. Without an error, or with one that wraps
// action.ErrUnfit, the action is what the API server holds, as far as this gateway knows.
func (d *Dispatcher) advance(ctx context.Context, endpoint store.Ref, a *v1alpha1.EndpointAction, e action.Event) (*v1alpha1.EndpointAction, action.Arrow, error) {
	for range maxDecisions {
		status, row, err := action.Next(a, e)
		if err != nil || row == action.None {
			return a, action.None, d.counted(err)
		}
		next := *a
		next.Status = *status
		faults.Before(row, a.Name)
		stored, err := d.config.API.WriteAction(ctx, &next)
		d.heed(err)
		switch {
		case err == nil:
			faults.After(row, a.Name)
			d.metrics.transition(row)
			return stored, row, nil
		case errors.Is(err, store.ErrGone):
			return a, action.None, err
		case errors.Is(err, store.ErrRefused):
			d.config.Log.Error(err, "What became of an action is not written.", "namespace", a.Namespace, "action", a.Name, "row", string(row))
			return a, action.None, err
		}
		fresh, readErr := d.config.API.ReadAction(ctx, endpoint, string(a.UID))
		if readErr != nil {
			return a, action.None, readErr
		}
		if equality.Semantic.DeepEqual(fresh.Status, *status) { // it was written, and the answer was lost
			d.metrics.transition(row)
			return fresh, row, nil
		}
		a = fresh
	}
	return a, action.None, errRaced
}

func (d *Dispatcher) counted(err error) error {
	if errors.Is(err, action.ErrUnfit) {
		d.metrics.unfit.Inc()
	}
	return err
}

// isOver tells whether an error says that there is nothing more to do: by the next look it is known.
func isOver(err error) bool { return errors.Is(err, action.ErrUnfit) || errors.Is(err, store.ErrGone) }

// heed tells of failures of the API server, once until it answers again.
func (d *Dispatcher) heed(err error) {
	answered := err == nil || errors.Is(err, store.ErrGone) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrRefused)
	d.mu.Lock()
	before := d.failing
	d.failing = !answered
	d.mu.Unlock()
	switch {
	case !answered && !before:
		d.config.Log.Error(err, "What becomes of actions cannot be written. This is tried again, and none is sent meanwhile.")
	case answered && before:
		d.config.Log.Info("What becomes of actions is written again.")
	}
}
