package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	mathrand "math/rand/v2"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/fetch"
	"github.com/rollcall-dev/rollcall/internal/agent/journal"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/outbox"
	"github.com/rollcall-dev/rollcall/internal/agent/perform"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Host is the machine that the agent speaks for.
type Host interface {
	Clock() liveness.Reading
	IDs() (machine, boot string)
	Hostname() string
	Inventory(context.Context) *agentv1.Inventory
	Vitals(context.Context) *agentv1.Vitals
}

// Config is what an engine needs.
type Config struct {
	Dir  *state.Dir
	Host Host
	// Server is https://host:port; Proxy an HTTP CONNECT proxy, nil for none.
	Server, Proxy *url.URL
	Version       string
	Platform      string
	// Token to enrol with, if there is no identity yet; zero: the one that the directory keeps.
	Token identity.Token
	// Executors do the types of action that this machine can do, besides those that are the agent's own.
	Executors perform.Executors
	// NoWebsocket keeps it to heartbeats over HTTPS, whatever the policy says.
	NoWebsocket bool
	Timing      Timing
	Log         logr.Logger
	// SpoilContent, where it is set, changes what was downloaded before it is verified: for simulations of a damaged disk.
	SpoilContent func([]byte)
	// Random is in [0,1), nil for math/rand.
	Random func() float64
	// Stepped is called after each step, and while there is nothing to do every Timing.Websocket.Look.
	Stepped func()
}

// Engine is the agent. Run or Step drive it, from one goroutine; Status, Connected, Actions and Checkin may be called from any.
type Engine struct {
	Config
	log      logr.Logger // as it was given; Log names the identity too
	clock    *liveness.Clock
	instance string
	asks     chan chan struct{}
	snapshot atomic.Pointer[snapshot]

	// What is on disk, or about to be.
	kept           *statev1.AgentState
	tokenKept      bool
	pin            [32]byte
	chain          []*agentv1.Envelope
	journalCreated time.Time
	id             *state.Identity
	book           orders.Book

	client     *client.Client
	start      task
	enrollment task
	renewal    task
	beat       task
	unwritable *wire.Problem

	// The websocket: what is decided about it, the connection, what came on it and is not looked at yet, and when the machine last looked.
	session session.Machine
	line    *session.Line
	came    []session.Event
	looked  liveness.Reading
	telling sections // what the heartbeat says that is on its way

	// Actions: who does them, what became of each, and what is to be told of that; what was told on this websocket and is not answered yet; the
	// floor of each topic, below which an action is superseded; when what the disk did not take is written again.
	executors      perform.Executors
	capabilities   []string
	journal        *journal.Journal
	runner         *perform.Runner
	events         []perform.Event
	box            outbox.Box
	told           map[uint64]outbox.Update
	updates        task
	floors         map[orders.Topic]time.Time
	unjournaled    *wire.Problem
	rewriteAt      time.Duration
	reports        []*report
	reportRequests chan *report

	content contentKeeper

	// What the last heartbeats said and heard.
	reported       sections
	asked          sections
	overHTTPS      bool // the last heartbeat went that way
	news           bool // something to be told at once
	slim           bool
	streak         int // heartbeats that followed each other at once
	incomplete     int // heartbeats in a row without all that is to be obeyed
	gateway        string
	acceptedAt     time.Duration
	rejected       uint64
	lastRejection  string
	trustAsked     bool
	judgedByBeacon string
}

// task is something that is done again and again.
type task struct {
	name     string
	due      time.Duration // since boot
	doneAt   time.Duration // the last attempt; 0 for none
	failures int           // in a row
	problem  *wire.Problem
	waiting  bool // accepted, and to be asked for again

	succeeded, failed uint64 // since the start
}

