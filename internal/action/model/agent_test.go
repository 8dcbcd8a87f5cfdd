package model

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

// Bounds of a model agent's journal, small so that they are reached.
const (
	maxOpen   = 3               // unsettled records
	retention = 5 * time.Minute // for which settled ones are kept at least
)

type recordState int

// The states of a record, by docs/protocol.md.
const (
	received recordState = iota + 1
	started
	finished
	settled
)

// record is what an agent has on disk of one action.
type record struct {
	state   recordState
	order   *agentv1.Action // nil: only its cancel ever came
	digest  string
	expires time.Time
	settled time.Time
	told    bool // it was settled, and etcd was set back behind that
	result  *agentv1.ActionResult
	resumed bool
}

// machine is one agent. All but what is in memory survives a crash.
type machine struct {
	name, endpoint, identity string
	key                      ed25519.PrivateKey
	journal                  string
	made                     time.Time // zero until the first beacon after the journal was made
	floor                    time.Time // of signed time
	topics                   time.Time // of what was obeyed last on isolation
	records                  map[string]*record
	beat                     int // number of the newest heartbeat

	// in memory
	up    bool
	run   int    // counts its starts; what was under way to an earlier one is lost with its connection
	task  string // UID of the action that it is at; one at a time
	acted bool   // the task has had its effect
	lag   time.Duration
}

func (m *machine) uids() []string { return slices.Sorted(maps.Keys(m.records)) }

// now is the signed time, which may be behind and never goes back.
func (m *machine) now(w *world) time.Time {
	if at := w.now.Add(-m.lag); at.After(m.floor) {
		m.floor = at
	}
	return m.floor
}

func (m *machine) raise(at time.Time) {
	if at.After(m.floor) {
		m.floor = at
	}
}

// crash loses what is in memory.
func (m *machine) crash(w *world) {
	w.log("%s crashes", m.name)
	m.up, m.task, m.acted = false, "", false
}

// start comes up: what was begun is resumed where that is safe, and else nobody can tell.
func (m *machine) start(w *world) {
	m.run++
	m.up, m.lag = true, time.Duration(w.rand.IntN(30))*time.Second
	w.log("%s starts", m.name)
	for _, uid := range m.uids() {
		if r := m.records[uid]; r.state == started && !resumable(r.order) {
			m.finish(w, uid, agentv1.Outcome_OUTCOME_UNKNOWN, action.ReasonInterrupted)
		}
	}
}

func resumable(o *agentv1.Action) bool { return o.GetTerminateProcess() == nil }

// order is what comes from a gateway, believed or not.
func (m *machine) order(w *world, e v1alpha1.Envelope) {
	o := &agentv1.Action{}
	must(proto.Unmarshal(e.Payload, o))
	uid := o.GetActionUid()
	if o.GetIdentityId() != m.identity || m.made.IsZero() || !o.GetIssuedAt().AsTime().After(m.made) {
		w.log("%s refuses to believe the order of %s", m.name, w.nameOf(uid))
		return
	}
	m.raise(o.GetIssuedAt().AsTime())
	if m.records[uid] != nil {
		m.repeat(w, uid)
		return
	}
	if m.open() >= maxOpen {
		return
	}
	r := &record{state: received, order: o, digest: action.Digest(e), expires: o.GetExpiresAt().AsTime()}
	if w.chance(20) { // before it is on disk
		m.crash(w)
		return
	}
	m.records[uid] = r
	w.log("%s has %s on disk", m.name, w.nameOf(uid))
	m.judge(w, uid)
}

func (m *machine) open() (n int) {
	for _, r := range m.records {
		if r.state != settled {
			n++
		}
	}
	return n
}

// judge refuses what must not begin, and tells whether it may.
func (m *machine) judge(w *world, uid string) bool {
	r := m.records[uid]
	isolation := r.order.GetIsolateEndpoint() != nil || r.order.GetCancelIsolation() != nil
	switch {
	case !m.now(w).Before(r.expires):
		m.finish(w, uid, agentv1.Outcome_OUTCOME_REFUSED, action.ReasonPastDeadline)
	case isolation && !r.order.GetIssuedAt().AsTime().After(m.topics):
		m.finish(w, uid, agentv1.Outcome_OUTCOME_REFUSED, action.ReasonSuperseded)
	case w.truth(uid).unable:
		m.finish(w, uid, agentv1.Outcome_OUTCOME_REFUSED, action.ReasonUnsupported)
	default:
		return true
	}
	return false
}

