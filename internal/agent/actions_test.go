package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/agent/journal"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/perform"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// double does actions as a test says, and counts them.
type double struct {
	once bool
	done atomic.Int32 // how often it had its effect
	now  atomic.Int32 // how many do it now
	most atomic.Int32
	act  atomic.Pointer[func(context.Context, *perform.Task) perform.Result]
}

func newDouble(once bool) *double { return &double{once: once} }

// does makes it do something else than succeed at once.
func (d *double) does(act func(context.Context, *perform.Task) perform.Result) { d.act.Store(&act) }

func (d *double) Perform(ctx context.Context, t *perform.Task) perform.Result {
	defer d.now.Add(-1)
	if now := d.now.Add(1); now > d.most.Load() {
		d.most.Store(now)
	}
	if act := d.act.Load(); act != nil {
		return (*act)(ctx, t)
	}
	d.done.Add(1)
	return perform.Done("done")
}

func (d *double) Interrupted(context.Context, *perform.Task) (perform.Result, bool) {
	if d.once {
		return perform.Unknown(perform.ReasonInterrupted, "interrupted"), true
	}
	return perform.Result{}, false
}

// hold lets tasks wait until they are let go, or cut.
func (d *double) hold() (begun chan *perform.Task, letGo chan struct{}) {
	begun, letGo = make(chan *perform.Task, 100), make(chan struct{})
	d.does(func(ctx context.Context, t *perform.Task) perform.Result {
		begun <- t
		select {
		case <-letGo:
			d.done.Add(1)
			return perform.Done("let go")
		case <-ctx.Done():
			return perform.Cut(ctx, "held")
		}
	})
	return begun, letGo
}

func (w *world) identity() string { return w.Status().Endpoint.Identity }

// action is one for this agent.
func (w *world) action(change func(*agentv1.Action)) (order *agentv1.Envelope, uid string) {
	w.t.Helper()
	return w.fleet.Action(w.identity(), change)
}

func terminate(m *agentv1.Action) {
	m.Parameters = &agentv1.Action_TerminateProcess{TerminateProcess: &agentv1.TerminateProcess{Executable: "/usr/bin/sleep"}}
}

func quarantine(m *agentv1.Action) {
	m.Parameters = &agentv1.Action_QuarantineFile{QuarantineFile: &agentv1.QuarantineFile{Path: "/tmp/x"}}
}

func isolate(m *agentv1.Action) {
	m.Parameters = &agentv1.Action_IsolateEndpoint{IsolateEndpoint: &agentv1.IsolateEndpoint{}}
}

func release(m *agentv1.Action) {
	m.Parameters = &agentv1.Action_CancelIsolation{CancelIsolation: &agentv1.CancelIsolation{}}
}

// push sends orders on the websocket, and lets the agent hear them.
func (w *world) push(orders ...*agentv1.Envelope) {
	w.t.Helper()
	w.gateway.Session().Push(orders...)
	for !slices.ContainsFunc(w.came, func(e session.Event) bool { return e.Message.GetOrders() != nil }) {
		w.hear()
	}
}

// give has the next heartbeats bring orders, besides what they bring anyway.
func (w *world) give(orders ...*agentv1.Envelope) {
	at := w.machine.now()
	w.gateway.SetOrders(func(id string) []*agentv1.Envelope {
		return append([]*agentv1.Envelope{w.fleet.Assignment(id, "", at)}, orders...)
	})
}

// ends waits until an action's result was sent, and fails unless it is that. The machine's time stands still.
func (w *world) ends(uid string, outcome agentv1.Outcome, reason string) *agentv1.ActionResult {
	w.t.Helper()
	w.await("the end of the action", func() bool { return len(w.gateway.Results(uid)) > 0 })
	return w.has(uid, outcome, reason)
}

// has fails unless exactly that result of an action was sent.
func (w *world) has(uid string, outcome agentv1.Outcome, reason string) *agentv1.ActionResult {
	w.t.Helper()
	all := w.gateway.Results(uid)
	if len(all) != 1 || all[0].GetOutcome() != outcome || all[0].GetReason() != reason {
		w.t.Fatalf("results %v, want one, %s for %s", all, outcome, reason)
	}
	return all[0]
}

// phases are the updates of an action, shortly.
func (w *world) phases(uid string) string {
	var out []string
	for _, u := range w.gateway.Updates(uid) {
		out = append(out, strings.TrimPrefix(u.GetPhase().String(), "ACTION_PHASE_"))
	}
	return strings.Join(out, " ")
}