// New makes an engine. It reads nothing yet and contacts nobody.
func New(c Config) *Engine {
	if c.Random == nil {
		c.Random = mathrand.Float64
	}
	if c.Stepped == nil {
		c.Stepped = func() {}
	}
	e := &Engine{
		Config: c, log: c.Log, instance: randomID(), asks: make(chan chan struct{}), clock: liveness.NewClock(time.Time{}, 0), kept: &statev1.AgentState{},
		start: task{name: "start"}, enrollment: task{name: "enrolment"}, renewal: task{name: "renewal", due: never}, beat: task{name: "heartbeat"},
		line: session.NewLine(c.Host.Clock), looked: c.Host.Clock(),
		journal: &journal.Journal{}, runner: perform.NewRunner(), told: map[uint64]outbox.Update{}, updates: task{name: "telling of actions"}, floors: map[orders.Topic]time.Time{},
		content: contentKeeper{fetcher: fetch.New(), next: never},
		box:     outbox.Box{Repeat: c.Timing.ActionRepeat, Progress: c.Timing.ActionProgress}, rewriteAt: never, reportRequests: make(chan *report),
	}
	e.executors, e.capabilities = capable(c.Executors, e.reportRequests)
	e.session.Timing = c.Timing.websocket()
	e.publish()
	return e
}

