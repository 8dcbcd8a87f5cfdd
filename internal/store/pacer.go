package store

import (
	"container/list"
	"context"
	"math"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
)

// lane of a waiting change: a lower one goes first.
type lane int

const (
	laneSession lane = iota // who is connected, and how
	laneFacts               // everything else
	laneCount
)

const (
	// maxFlights is how many writes are under way at once.
	maxFlights = 16
	// factsTurn: one turn in so many begins with the last lane, so that no flood of sessions starves it.
	factsTurn = 8
	// tellAfter: failures that are over within this are nothing to read about.
	tellAfter = 3 * time.Second
)

// Pauses of the whole pacer while the API server fails or refuses load. They stay short: a Lease that is renewed again tells the manager that
// endpoints can be heard again, and what was heard must be there before their silence counts.
var retryWriting = wait.Backoff{Duration: 100 * time.Millisecond, Cap: 2 * time.Second, Steps: math.MaxInt32, Factor: 2, Jitter: 0.5}

// pacer writes what is reported about endpoints: for each the newest state only, never two writes at a time, nothing that is there already,
// and all together no faster than its bucket allows. It holds at most one entry for each endpoint.
type pacer struct {
	log       logr.Logger
	api       writer
	endpoints *endpoints
	bucket    *rate.Limiter
	metrics   *metrics

	wake    chan struct{} // has a token whenever there may be something to do
	flights chan struct{} // has a token for each write under way
	landing sync.WaitGroup

	mu      sync.Mutex
	entries map[uuid.UUID]*entry
	queues  [laneCount]list.List
	turn    int
	closed  bool
	pauses  wait.Backoff
	paused  time.Time // until then nothing is tried
	failing time.Time // since then every write has failed
	told    bool      // somebody was told of that
}

// entry is what waits about one endpoint.
type entry struct {
	at     Ref
	uid    uuid.UUID
	change change
	since  time.Time
	flying bool
	// Where it waits; place is nil while it is flying.
	lane  lane
	place *list.Element
}

func newPacer(log logr.Logger, api writer, x *endpoints, perSecond float64, m *metrics) *pacer {
	return &pacer{
		log: log, api: api, endpoints: x, metrics: m,
		bucket: rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond))),
		wake:   make(chan struct{}, 1), flights: make(chan struct{}, maxFlights),
		entries: map[uuid.UUID]*entry{}, pauses: retryWriting,
	}
}

// write takes note of a report.
func (p *pacer) write(r Report) {
	uid, err := uuid.Parse(r.UID)
	if err != nil {
		return
	}
	c := changeOf(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	e := p.entries[uid]
	if e == nil {
		e = &entry{at: r.Ref, uid: uid, since: time.Now()}
		p.entries[uid] = e
	}
	if e.at != r.Ref { // another machine by now
		e.at, e.change = r.Ref, change{}
	}
	e.change.merge(c)
	p.enqueue(e)
}

// waiting is what is not written yet about an endpoint with this identity.
func (p *pacer) waiting(uid, id uuid.UUID) (change, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[uid]
	if e == nil || !e.at.names(id.String()) {
		return change{}, false
	}
	return e.change, true
}

func (p *pacer) enqueue(e *entry) {
	if e.flying {
		return
	}
	to := laneFacts
	if e.change.connection != nil {
		to = laneSession
	}
	if e.place != nil && e.lane != to {
		p.dequeue(e)
	}
	if e.place == nil {
		e.lane, e.place = to, p.queues[to].PushBack(e)
	}
	p.signal()
}

func (p *pacer) dequeue(e *entry) {
	p.queues[e.lane].Remove(e.place)
	e.place = nil
}

func (p *pacer) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends, and then what waits, for drain at most.
func (p *pacer) run(ctx context.Context, drain time.Duration) {
	flights, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer p.landing.Wait()
	defer cancel()
	p.serve(ctx, flights, false)

	closing, done := context.WithTimeout(flights, drain)
	defer done()
	p.signal()
	p.serve(closing, flights, true)
	p.close()
}

// serve starts writes until ctx ends or, if so asked, nothing waits and none is under way.
func (p *pacer) serve(ctx, flights context.Context, untilEmpty bool) {
	for !untilEmpty || p.busy() {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		for p.takeOff(ctx, flights) {
		}
	}
}

func (p *pacer) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.entries) > 0
}