// settled fails unless an action is.
func (w *world) settled(uid string) {
	w.t.Helper()
	w.await("the record to be settled", func() bool { e := w.journal.Find(uid); return e != nil && e.State == journal.Settled })
}

const (
	succeeded = agentv1.Outcome_OUTCOME_SUCCEEDED
	failed    = agentv1.Outcome_OUTCOME_FAILED
	unknown   = agentv1.Outcome_OUTCOME_UNKNOWN
	cancelled = agentv1.Outcome_OUTCOME_CANCELLED
	refusal   = agentv1.Outcome_OUTCOME_REFUSED
)

// A pushed action is acknowledged, done and reported within a moment; a whole heartbeat is what was asked for. The same order again changes
// nothing: what became of it is said once more.
func TestActionIsPushed(t *testing.T) {
	w := newWorld(t)
	w.online()
	before := len(w.gateway.Beats())
	order, uid := w.action(nil)
	w.push(order)
	r := w.ends(uid, succeeded, "Done")
	if r.GetMessage() != "full report received in 0 ms" || r.GetActionDigest() != fleettest.Digest(order) || r.GetStartedAt() == nil {
		t.Errorf("result %v", r)
	}
	w.settled(uid)
	beats := w.gateway.Beats()[before:]
	if len(beats) != 1 || beats[0].GetInventory() == nil || beats[0].GetCapabilities() == nil || beats[0].GetVitals() == nil {
		t.Fatalf("heartbeats %v", beats)
	}
	if open := beats[0].GetOpenActions(); len(open) != 1 || open[0].GetActionUid() != uid || open[0].GetPhase() != agentv1.ActionPhase_ACTION_PHASE_RUNNING {
		t.Errorf("it lists %v as open", open)
	}
	if got := w.phases(uid); got != "ACKNOWLEDGED FINISHED" {
		t.Errorf("told %s", got)
	}
	w.live(10 * time.Minute)
	if last := w.gateway.LastBeat(); len(last.GetOpenActions()) != 0 || last.GetInventory() != nil {
		t.Errorf("later it lists %v", last.GetOpenActions())
	}
	w.push(order)
	w.live(5 * time.Minute)
	if got := w.phases(uid); got != "ACKNOWLEDGED FINISHED FINISHED" {
		t.Errorf("told %s", got)
	}
	w.has(uid, succeeded, "Done")
}

// Without a websocket an action comes with a heartbeat, and its result goes by a request of its own, at once.
func TestActionComesWithAHeartbeat(t *testing.T) {
	w := newWorldOverHTTPS(t)
	w.online()
	order, uid := w.action(nil)
	w.give(order)
	before := len(w.gateway.Beats())
	w.hurry()
	w.live(time.Second)
	w.has(uid, succeeded, "Done")
	beats := w.gateway.Beats()[before:]
	if len(beats) != 2 || beats[1].GetInventory() == nil || beats[1].GetCapabilities() == nil {
		t.Errorf("%d heartbeats, %v", len(beats), beats)
	}
	if got := w.gateway.Updates(uid); got[0].Over != "HTTPS" || w.phases(uid) != "FINISHED" || len(w.gateway.Requests(wire.PathActions)) != 1 {
		t.Errorf("told %s", w.phases(uid))
	}
	w.settled(uid)
	w.live(time.Hour) // each heartbeat brings it again
	w.has(uid, succeeded, "Done")
	w.expect("Online")
}