// Run steps until ctx ends.
func (e *Engine) Run(ctx context.Context) {
	defer e.stop()
	var answers []chan struct{}
	for {
		wait := e.Step(ctx)
		e.Stepped()
		if wait > 0 && !e.session.Busy() || ctx.Err() != nil { // whoever asked wants to know how it ended
			for _, a := range answers {
				close(a)
			}
			answers = nil
		}
		if asked := e.rest(ctx, wait); asked != nil {
			answers = append(answers, asked)
			e.hurry()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// rest waits for the next step: until it is time, something comes, or somebody asks. Timers stand still while a machine sleeps, the boottime
// does not: it looks often whether that has happened.
func (e *Engine) rest(ctx context.Context, wait time.Duration) (asked chan struct{}) {
	end := later(e.boot(), wait)
	for {
		timer := time.NewTimer(min(wait, e.session.Timing.Look))
		select {
		case <-ctx.Done():
		case asked = <-e.asks:
		case event := <-e.line.Events():
			e.came = append(e.came, event)
		case event := <-e.runner.Events():
			e.events = append(e.events, event)
		case r := <-e.reportRequests:
			e.wantReport(r)
		case r := <-e.content.fetcher.Results():
			e.content.results = append(e.content.results, r)
		case <-timer.C:
			if now := e.Host.Clock(); now.Boot < end && !slept(e.looked, now) {
				wait = end - now.Boot
				e.Stepped()
				continue
			}
		}
		timer.Stop()
		return asked
	}
}

// stop lets everything go.
func (e *Engine) stop() {
	e.settleActions()
	e.content.fetcher.Stop()
	e.line.End(wire.CloseNormal, "")
	e.line.Wait()
	if e.client != nil {
		e.client.Close()
	}
}

// Checkin makes the agent try now what it would try later, and returns when it has tried.
func (e *Engine) Checkin(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case e.asks <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *Engine) hurry() {
	now := e.boot()
	e.start.due, e.enrollment.due, e.beat.due, e.updates.due = now, now, now, min(e.updates.due, now)
	e.session.Hurry(now)
	if e.renewal.problem != nil || e.renewal.waiting {
		e.renewal.due = now
	}
}

// Step does what is due and returns how long until the next thing is.
func (e *Engine) Step(ctx context.Context) time.Duration {
	if e.kept.GetEpoch() == 0 {
		e.perform(ctx, &e.start, e.begin)
	}
	if e.kept.GetEpoch() != 0 {
		if e.id == nil {
			e.perform(ctx, &e.enrollment, e.enroll)
		}
		if e.id != nil {
			e.attend(ctx)
			if !e.opening() {
				e.perform(ctx, &e.renewal, e.renew)
			}
			e.beatIfDue(ctx)
			e.tell(ctx)
			e.act()
			e.tell(ctx)
			e.keepContent()
		}
	}
	e.publish()
	if next := e.next(); next != never {
		return max(0, next-e.boot())
	}
	return never
}

func (e *Engine) next() time.Duration {
	switch {
	case e.kept.GetEpoch() == 0:
		return e.start.due
	case e.id == nil:
		return e.enrollment.due
	}
	next := min(e.session.Next(), e.beatDue(), e.tellDue(), e.nextDeadline(), e.rewriteAt, e.content.next)
	if e.opening() {
		return next
	}
	return min(next, e.renewal.due)
}

// perform does a task if it is due, and decides when it is next.
func (e *Engine) perform(ctx context.Context, t *task, do func(context.Context) (time.Duration, error)) {
	if e.boot() < t.due || ctx.Err() != nil {
		return
	}
	next, err := do(ctx)
	if err != nil && (ctx.Err() != nil || errors.Is(err, errYielded)) {
		return // told to stop, or to do it another way: no fault of the server's
	}
	e.finish(ctx, t, next, err)
}

// finish notes how a task ended, and decides when it is next.
func (e *Engine) finish(ctx context.Context, t *task, next time.Duration, err error) {
	t.doneAt = e.boot()
	if accepted, ok := errors.AsType[*client.Accepted](err); ok {
		t.waiting, t.problem, t.failures = true, nil, 0
		t.due = t.doneAt + session.Jitter(max(accepted.RetryAfter, e.Timing.RetryBase), 0.2, e.Random())
		return
	}
	if err != nil {
		e.failed(ctx, t, problem.Of(err))
		return
	}
	if t.problem != nil {
		e.Log.Info(t.name + " works again")
	}
	t.problem, t.failures, t.waiting = nil, 0, false
	t.succeeded++
	t.due = later(t.doneAt, next)
}

func (e *Engine) failed(ctx context.Context, t *task, p *wire.Problem) {
	log := e.Log
	if t.problem != nil && t.problem.Name == p.Name {
		log = log.V(1) // said already
	}
	log.Info(t.name+" failed: "+p.Error(), "reason", p.Name)
	t.failures++
	t.failed++
	t.problem, t.waiting = p, false
	r := e.Timing.react(p.Name, e.interval())
	if r.trust && !e.trustAsked {
		e.tryRefreshTrust(ctx)
	}
	e.trustAsked = r.trust
	if r.renew && t == &e.beat && e.renewal.problem == nil {
		e.renewal.due = t.doneAt
	}
	t.due = later(t.doneAt, e.Timing.after(r, p.RetryAfter, t.failures, e.Random()))
}

// later is at + wait, or never.
func later(at, wait time.Duration) time.Duration {
	if wait > never-at {
		return never
	}
	return at + wait
}

// begin takes up what the directory holds and counts this start, on disk, before anybody is contacted.
func (e *Engine) begin(context.Context) (time.Duration, error) {
	kept, err := e.Dir.Load()
	if err != nil {
		return 0, problem.New(problem.StateUnwritable, err.Error())
	}
	id, err := e.Dir.Identity()
	if err != nil {
		return 0, problem.New(problem.StateUnwritable, err.Error())
	}
	if kept == nil {
		kept = &statev1.AgentState{}
		if id != nil { // the count was lost: start again where no count of starts reaches, or the fleet would take this for a clone
			kept.Epoch = uint64(max(0, e.Host.Clock().Wall.Unix()))
		}
	}
	hasJournal := e.Dir.HasJournal()
	// A state with a floor is from when there was a journal: there is one since time is known.
	if kept.JournalId == "" || !hasJournal && kept.IsolationFloor != nil {
		kept.JournalId, kept.JournalCreatedAt = randomID(), nil
	}
	kept.Epoch++
	if err := e.takeUp(kept, id); err != nil {
		return 0, err
	}
	if err := e.Dir.Save(kept); err != nil {
		return 0, problem.New(problem.StateUnwritable, err.Error())
	}
	if !hasJournal { // after its name: a crash in between leaves a journal that is still missing
		if err := e.Dir.MakeJournal(); err != nil {
			return 0, problem.New(problem.StateUnwritable, err.Error())
		}
	}
	e.kept = kept
	for _, damage := range e.Dir.Damaged() {
		e.Log.Info("a damaged file was set aside: " + damage)
	}
	if id != nil {
		e.beat.due = e.boot() + time.Duration(e.Random()*float64(min(10*time.Second, e.interval()/10)))
		e.want()
		e.session.Postpone(e.beat.due)
	}
	e.Log.Info("agent starts", "version", e.Version, "epoch", kept.Epoch, "server", e.Server.String())
	return never, nil
}

// takeUp restores trust and orders.
func (e *Engine) takeUp(kept *statev1.AgentState, id *state.Identity) error {
	pin, pinned, err := e.Dir.RootPin()
	if err != nil {
		return problem.New(problem.StateUnwritable, err.Error())
	}
	e.clock = liveness.NewClock(asTime(kept.GetTimeFloor()), kept.GetClockSkew().AsDuration())
	e.pin, e.book = pin, orders.Book{}
	if id != nil {
		e.be(id)
	}
	if pinned {
		if trust, err := identity.OpenTrust(pin, kept.GetTrust()); err == nil {
			e.book.Trust, e.chain = trust, kept.GetTrust()
		} // else it is asked for anew, from the pin
	}
	e.journalCreated = asTime(kept.GetJournalCreatedAt())
	e.book.Restore(kept.GetAssignment(), kept.GetPolicies())
	e.book.RestoreOffers(kept.GetContentOffers())
	if err := e.takeUpContent(); err != nil {
		return err
	}
	e.floors[orders.Isolation], e.floors[orders.Proxy] = asTime(kept.GetIsolationFloor()), asTime(kept.GetProxyFloor())
	return e.takeUpActions()
}

// be takes an identity.
func (e *Engine) be(id *state.Identity) {
	e.id, e.book.IdentityID = id, id.ID
	e.Log = e.log.WithValues("identity", id.ID)
}

// save writes what changed. An agent on a full disk goes on with what it has in memory.
func (e *Engine) save() {
	next := &statev1.AgentState{
		Epoch: e.kept.GetEpoch(), Trust: e.chain, JournalId: e.kept.GetJournalId(),
		TimeFloor: asTimestamp(e.clock.Floor()), JournalCreatedAt: asTimestamp(e.journalCreated),
		ClockSkew:      durationpb.New(e.clock.Skew().Round(time.Second)),
		IsolationFloor: asTimestamp(e.floors[orders.Isolation]), ProxyFloor: asTimestamp(e.floors[orders.Proxy]),
	}
	next.Assignment, next.Policies = e.book.Kept()
	next.ContentOffers = e.book.KeptOffers()
	if e.unwritable == nil && proto.Equal(e.kept, next) {
		return
	}
	e.kept = next
	if err := e.Dir.Save(next); err != nil {
		e.notWritten(err)
		return
	}
	e.unwritable = nil
}

func (e *Engine) notWritten(err error) {
	e.unwritable = problem.New(problem.StateUnwritable, err.Error())
	e.Log.Error(err, "the agent goes on with what it has in memory")
}

func (e *Engine) boot() time.Duration { return e.Host.Clock().Boot }

// now is the fleet's time.
func (e *Engine) now() time.Time { return e.clock.Now(e.Host.Clock()) }

func (e *Engine) moment() client.Moment {
	return client.Moment{Now: e.now(), Floor: e.clock.Floor(), Anchored: e.clock.Anchored()}
}

func (e *Engine) identityID() string {
	if e.id == nil {
		return ""
	}
	return e.id.ID
}

// interval between heartbeats by the policy in use.
func (e *Engine) interval() time.Duration {
	if p := e.book.Policy(); p.GetHeartbeatInterval() != nil {
		return p.GetHeartbeatInterval().AsDuration()
	}
	return e.Timing.HeartbeatInterval
}

func (e *Engine) remote() client.Server {
	return client.Server{URL: e.Server, Proxy: e.Proxy, AgentVersion: e.Version}
}

// connection is the client for the identity and trust of now.
func (e *Engine) connection() *client.Client {
	if e.client == nil {
		if e.id == nil {
			e.client = client.New(e.remote(), e.book.Trust.ServerPool(), nil)
		} else {
			e.client = client.New(e.remote(), e.book.Trust.ServerPool(), e.id.TLS())
		}
	}
	return e.client
}

// reconnect drops the connections, and with them the TLS session of an old certificate or an old trust.
func (e *Engine) reconnect() {
	e.leave(wire.CloseNormal)
	if e.client != nil {
		e.client.Close()
		e.client = nil
	}
}

func randomID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func asTime(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func asTimestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