// cancel is an order to take one back.
func (m *machine) cancel(w *world, e v1alpha1.Envelope) {
	c := &agentv1.Cancel{}
	must(proto.Unmarshal(e.Payload, c))
	uid := c.GetActionUid()
	r := m.records[uid]
	switch {
	case c.GetIdentityId() != m.identity:
	case r == nil && (m.made.IsZero() || !c.GetActionIssuedAt().AsTime().After(m.made)):
		w.log("%s cannot tell what became of %s", m.name, w.nameOf(uid))
	case r == nil:
		m.records[uid] = &record{state: received, digest: c.GetActionDigest(), expires: c.GetExpiresAt().AsTime()}
		m.finish(w, uid, agentv1.Outcome_OUTCOME_CANCELLED, "Cancelled")
	case r.state == received, r.state == started && m.task == uid && !m.acted && !r.resumed:
		m.finish(w, uid, agentv1.Outcome_OUTCOME_CANCELLED, "Cancelled")
		if m.task == uid {
			m.task = ""
		}
	default:
		m.repeat(w, uid)
	}
}

// work goes on with one action.
func (m *machine) work(w *world) {
	if m.task != "" {
		m.workOn(w, m.task)
		return
	}
	for _, uid := range m.uids() {
		switch r := m.records[uid]; {
		case r.state == started: // resumed: what it had done before nobody remembers
			m.task, r.resumed = uid, true
			return
		case r.state == received && !m.made.IsZero() && m.judge(w, uid):
			if r.order.GetIsolateEndpoint() != nil || r.order.GetCancelIsolation() != nil {
				m.topics = r.order.GetIssuedAt().AsTime()
			}
			r.state, m.task = started, uid
			w.begin(uid, m)
			return
		}
	}
}

func (m *machine) workOn(w *world, uid string) {
	r := m.records[uid]
	if !m.acted {
		m.acted = true
		w.act(uid, r.order)
		w.endpointActs(m, r.order)
		return
	}
	m.task, m.acted = "", false
	if w.truth(uid).failing {
		m.finish(w, uid, agentv1.Outcome_OUTCOME_FAILED, "NoSuchProcess")
		return
	}
	m.finish(w, uid, agentv1.Outcome_OUTCOME_SUCCEEDED, "Done")
}

func (m *machine) finish(w *world, uid string, outcome agentv1.Outcome, reason string) {
	r := m.records[uid]
	r.state = finished
	r.result = &agentv1.ActionResult{
		FleetId: fleetID, IdentityId: m.identity, ActionUid: uid, ActionDigest: r.digest, Outcome: outcome, Reason: reason,
		FinishedAt: timestamppb.New(m.now(w)),
	}
	w.log("%s finishes %s: %s, %s", m.name, w.nameOf(uid), outcome, reason)
}

// repeat says again how far an action is.
func (m *machine) repeat(w *world, uid string) {
	switch r := m.records[uid]; r.state {
	case finished, settled:
		w.toGateway(packet{from: m, run: m.run, result: r.result, proof: m.sign(r.result)})
	case started:
		w.toGateway(packet{from: m, run: m.run, runs: uid, percent: uint32(w.rand.IntN(100))})
	}
}

func (m *machine) sign(result *agentv1.ActionResult) v1alpha1.Envelope {
	e, err := envelope.Seal(m.key, envelope.Result, result)
	must(err)
	return order.ToResource(e)
}

// settle is an acknowledgement: what the agent said is safe, and it needs not say it again.
func (m *machine) settle(w *world, p parcel) {
	uid := p.settled
	r, t := m.records[uid], w.truth(uid)
	if r == nil || r.state != finished {
		return
	}
	r.state, r.settled = settled, w.now
	w.log("%s has settled %s", m.name, t.name)
	if _, a := w.etcd.now().byUID(uid); a != nil && a.Status.Result == nil {
		if r.told = true; !p.undone && a.Status.Admission != nil && a.Status.Admission.IdentityID == m.identity {
			w.violated("%s was told that its result of %s is safe, and it is not", m.name, t.name)
		}
	}
}

// sweep forgets what can do no harm any more.
func (m *machine) sweep(w *world) {
	for _, uid := range m.uids() {
		if r := m.records[uid]; r.state == settled && !m.floor.Before(r.expires) && w.now.Sub(r.settled) > retention {
			delete(m.records, uid)
		}
	}
}

// heartbeat lists what is not settled.
func (m *machine) heartbeat(w *world) {
	if m.made.IsZero() {
		m.made = m.now(w)
	}
	m.beat++
	p := packet{from: m, run: m.run, beat: m.beat, journal: m.journal, made: m.made, lists: map[string]bool{}}
	for uid, r := range m.records {
		if r.state != settled {
			p.lists[uid] = true
		}
	}
	w.toGateway(p)
}

// wipe loses the journal, and with it all that the agent knew.
func (m *machine) wipe(w *world) {
	m.crash(w)
	w.journals++
	m.journal, m.made, m.records = fmt.Sprintf("journal-%d", w.journals), time.Time{}, map[string]*record{}
	w.log("%s has lost its journal", m.name)
}