// What is refused is on the disk and told like any other end.
func TestRefusedActions(t *testing.T) {
	w := newWorld(t)
	w.orders(1, time.Minute)
	w.online()
	policy, err := envelope.Seal(w.fleet.Order, envelope.Policy, &agentv1.Policy{
		FleetId: w.fleet.ID, PolicyId: policyID, Revision: 2, IssuedAt: timestamppb.New(w.machine.now()), DisabledActions: []string{"TerminateProcess"},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.push(policy)
	for name, c := range map[string]struct {
		change          func(*agentv1.Action)
		reason, message string
	}{
		"too late": {func(m *agentv1.Action) { m.ExpiresAt = timestamppb.New(w.machine.now()) }, "PastDeadline", "its starting deadline, "},
		"not capable": {func(m *agentv1.Action) {
			m.Parameters = &agentv1.Action_LiveTerminal{LiveTerminal: &agentv1.LiveTerminal{}}
		}, "Unsupported", "this agent cannot do LiveTerminal"},
		"requires too much":  {func(m *agentv1.Action) { m.Requires = []string{"PerformHeartbeat", "Teleport"} }, "Unsupported", "it needs Teleport, which this agent has not"},
		"asks what is new":   {func(m *agentv1.Action) { m.Parameters = nil }, "Unsupported", "this version of the agent does not know what is asked for"},
		"out of bounds":      {func(m *agentv1.Action) { m.ActiveDeadline = durationpb.New(48 * time.Hour) }, "Unsupported", "this version of the agent does not understand what is asked for: active_deadline"},
		"against the policy": {terminate, "DisabledByPolicy", "the endpoint's policy disables TerminateProcess"},
	} {
		order, uid := w.action(c.change)
		w.push(order)
		r := w.ends(uid, refusal, c.reason)
		if !strings.HasPrefix(r.GetMessage(), c.message) || r.GetStartedAt() != nil || r.GetActionDigest() != fleettest.Digest(order) {
			t.Errorf("%s: %v", name, r)
		}
		w.settled(uid)
		if got := w.phases(uid); got != "FINISHED" {
			t.Errorf("%s: told %s", name, got)
		}
	}
	if n := w.doubles["TerminateProcess"].done.Load(); n != 0 {
		t.Errorf("%d were done all the same", n)
	}
	w.live(2 * time.Minute)
	if last := w.gateway.LastBeat(); last.GetRejectedOrders() != 0 {
		t.Errorf("counted as rejected: %d, %s", last.GetRejectedOrders(), last.GetLastRejection())
	}
}

// What is not to be believed, or not known, leaves nothing behind: it is counted.
func TestRejectedActions(t *testing.T) {
	w := newWorld(t)
	w.online()
	forger := *fleettest.New(t, w.machine.now)
	forger.ID = w.fleet.ID
	id := w.identity()
	seal := func(t envelope.Type, payload string) *agentv1.Envelope {
		e, err := envelope.Sign(w.fleet.Order, t, []byte(payload))
		if err != nil {
			w.t.Fatal(err)
		}
		return e
	}
	good, uid := w.action(nil)
	asCancel := seal(envelope.Cancel, string(good.GetPayload()))
	forged, _ := forger.Action(id, nil)
	change := func(change func(*agentv1.Action)) *agentv1.Envelope { e, _ := w.action(change); return e }
	early, other := change(func(m *agentv1.Action) { m.IssuedAt = timestamppb.New(w.journalCreated.Add(-time.Millisecond)) }), change(func(m *agentv1.Action) { m.IdentityId = policyID })
	rejected := 0
	for _, c := range []struct {
		order  *agentv1.Envelope
		reason string
	}{
		{forged, "action: SignatureInvalid"},
		{forger.Cancel(good), "cancel: SignatureInvalid"},
		{asCancel, "cancel: Malformed"},
		{seal(envelope.Action, `{"fleetId":5}`), "action: Malformed"},
		{change(func(m *agentv1.Action) { m.ActionUid = "../x" }), "action: Malformed"},
		{change(func(m *agentv1.Action) { m.IssuedAt = nil }), "action: Malformed"},
		{change(func(m *agentv1.Action) { m.FleetId = policyID }), "action: OtherFleet"},
		{other, "action: OtherIdentity"},
		{w.fleet.Cancel(other), "cancel: OtherIdentity"},
		{early, "action: OlderThanJournal"},
		{w.fleet.Cancel(early), "cancel: OlderThanJournal"},
	} {
		w.push(c.order)
		w.live(time.Second)
		rejected++
		if s := w.Status().Orders; s.LastRejection != c.reason || s.Rejected != uint64(rejected) {
			t.Errorf("%d rejected, the last for %q, want %d, %q", s.Rejected, s.LastRejection, rejected, c.reason)
		}
	}
	if all := w.gateway.Updates(""); len(all) != 0 {
		t.Errorf("told %v", all)
	}
	if uids, err := w.Dir.Actions(); err != nil || len(uids) != 0 {
		t.Errorf("records %v, %v", uids, err)
	}
	w.push(good)
	w.ends(uid, succeeded, "Done")
}

// A full journal takes nothing, says so, and takes again once there is room.
func TestJournalIsFull(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.gateway.SetAck(func(fleettest.Update) *agentv1.Ack { return fleettest.Refusal(&wire.Problem{Name: wire.NotReady}) })
	for range journal.MaxOpen / 32 {
		var batch []*agentv1.Envelope
		for range 32 {
			order, _ := w.action(terminate)
			batch = append(batch, order)
		}
		w.push(batch...)
		w.live(time.Second)
	}
	late, uid := w.action(terminate)
	w.push(late, w.fleet.Cancel(late))
	w.live(6 * time.Minute)
	last := w.gateway.LastBeat()
	if !last.GetJournalFull() || len(last.GetOpenActions()) != wire.MaxOpenActions || last.GetRejectedOrders() != 2 || w.journal.Find(uid) != nil {
		t.Errorf("full: %t; %d open actions; %d rejected, %s", last.GetJournalFull(), len(last.GetOpenActions()), last.GetRejectedOrders(), last.GetLastRejection())
	}
	w.gateway.SetAck(nil)
	w.live(time.Minute)
	w.push(late)
	w.ends(uid, succeeded, "Done")
	if n := w.doubles["TerminateProcess"]; n.done.Load() != journal.MaxOpen+1 || n.most.Load() > maxTasks {
		t.Errorf("%d were done, %d at once", n.done.Load(), n.most.Load())
	}
	w.live(6 * time.Minute)
	if last := w.gateway.LastBeat(); last.GetJournalFull() || len(last.GetOpenActions()) != 0 {
		t.Errorf("still full: %t, %d", last.GetJournalFull(), len(last.GetOpenActions()))
	}
}

// A result that nobody acknowledges is told again, every 30 s, also on another websocket and with another key; and no more is ever unanswered
// than may be.
func TestResultIsRepeated(t *testing.T) {
	w := newWorld(t)
	w.gateway.Lifetime = time.Hour
	w.online()
	silence := func(fleettest.Update) *agentv1.Ack { return nil }
	w.gateway.SetAck(silence)
	order, uid := w.action(nil)
	w.push(order)
	w.ends(uid, succeeded, "Done")
	w.deaf = toAnswers // none come to updates
	tick := func(d time.Duration) {
		for range int(d / time.Second) {
			w.live(time.Second)
			w.pause()
		}
	}
	tick(95 * time.Second)
	if n := len(w.gateway.Updates(uid)) - 1; n != 4 {
		t.Errorf("told %d times in 95s", n)
	}
	tick(10 * time.Minute)
	if n := len(w.gateway.Updates(uid)); n > 8 {
		t.Errorf("%d updates without an answer", n)
	}
	w.gateway.Session().Cut()
	w.pause()
	w.deaf = toNothing
	w.gateway.SetAck(func(fleettest.Update) *agentv1.Ack {
		return fleettest.Refusal(&wire.Problem{Name: wire.NotReady, RetryAfter: 2 * time.Minute})
	})
	before := len(w.gateway.Updates(uid))
	w.live(10 * time.Minute)
	if n := len(w.gateway.Updates(uid)) - before; n < 4 || n > 6 {
		t.Errorf("told %d times in ten minutes where the server asks for two in between", n)
	}
	first := w.leaf().SerialNumber
	w.live(30 * time.Minute)
	if w.leaf().SerialNumber.Cmp(first) == 0 {
		t.Fatal("it did not renew")
	}
	w.gateway.SetAck(nil)
	w.live(5 * time.Minute) // the gateway takes results by the key of now only
	w.settled(uid)
	w.has(uid, succeeded, "Done")
	before = len(w.gateway.Updates(uid))
	w.live(time.Hour)
	if n := len(w.gateway.Updates(uid)) - before; n != 0 {
		t.Errorf("told %d times after it was acknowledged", n)
	}
}

// pause lets what was sent arrive, where nothing comes back that could be waited for.
func (w *world) pause() {
	select {
	case event := <-w.line.Events():
		w.came = append(w.came, event)
	case <-time.After(2 * time.Millisecond):
	}
}

// An action that takes longer is told to run, with its progress, now and then.
func TestLongAction(t *testing.T) {
	w := newWorld(t)
	w.online()
	begun, letGo := w.doubles["QuarantineFile"].hold()
	order, uid := w.action(quarantine)
	w.push(order)
	w.deaf = toActions
	w.Step(t.Context())
	task := <-begun
	w.live(time.Second)
	if got := w.phases(uid); got != "ACKNOWLEDGED" {
		t.Errorf("after a second: told %s", got)
	}
	w.live(2 * time.Second)
	if got := w.phases(uid); got != "ACKNOWLEDGED RUNNING" {
		t.Errorf("after three seconds: told %s", got)
	}
	for percent := range uint32(50) {
		go task.Tell(t.Context(), percent, "moving")
		w.hear()
		w.live(time.Second)
	}
	w.live(time.Minute)
	updates := w.gateway.Updates(uid)
	if len(updates) != 4 || updates[2].GetMessage() != "moving" || updates[3].GetPercent() != 49 {
		t.Errorf("told %v", updates)
	}
	if open := w.journal.Open(); len(open) != 1 || open[0].State != journal.Started {
		t.Errorf("open: %v", open)
	}
	close(letGo)
	w.deaf = toNothing
	w.ends(uid, succeeded, "Done")
	w.settled(uid)
}

// At most eight at once; the others wait, and those that waited too long are told so.
func TestActionsWait(t *testing.T) {
	w := newWorld(t)
	w.online()
	d := w.doubles["TerminateProcess"]
	begun, letGo := d.hold()
	w.deaf = toActions
	var uids []string
	for i := range maxTasks + 2 {
		order, uid := w.action(func(m *agentv1.Action) {
			terminate(m)
			m.ExpiresAt = timestamppb.New(w.machine.now().Add(time.Duration(10-i) * time.Minute))
		})
		uids = append(uids, uid)
		w.push(order)
		w.Step(t.Context())
	}
	for range maxTasks {
		<-begun
	}
	w.live(90 * time.Second)
	w.has(uids[maxTasks+1], refusal, "PastDeadline")
	close(letGo)
	w.deaf = toNothing
	for _, uid := range uids[:maxTasks+1] {
		w.ends(uid, succeeded, "Done")
	}
	if d.most.Load() != maxTasks || d.done.Load() != maxTasks+1 {
		t.Errorf("%d at once, %d done", d.most.Load(), d.done.Load())
	}
}

// Whatever the executor does about it, its time is bounded.
func TestActionTimesOut(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.doubles["TerminateProcess"].hold()
	order, uid := w.action(func(m *agentv1.Action) { terminate(m); m.ActiveDeadline = durationpb.New(time.Second) })
	w.push(order)
	if r := w.ends(uid, failed, "TimedOut"); r.GetMessage() != "its time was over: held" {
		t.Errorf("result %v", r)
	}
}

// An executor that fails by its own fault takes nobody with it.
func TestExecutorPanics(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.doubles["QuarantineFile"].does(func(context.Context, *perform.Task) perform.Result { panic("oh") })
	order, uid := w.action(quarantine)
	w.push(order)
	w.ends(uid, unknown, "Internal")
	w.settled(uid)
}

// A cancel, at each moment at which it can come.
func TestCancel(t *testing.T) {
	w := newWorld(t)
	w.online()
	d := w.doubles["TerminateProcess"]

	// Before the action: it is not begun when it comes.
	order, uid := w.action(terminate)
	w.push(w.fleet.Cancel(order))
	if r := w.ends(uid, cancelled, "Cancelled"); r.GetActionDigest() != fleettest.Digest(order) || r.GetStartedAt() != nil {
		t.Errorf("result %v", r)
	}
	w.push(order)
	w.live(time.Second)
	w.crash()
	w.online()
	w.push(order)
	w.live(time.Second)
	w.has(uid, cancelled, "Cancelled")

	// With the action: cancels are obeyed first.
	order, uid = w.action(terminate)
	w.push(order, w.fleet.Cancel(order))
	w.ends(uid, cancelled, "Cancelled")

	// While it waits for others, and while it runs.
	begun, letGo := d.hold()
	w.deaf = toActions
	var first, last *agentv1.Envelope
	var firstUID, lastUID string
	for i := range maxTasks + 1 {
		order, uid := w.action(terminate)
		if i == 0 {
			first, firstUID = order, uid
		}
		last, lastUID = order, uid
		w.push(order)
		w.Step(t.Context())
	}
	for range maxTasks {
		<-begun
	}
	w.push(w.fleet.Cancel(last))
	if r := w.ends(lastUID, cancelled, "Cancelled"); r.GetMessage() != "taken back before it began" {
		t.Errorf("result %v", r)
	}
	w.push(w.fleet.Cancel(first), w.fleet.Cancel(first))
	if r := w.ends(firstUID, cancelled, "Cancelled"); r.GetMessage() != "taken back while it ran: held" || r.GetStartedAt() == nil {
		t.Errorf("result %v", r)
	}
	close(letGo)
	w.deaf = toNothing
	w.live(time.Second)
	if d.done.Load() != maxTasks-1 {
		t.Errorf("%d done", d.done.Load())
	}

	// After its end: what became of it is told once more.
	d.act.Store(nil)
	order, uid = w.action(terminate)
	w.push(order)
	w.ends(uid, succeeded, "Done")
	w.settled(uid)
	before := len(w.gateway.Updates(uid))
	w.push(w.fleet.Cancel(order))
	w.live(time.Minute)
	if n := len(w.gateway.Updates(uid)) - before; n != 1 {
		t.Errorf("told %d times", n)
	}
	w.has(uid, succeeded, "Done")
}

// Of two actions on the same topic the later counts, also after a restart, and both are never done at once.
func TestTopics(t *testing.T) {
	w := newWorld(t)
	w.online()
	base := w.machine.now()
	at := func(seconds int, change func(*agentv1.Action)) func(*agentv1.Action) {
		return func(m *agentv1.Action) {
			change(m)
			m.IssuedAt = timestamppb.New(base.Add(time.Duration(seconds) * time.Second))
		}
	}
	newer, newerUID := w.action(at(2, isolate))
	older, olderUID := w.action(at(1, release))
	w.push(newer)
	w.ends(newerUID, succeeded, "Done")
	w.push(older)
	w.ends(olderUID, refusal, "Superseded")
	w.crash()
	w.online()
	same, sameUID := w.action(at(2, release))
	w.push(same)
	w.ends(sameUID, refusal, "Superseded")

	// Accepted together, the earlier is not even begun.
	early, earlyUID := w.action(at(3, isolate))
	late, lateUID := w.action(at(4, release))
	w.push(early, late)
	w.ends(earlyUID, refusal, "Superseded")
	w.ends(lateUID, succeeded, "Done")

	begun, letGo := w.doubles["IsolateEndpoint"].hold()
	w.deaf = toActions
	w.doubles["CancelIsolation"].done.Store(0)
	first, firstUID := w.action(at(5, isolate))
	second, secondUID := w.action(at(6, release))
	w.push(first)
	w.Step(t.Context())
	<-begun
	w.push(second)
	w.live(time.Second)
	if n := w.doubles["CancelIsolation"].done.Load(); n != 0 {
		t.Error("done beside each other")
	}
	close(letGo)
	w.deaf = toNothing
	w.ends(firstUID, succeeded, "Done")
	w.ends(secondUID, succeeded, "Done")
}

// Without the fleet's time nothing is begun: not before the first beacon, and after a restart not before the next.
func TestNothingBeginsWithoutTheTime(t *testing.T) {
	w := newWorld(t)
	w.gateway.SetReply(func(r *agentv1.HeartbeatReply) { r.Beacon = nil })
	w.online()
	order, uid := w.action(terminate)
	w.give(order)
	w.live(10 * time.Minute)
	if s := w.Status().Orders; s.LastRejection != "action: TimeUnknown" || len(w.gateway.Updates(uid)) != 0 {
		t.Errorf("orders %+v, told %s", s, w.phases(uid))
	}
	w.gateway.SetReply(nil)
	w.give()
	w.live(6 * time.Minute)

	w.gateway.SetReply(func(r *agentv1.HeartbeatReply) { r.Beacon = nil })
	order, uid = w.action(terminate)
	w.give(order)
	w.machine.skew = 10 * day // nor is the machine's clock believed that says that it is too late
	w.crash()
	w.live(10 * time.Minute)
	if got := w.phases(uid); got != "ACKNOWLEDGED" && got != "" || w.doubles["TerminateProcess"].done.Load() != 0 {
		t.Errorf("told %s", got)
	}
	if last := w.gateway.LastBeat(); len(last.GetOpenActions()) != 1 || last.GetOpenActions()[0].GetPhase() != agentv1.ActionPhase_ACTION_PHASE_ACKNOWLEDGED {
		t.Errorf("open %v", last.GetOpenActions())
	}
	w.gateway.SetReply(nil)
	w.live(6 * time.Minute)
	w.has(uid, succeeded, "Done")
}

// A disk that takes no new record: nothing is acknowledged or done, the endpoint stays online and says what is wrong, and takes the action
// once there is room. One that takes no result keeps the action from being reported, and from being done again.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	w.online()
	order, uid := w.action(terminate)
	block := filepath.Join(w.path, "actions", uid+".tmp")
	mkdir := func() {
		if err := os.MkdirAll(filepath.Join(block, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	mkdir()
	w.push(order)
	w.live(2 * time.Minute)
	if w.doubles["TerminateProcess"].done.Load() != 0 || w.phases(uid) != "" || len(w.gateway.LastBeat().GetOpenActions()) != 0 {
		t.Errorf("told %s", w.phases(uid))
	}
	_ = os.RemoveAll(block)
	begun, letGo := w.doubles["TerminateProcess"].hold()
	w.push(order)
	w.deaf = toActions
	w.Step(t.Context())
	<-begun
	mkdir()
	close(letGo)
	w.hear()
	w.live(2 * time.Minute)
	w.expect("Online", "state-unwritable")
	if got := w.phases(uid); got != "ACKNOWLEDGED" {
		t.Errorf("told %s", got)
	}
	w.push(order)
	w.live(time.Minute)
	_ = os.RemoveAll(block)
	w.deaf = toNothing
	w.live(time.Minute)
	w.expect("Online")
	w.has(uid, succeeded, "Done")
	w.settled(uid)
	if n := w.doubles["TerminateProcess"].done.Load(); n != 1 {
		t.Errorf("done %d times", n)
	}
}

// What was settled is forgotten when it is old, and could not begin again.
func TestOldActionsAreDropped(t *testing.T) {
	w := newWorldOverHTTPS(t)
	w.Timing.HeartbeatInterval = 12 * time.Hour
	w.online()
	order, uid := w.action(func(m *agentv1.Action) { m.ExpiresAt = timestamppb.New(w.machine.now().Add(40 * day)) })
	short, shortUID := w.action(nil)
	w.give(order, short)
	w.live(14 * time.Hour)
	w.has(uid, succeeded, "Done")
	w.give()
	w.live(35 * day)
	if w.journal.Find(uid) == nil || w.journal.Find(shortUID) != nil {
		t.Errorf("after 35 days: %v, %v", w.journal.Find(uid), w.journal.Find(shortUID))
	}
	// By the floor that is on the disk: after a crash that is what time it is at least.
	blocked := filepath.Join(w.path, "state.tmp")
	if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.live(6 * day)
	if w.journal.Find(uid) == nil {
		t.Error("forgotten by a floor that is not on the disk")
	}
	if err := os.RemoveAll(blocked); err != nil {
		t.Fatal(err)
	}
	w.live(14 * time.Hour)
	if w.journal.Find(uid) != nil {
		t.Error("after 41 days it is still there")
	}
	w.give(order)
	w.live(14 * time.Hour)
	if all := w.gateway.Results(uid); len(all) != 2 || all[1].GetReason() != orders.PastDeadline {
		t.Errorf("results %v", all)
	}
}

// A machine that enrols anew owes nobody its predecessor's results.
func TestAnotherIdentity(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.gateway.SetAck(func(fleettest.Update) *agentv1.Ack { return fleettest.Refusal(&wire.Problem{Name: wire.NotReady}) })
	order, uid := w.action(terminate)
	unknownOrder, unknownUID := w.action(terminate)
	w.push(order, w.fleet.Cancel(unknownOrder))
	w.ends(uid, succeeded, "Done")
	w.ends(unknownUID, cancelled, "Cancelled")
	w.crash()
	if err := os.RemoveAll(filepath.Join(w.path, "identity")); err != nil {
		t.Fatal(err)
	}
	w.config.Token = w.fleet.Token()
	w.crash()
	w.Token = w.fleet.Token()
	w.online()
	w.live(time.Minute)
	if w.gateway.Enrolled() != 2 || len(w.gateway.LastBeat().GetOpenActions()) != 0 || w.journal.Find(uid) != nil || w.journal.Find(unknownUID) != nil {
		t.Errorf("%d identities, open %v", w.gateway.Enrolled(), w.gateway.LastBeat().GetOpenActions())
	}
	w.push(order)
	w.live(time.Second)
	if s := w.Status().Orders; s.LastRejection != "action: OtherIdentity" {
		t.Errorf("orders %+v", s)
	}
}
