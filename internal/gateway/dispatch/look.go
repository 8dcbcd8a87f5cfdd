package dispatch

import (
	"context"
	"errors"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// Pauses after which what the API server did not do is tried again, doubled each time, and what it refused.
const (
	firstPause  = 500 * time.Millisecond
	maxPause    = 10 * time.Second
	refusedTime = time.Minute
)

// turn is one look at an agent's actions.
type turn struct {
	*Dispatcher
	work *work
	view view
	line Line
}

// look does what is to be done about an agent's actions now.
func (d *Dispatcher) look(ctx context.Context, w *work) {
	t := turn{Dispatcher: d, work: w}
	p := t.plan(time.Now())
	t.transmit(p)
	err := t.first(ctx, p.send)
	if err == nil {
		err = t.write(ctx, p)
	}
	t.end(err)
}

// plan looks at everything that matters.
func (t *turn) plan(now time.Time) plan {
	id := t.work.agent.ID
	endpoint, there := t.config.Source.EndpointByIdentity(id)
	var open []*v1alpha1.EndpointAction
	if there {
		open = t.config.Source.OpenActions(id)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.work
	t.line = w.line
	t.view = view{
		Timing: t.config.Timing, now: now, endpoint: endpoint, journal: w.agent.journal, gateway: t.config.Gateway, contact: w.contact, actions: w.actions,
	}
	if t.line != nil && t.line.Up() {
		t.view.channel = t.line.Channel()
	}
	p := decide(open, t.view)
	w.again = p.again
	return p
}

// transmit sends what needs no write.
func (t *turn) transmit(p plan) {
	for _, a := range p.cancel {
		if !t.hand(a, *a.Status.Cancellation, func(m *memory) { m.cancelled = t.view.now }) {
			return
		}
	}
	for _, a := range p.repeat {
		if !t.hand(a, a.Status.Admission.Order, t.wait) {
			return
		}
	}
}

// hand gives an order of an action to the line, and notes that. It tells whether there was room.
func (t *turn) hand(a *v1alpha1.EndpointAction, signed v1alpha1.Envelope, note func(*memory)) bool {
	o := order.FromResource(signed)
	if !t.line.Room(o) {
		return false
	}
	faults.Before("sending", a.Name)
	t.line.Send(o)
	t.remember(a, note)
	return true
}

// wait notes that an order is on its way, under the lock.
func (t *turn) wait(m *memory) {
	m.sent = time.Now()
	t.work.again = sooner(t.work.again, m.sent.Add(t.config.Repeat))
}

func (t *turn) remember(a *v1alpha1.EndpointAction, note func(*memory)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.work.actions[string(a.UID)]
	note(&m)
	t.work.actions[string(a.UID)] = m
}

// first has actions written as sent, each before it is.
func (t *turn) first(ctx context.Context, all []*v1alpha1.EndpointAction) error {
	for _, a := range all {
		if !t.line.Up() || !t.line.Room(order.FromResource(a.Status.Admission.Order)) {
			return nil
		}
		e := t.view.sending()
		e.Now = time.Now()
		sent, row, err := t.advance(ctx, t.view.endpoint.Ref, a, e)
		switch {
		case row == rowSent, err != nil && t.sentHere(sent, e):
			t.metrics.sent(sent)
			if !t.has(sent) {
				t.hand(sent, sent.Status.Admission.Order, t.wait)
			}
		case err != nil && !isOver(err):
			return err
		}
	}
	return nil
}

// has tells whether the agent has an action, as it may after etcd was restored to before it was sent.
func (t *turn) has(a *v1alpha1.EndpointAction) (has bool) {
	t.remember(a, func(m *memory) { has = m.has })
	return has
}

// sentHere tells whether an action was written as sent by this very event, though the answer to that was lost and somebody has changed it since.
func (t *turn) sentHere(a *v1alpha1.EndpointAction, e action.Send) bool {
	d := a.Status.Delivery
	return d != nil && string(d.Gateway) == e.Gateway && d.SentTime.Equal(&metav1.MicroTime{Time: e.Now.Truncate(time.Microsecond)}) && !action.Ended(&a.Status)
}

// write has everything else written that is.
func (t *turn) write(ctx context.Context, p plan) error {
	for _, a := range p.missing {
		if _, _, err := t.advance(ctx, t.view.endpoint.Ref, a, action.Missing{Now: time.Now(), IdentityID: t.view.endpoint.IdentityID}); err != nil && !isOver(err) {
			return err
		}
	}
	for _, a := range p.progress {
		var m memory
		t.remember(a, func(is *memory) { m, is.wrote = *is, time.Now() })
		e := action.Progress{Now: time.Now(), IdentityID: t.view.endpoint.IdentityID, Percent: m.percent, Message: m.message}
		if _, _, err := t.advance(ctx, t.view.endpoint.Ref, a, e); err != nil && !isOver(err) {
			return err
		}
	}
	return nil
}

// end finishes an answer that waited for this look, and has the agent looked at again soon if it has failed.
func (t *turn) end(err error) {
	if a, ok := t.line.(*Answer); ok {
		a.finish()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.work.failures++; err == nil {
		t.work.failures = 0
		return
	}
	pause := min(firstPause<<min(t.work.failures-1, 10), maxPause)
	if errors.Is(err, store.ErrRefused) {
		pause = refusedTime
	}
	t.work.again = sooner(t.work.again, time.Now().Add(pause))
}
