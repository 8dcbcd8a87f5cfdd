package model

import (
	"errors"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
)

// packet is what an agent says: that it beats, that an action runs, or how it ended.
type packet struct {
	from    *machine
	run     int
	gateway int // that it reaches
	beat    int
	journal string
	made    time.Time
	lists   map[string]bool
	runs    string
	percent uint32
	result  *agentv1.ActionResult
	proof   v1alpha1.Envelope
}

// parcel is what a gateway says: an order, one to cancel, or an acknowledgement.
type parcel struct {
	to            *machine
	run           int
	order, cancel *v1alpha1.Envelope
	settled       string
	undone        bool // it rests on what etcd has no memory of
}

// heard is what a gateway remembers of an agent.
type heard struct {
	beat    int
	run     int
	journal string
	made    time.Time
	lists   map[string]bool
	misses  map[string]int
}

// gateway is one of two. It may think that it has an agent which has gone to the other.
type gateway struct {
	name               string
	actions, endpoints view
	heard              map[string]*heard // by identity
	tasks              []*task
}

// task is a write that is under way, and what happens after it.
type task struct {
	key   string
	base  *v1alpha1.EndpointAction
	event action.Event
	then  func(*v1alpha1.EndpointAction) // with the action as it was written
	// settle tells the agent that its result is safe, or of no use, by what is known of the action.
	settle func(*v1alpha1.EndpointAction)
}

// crash loses all but what the API server has.
func (g *gateway) crash(w *world) {
	w.log("%s crashes", g.name)
	g.heard, g.tasks = map[string]*heard{}, nil
}

// hear takes what an agent says, if its certificate is good by what this gateway knows.
func (g *gateway) hear(w *world, p packet) {
	e := g.endpoints.see(w.etcd).byIdentity(p.from.identity)
	if e == nil || e.lifecycle != v1alpha1.LifecycleActive {
		return
	}
	switch {
	case p.result != nil:
		g.report(w, p)
	case p.runs != "":
		key, a := g.find(w, p.runs)
		if a != nil {
			g.begin(w, &task{key: key, base: a, event: action.Progress{Now: w.now, IdentityID: p.from.identity, Percent: p.percent}})
		}
	default:
		g.listen(w, e, p)
	}
}

// listen is a heartbeat. One that is late is no news.
func (g *gateway) listen(w *world, e *endpoint, p packet) {
	h := g.heard[p.from.identity]
	if h == nil {
		h = &heard{misses: map[string]int{}}
		g.heard[p.from.identity] = h
	}
	if p.beat <= h.beat {
		return
	}
	h.beat, h.run, h.journal, h.made, h.lists = p.beat, p.run, p.journal, p.made, p.lists
	channel := v1alpha1.ChannelHeartbeat
	if w.chance(50) {
		channel = v1alpha1.ChannelWebSocket
	}
	w.etcd.patch(e.name, func(live *endpoint) {
		if live.identity == e.identity {
			live.journal, live.journalMade, live.channel, live.online, live.lastSeen = p.journal, p.made, channel, true, w.now
			live.isolated, live.isolatedBy = w.isolated[p.from.name], w.isolatedBy[p.from.name]
		}
	})
	for _, key := range g.actions.see(w.etcd).keys("actions/") {
		a := g.actions.see(w.etcd).action(key)
		uid, d := string(a.UID), a.Status.Delivery
		if action.Ended(&a.Status) || a.Status.Admission == nil || a.Status.Admission.IdentityID != p.from.identity || d == nil || d.AcknowledgedTime == nil || p.lists[uid] {
			delete(h.misses, uid)
			continue
		}
		if h.misses[uid]++; h.misses[uid] >= 2 {
			g.begin(w, &task{key: key, base: a, event: action.Missing{Now: w.now, IdentityID: p.from.identity}})
		}
	}
	g.dispatch(w, p.from)
}

// dispatch sends an agent what it lacks.
func (g *gateway) dispatch(w *world, m *machine) {
	h := g.heard[m.identity]
	e := g.endpoints.see(w.etcd).byIdentity(m.identity)
	if h == nil || e == nil {
		return
	}
	facts := e.facts()
	facts.JournalID, facts.JournalTime = h.journal, h.made
	send := action.Send{Now: w.now, Channel: v1alpha1.ChannelHeartbeat, Gateway: g.name, Endpoint: facts, JournalID: h.journal}
	for _, key := range g.actions.see(w.etcd).keys("actions/") {
		a := g.actions.see(w.etcd).action(key)
		if a.Status.Phase == v1alpha1.ActionPending && a.Status.Admission != nil {
			g.begin(w, &task{key: key, base: a, event: send, then: func(stored *v1alpha1.EndpointAction) { g.transmit(w, m, h, stored) }})
			continue
		}
		order, cancel := action.Repeats(a, send)
		if order && !h.lists[string(a.UID)] {
			w.covered["9"]++
			g.transmit(w, m, h, a)
		}
		if cancel {
			w.toAgent(parcel{to: m, run: h.run, cancel: a.Status.Cancellation})
		}
	}
}

