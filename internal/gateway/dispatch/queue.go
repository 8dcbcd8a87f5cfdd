package dispatch

import (
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Heard takes note of an accepted heartbeat of an agent, which came by a line, and has its actions looked at soon. It tells whether any is open.
// A line that is an *Answer is finished then.
func (d *Dispatcher) Heard(a *Agent, m *agentv1.Heartbeat, line Line, now time.Time) (open bool) {
	actions := d.config.Source.OpenActions(a.ID)
	d.mu.Lock()
	defer d.mu.Unlock()
	a.journal = journalOf(m.GetAgent())
	if d.closed || len(actions) == 0 && a.work == nil {
		return len(actions) > 0
	}
	w := d.workOf(a)
	w.reach(line)
	w.hear(m.GetOpenActions(), actions, now)
	d.ask(w)
	return len(actions) > 0
}

// Look has the actions of an agent looked at soon, which has a line: one of them, or its endpoint, has changed.
func (d *Dispatcher) Look(a *Agent, line Line) {
	actions := d.config.Source.OpenActions(a.ID)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(actions) == 0 && a.work == nil {
		return
	}
	w := d.workOf(a)
	w.reach(line)
	d.ask(w)
}

// Update takes what an agent says of an action, which keeps to its bounds; key is that of its certificate (SubjectPublicKeyInfo, DER). Either it
// is answered at once, then done is true, or answer is called once by another goroutine. No problem is an acknowledgement.
func (d *Dispatcher) Update(a *Agent, key []byte, says *agentv1.ActionUpdate, now time.Time, answer func(*wire.Problem)) (p *wire.Problem, done bool) {
	u := update{says, key, answer}
	open, ok := d.config.Source.Action(says.GetActionUid())
	mine := ok && open.Status.Admission.IdentityID == a.ID
	d.mu.Lock()
	defer d.mu.Unlock()
	finished := says.GetPhase() == agentv1.ActionPhase_ACTION_PHASE_FINISHED
	switch {
	case d.closed:
		return &wire.Problem{Name: wire.Draining, Detail: "This gateway is about to stop: say it again, to another.", RetryAfter: time.Second}, true
	case !finished && !mine: // it is sent again where it should be known
		return nil, true
	case finished && d.waiting+u.size() > maxWaiting:
		return &wire.Problem{Name: wire.Overloaded, Detail: "Too many results wait to be written.", RetryAfter: time.Minute}, true
	}
	w := d.workOf(a)
	w.note(says, now)
	if !finished {
		w.again = sooner(w.again, now.Add(d.config.RunningAfter))
		return nil, true
	}
	d.waiting += u.size()
	w.job.updates = append(w.job.updates, u)
	d.enqueue(w)
	return nil, false
}

// All that follows is for the holder of the lock, where it does not say otherwise.

func (d *Dispatcher) workOf(a *Agent) *work {
	if a.work == nil {
		a.work = &work{agent: a, actions: map[string]memory{}}
		d.active.Insert(a.work)
	}
	return a.work
}

// ask has an agent's actions looked at.
func (d *Dispatcher) ask(w *work) {
	w.job.look = true
	d.enqueue(w)
}

// enqueue has w wait for a worker. Whoever works for it already does so again afterwards.
func (d *Dispatcher) enqueue(w *work) {
	if w.queued || w.working {
		return
	}
	w.queued = true
	d.queue = append(d.queue, w)
	d.metrics.queue.Inc()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// next is what to do now, without the lock; nil if there is nothing: then there is a worker less.
func (d *Dispatcher) next() (*work, job) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		d.queue = nil
		d.workers--
		return nil, job{}
	}
	w := d.queue[0]
	d.queue = d.queue[1:]
	d.metrics.queue.Dec()
	w.queued, w.working = false, true
	j := w.job
	w.job = job{}
	return w, j
}

// rest notes, without the lock, that a worker is through with w for now.
func (d *Dispatcher) rest(w *work) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w.working = false
	if w.job.look || len(w.job.updates) > 0 {
		d.enqueue(w)
	}
}
