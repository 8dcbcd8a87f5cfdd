package dispatch

import (
	"encoding/hex"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Agent is what is remembered of an agent's actions: little more than its journal, as long as none is open. All but ID is the Dispatcher's.
type Agent struct {
	// ID is the identity.
	ID string

	journal journal
	pace    limit.State // of its updates over HTTPS
	reads   limit.State // of actions that are not open here, on its behalf; its worker's
	work    *work       // nil: there is none
}

// journal of an agent, as it was in its last heartbeat.
type journal struct {
	id   [16]byte
	made int64 // in nanoseconds; 0: the agent does not know the time yet, and takes no action
}

func journalOf(a *agentv1.AgentInfo) (j journal) {
	if b, err := hex.DecodeString(a.GetJournalId()); err == nil && len(b) == len(j.id) {
		copy(j.id[:], b)
	}
	if t := a.GetJournalCreatedAt(); t != nil {
		j.made = t.AsTime().UnixNano()
	}
	return j
}

// String is empty where there is none.
func (j journal) String() string {
	if j.id == [16]byte{} {
		return ""
	}
	return hex.EncodeToString(j.id[:])
}

// known tells whether an agent with this journal takes actions.
func (j journal) known() bool { return j.id != [16]byte{} && j.made != 0 }

// enoughMisses: an agent may just have been about to say that it has an action.
const enoughMisses = 2

// maxRemembered bounds what is remembered of one agent's actions.
const maxRemembered = 2 * wire.MaxOpenActions

// work is what there is to do for an agent that has open actions, and what is known of them. Another gateway would do without.
type work struct {
	agent    *Agent
	line     Line      // the newest; nil: none yet
	contact  time.Time // of the newest heartbeat on it
	actions  map[string]memory
	again    time.Time // when to look even if nothing happens; zero: never
	failures int       // of looks in a row

	job             job
	queued, working bool // it waits for a worker; one is at it
}

// job is what a worker is to do.
type job struct {
	updates []update
	look    bool
}

// update is a result that waits to be written.
type update struct {
	says   *agentv1.ActionUpdate
	key    []byte // that it must be signed by: SubjectPublicKeyInfo (DER)
	answer func(*wire.Problem)
}

func (u update) size() int { return u.says.SizeVT() }

// memory is what is remembered of an action.
type memory struct {
	has    bool // the agent has said that it is on its disk
	misses int  // heartbeats in a row that did not list it since
	ended  bool // its result has come
	// When the order, and that to cancel it, last went out on this line.
	sent, cancelled time.Time
	// Since when it runs, what the agent said of that last, and when that was written, or there was nothing new in it.
	runs    time.Time
	percent uint32
	message string
	wrote   time.Time
}

// reach takes over a line. What went out on another may have been lost with it.
func (w *work) reach(line Line) {
	if line == nil || line == w.line {
		return
	}
	if unused, ok := w.line.(*Answer); ok {
		unused.finish()
	}
	if a, ok := line.(*Answer); ok {
		a.take()
	}
	w.line, w.contact = line, time.Time{}
	for uid, m := range w.actions {
		m.sent, m.cancelled = time.Time{}, time.Time{}
		w.actions[uid] = m
	}
}

// hear takes note of a heartbeat: of the actions that it lists, and of those that it does not.
func (w *work) hear(lists []*agentv1.ActionState, open []*v1alpha1.EndpointAction, now time.Time) {
	w.contact = now
	before := w.actions
	w.actions = make(map[string]memory, len(lists)+len(open))
	for _, l := range lists {
		m := before[l.GetActionUid()]
		m.has, m.misses = true, 0
		if l.GetPhase() == agentv1.ActionPhase_ACTION_PHASE_RUNNING && m.runs.IsZero() {
			m.runs = now
		}
		w.actions[l.GetActionUid()] = m
	}
	whole := len(lists) < wire.MaxOpenActions
	for _, a := range open {
		uid := string(a.UID)
		if _, listed := w.actions[uid]; listed {
			continue
		}
		m := before[uid]
		if whole && (m.has || acknowledged(a)) {
			m.misses++
		}
		if m.misses >= enoughMisses && !acknowledged(a) { // whoever has not heard that it had it would send it again, too
			m.has, m.misses = false, 0
		}
		w.actions[uid] = m
	}
}

func acknowledged(a *v1alpha1.EndpointAction) bool {
	return a.Status.Delivery != nil && a.Status.Delivery.AcknowledgedTime != nil
}

// note takes note of an update.
func (w *work) note(u *agentv1.ActionUpdate, now time.Time) {
	m, known := w.actions[u.GetActionUid()]
	if !known && len(w.actions) >= maxRemembered {
		return
	}
	m.has, m.misses = true, 0
	switch u.GetPhase() {
	case agentv1.ActionPhase_ACTION_PHASE_RUNNING:
		if m.runs.IsZero() {
			m.runs = now
		}
		m.percent, m.message = u.GetPercent(), u.GetMessage()
	case agentv1.ActionPhase_ACTION_PHASE_FINISHED:
		m.ended = true
	}
	w.actions[u.GetActionUid()] = m
}