func (p *pacer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if n := len(p.entries); n > 0 {
		p.log.Info("Some endpoints' newest state was not written before the end. Their next heartbeats report it to another gateway.", "endpoints", n)
	}
}

// takeOff starts the next write, as soon as it may. It reports false if there is none, or ctx has ended.
func (p *pacer) takeOff(ctx, flights context.Context) bool {
	if !p.anyQueued() || !p.pause(ctx) || p.bucket.Wait(ctx) != nil {
		return false
	}
	select {
	case p.flights <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	f := p.next()
	if f == nil {
		<-p.flights
		return false
	}
	p.landing.Go(func() {
		outcome := f.deliver(flights, p)
		p.landed(f, outcome)
		<-p.flights
		p.signal()
	})
	return true
}

func (p *pacer) anyQueued() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queues[laneSession].Len()+p.queues[laneFacts].Len() > 0
}

// pause waits while the API server is to be left alone. It reports false if ctx ended first.
func (p *pacer) pause(ctx context.Context) bool {
	p.mu.Lock()
	left := time.Until(p.paused)
	p.mu.Unlock()
	if left <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// next takes the first entry that something is to be written of, and drops those before it that nothing is.
func (p *pacer) next() *flight {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn++
	for {
		e := p.first()
		if e == nil {
			return nil
		}
		p.dequeue(e)
		f, why := p.plan(e)
		if f != nil {
			e.flying = true
			return f
		}
		p.metrics.count(e.change.blocks(), why)
		delete(p.entries, e.uid)
	}
}

func (p *pacer) first() *entry {
	order := []lane{laneSession, laneFacts}
	if p.turn%factsTurn == 0 {
		order = []lane{laneFacts, laneSession}
	}
	for _, l := range order {
		if front := p.queues[l].Front(); front != nil {
			return front.Value.(*entry) //nolint:errcheck,forcetypeassert // nothing else is put in
		}
	}
	return nil
}

// plan is what to write about an endpoint, or why nothing is.
func (p *pacer) plan(e *entry) (f *flight, why string) {
	r := p.endpoints.uid(e.uid)
	if r == nil {
		return nil, resultGone
	}
	s := r.state()
	if !e.change.stands(s.connection) {
		return nil, resultSuperseded
	}
	patch, blocks := e.change.patch(e.at, s)
	if patch == nil {
		return nil, resultUnchanged
	}
	return &flight{entry: e, at: e.at, taken: e.change, content: e.change, patch: patch, blocks: blocks}, ""
}

// landed notes how a write ended. What was reported meanwhile is written next.
func (p *pacer) landed(f *flight, o outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := f.entry
	e.flying = false
	if o.settled {
		e.change.without(f.taken)
		e.since = time.Now()
	}
	if e.change.empty() {
		delete(p.entries, e.uid)
	} else {
		p.enqueue(e)
	}
	p.heed(o.err)
}

// heed pauses after a failure, longer each time, and as long as the API server asks for. Failures during a pause are of the same moment.
func (p *pacer) heed(err error) {
	now := time.Now()
	switch {
	case err == nil:
		if p.told {
			p.log.Info("Writing to the API server works again.", "waiting", len(p.entries))
		}
		p.failing, p.told, p.pauses = time.Time{}, false, retryWriting
		return
	case p.failing.IsZero():
		p.failing = now
	case !p.told && now.Sub(p.failing) >= tellAfter:
		p.told = true
		p.log.Error(err, "Writing to the API server fails and is tried again. The newest state of each endpoint is kept.", "waiting", len(p.entries))
	}
	if now.Before(p.paused) {
		return
	}
	left := p.pauses.Step()
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		left = max(left, time.Duration(seconds)*time.Second)
	}
	p.paused = now.Add(left)
}

// depth is how many endpoints wait in a lane, those being written included, and since when the oldest of them does.
func (p *pacer) depth() (waiting [laneCount]int, oldest time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.entries {
		waiting[e.lane]++
		if oldest.IsZero() || e.since.Before(oldest) {
			oldest = e.since
		}
	}
	return waiting, oldest
}