// transmit has an order leave the server. What the agent lists it has.
func (g *gateway) transmit(w *world, m *machine, h *heard, a *v1alpha1.EndpointAction) {
	if h.lists[string(a.UID)] {
		return
	}
	w.leaves(a)
	w.toAgent(parcel{to: m, run: h.run, order: &a.Status.Admission.Order})
}

// find looks for an action in the cache, and then in the API server.
func (g *gateway) find(w *world, uid string) (string, *v1alpha1.EndpointAction) {
	if key, a := g.actions.see(w.etcd).byUID(uid); a != nil {
		return key, a
	}
	return w.etcd.now().byUID(uid)
}

// report is a result. It is acknowledged once it is safe, or can never be.
func (g *gateway) report(w *world, p packet) {
	uid := p.result.GetActionUid()
	settle := func(a *v1alpha1.EndpointAction) {
		w.toAgent(parcel{to: p.from, run: p.run, settled: uid, undone: a != nil && w.etcd.undone(a)})
	}
	key, a := g.find(w, uid)
	if a == nil {
		settle(nil)
		return
	}
	event := action.Result{Now: w.now, IdentityID: p.from.identity, Says: p.result, Proof: p.proof}
	g.begin(w, &task{key: key, base: a, event: event, settle: settle})
}

// begin decides, and has the write under way.
func (g *gateway) begin(w *world, t *task) {
	_, row, err := action.Next(t.base, t.event)
	switch {
	case errors.Is(err, action.ErrEarly):
		return
	case err != nil:
		w.unfit++
	case row != action.None:
		g.tasks = append(g.tasks, t)
		return
	case t.settle != nil:
		w.covered["22"]++
	}
	if t.settle != nil {
		t.settle(t.base)
	}
}

// proceed has one write reach the API server, or not, and its answer the gateway, or not.
func (g *gateway) proceed(w *world, luck int) {
	if len(g.tasks) == 0 {
		return
	}
	i := w.rand.IntN(len(g.tasks))
	t := g.tasks[i]
	g.tasks = append(g.tasks[:i:i], g.tasks[i+1:]...)
	status, row, err := action.Next(t.base, t.event)
	if err != nil || row == action.None {
		return
	}
	if luck < 10 { // nobody hears of it; the agent says it again, or the next contact brings it
		return
	}
	w.log("%s writes row %s of %s", g.name, row, t.key)
	answered := w.take(t.key, t.base, status, row)
	if luck < 20 {
		answered = silence
	}
	g.answered(w, t, answered)
}

func (g *gateway) answered(w *world, t *task, a answer) {
	live := w.etcd.now().action(t.key)
	if live != nil && live.UID != t.base.UID {
		live = nil
	}
	switch {
	case a == written:
		if t.then != nil {
			t.then(live)
		}
	case live == nil: // deleted
	case a == silence && t.then != nil && live.Status.Phase == v1alpha1.ActionSent && live.Status.Delivery.Gateway == v1alpha1.LocalName(g.name):
		t.then(live) // it was written
		return
	default:
		t.base = live
		g.begin(w, t)
		return
	}
	if t.settle != nil {
		t.settle(live)
	}
}

// forge is a gateway that was seized: it says that an action succeeded, and signs for the agent.
func (g *gateway) forge(w *world, key string) {
	a := g.actions.see(w.etcd).action(key)
	if a == nil || a.Status.Admission == nil {
		return
	}
	says := &agentv1.ActionResult{
		FleetId: fleetID, IdentityId: a.Status.Admission.IdentityID, ActionUid: string(a.UID), ActionDigest: action.Digest(a.Status.Admission.Order),
		Outcome: agentv1.Outcome_OUTCOME_SUCCEEDED, Reason: "Done",
	}
	liar := &machine{key: keyOf("liar")}
	event := action.Result{Now: w.now, IdentityID: says.IdentityId, Says: says, Proof: liar.sign(says)}
	if status, row, err := action.Next(a, event); err == nil && row != action.None {
		w.log("%s forges the result of %s", g.name, key)
		if w.take(key, a, status, row) == written {
			w.truth(string(a.UID)).forged = true
		}
	}
}
