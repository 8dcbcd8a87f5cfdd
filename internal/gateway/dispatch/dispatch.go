// Package dispatch brings the open actions of endpoints to their agents, and what agents say of them to the API server. What an agent is to be
// sent is decided anew, from what is open and what it says that it has, whenever one of them may have changed: by the same code for sessions and
// for heartbeats over HTTPS. An action leaves the gateway only once the API server has it written as sent. All that talks to the API server is
// done by a bounded pool of workers, for each agent one thing after the other.
package dispatch

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/sets"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// Source is what there is to know without asking. *store.Store is one.
type Source interface {
	EndpointByIdentity(id string) (store.Endpoint, bool)
	OpenActions(identityID string) []*v1alpha1.EndpointAction
	Action(uid string) (*v1alpha1.EndpointAction, bool)
	Trust() (*store.Trust, bool)
}

// API is the API server; see *store.Store.
type API interface {
	ReadAction(ctx context.Context, endpoint store.Ref, uid string) (*v1alpha1.EndpointAction, error)
	WriteAction(ctx context.Context, a *v1alpha1.EndpointAction) (*v1alpha1.EndpointAction, error)
}

// Line is a way to an agent: a session, or the answer to a heartbeat.
type Line interface {
	Channel() v1alpha1.Channel
	// Up tells whether what is sent may still arrive.
	Up() bool
	// Room tells whether an order can be sent. If not, it waits for the next line, or for the agent's next heartbeat.
	Room(order *agentv1.Envelope) bool
	// Send never blocks. What does not arrive is sent again on the next line.
	Send(order *agentv1.Envelope)
}

// Timing of what happens by itself.
type Timing struct {
	// Repeat is after how long an order is sent again on the same line that the agent has not acknowledged.
	Repeat time.Duration
	// RunningAfter is how long an action must run before that is written.
	RunningAfter time.Duration
}

// Config of a Dispatcher.
type Config struct {
	Source  Source
	API     API
	Metrics *Metrics
	Log     logr.Logger
	// Gateway is the name of this process, recorded with each action that it sends first.
	Gateway string
	Timing
	// Wait is how long the answer to a heartbeat over HTTPS waits for the API server.
	Wait time.Duration
	// Updates is how often an agent may send updates over HTTPS.
	Updates limit.Rate
	// DrainTimeout bounds how long Run goes on after its context has ended.
	DrainTimeout time.Duration
}

const (
	// maxWorkers is how many agents are worked for at once: more of them only make each other, and the API server's other clients, wait.
	maxWorkers = 16
	// maxWaiting bounds the results that wait for a worker, in bytes of all agents together.
	maxWaiting = 64 << 20
	// sweep is how often it is looked whose time has come.
	sweep = time.Second
)

// Dispatcher does the work. Run it.
type Dispatcher struct {
	config  Config
	metrics *Metrics
	wake    chan struct{} // has a token whenever a worker may have something to do

	mu      sync.Mutex
	active  sets.Set[*work]
	queue   []*work
	workers int
	waiting int // bytes of results
	closed  bool
	failing bool // the API server has failed the last time
}

// New makes a dispatcher.
func New(config Config) *Dispatcher {
	return &Dispatcher{config: config, metrics: config.Metrics, wake: make(chan struct{}, 1), active: sets.New[*work]()}
}

// Run works until ctx ends, and then does what waits, for DrainTimeout at most. What is handed over later is refused.
func (d *Dispatcher) Run(ctx context.Context) {
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var workers sync.WaitGroup
	tick := time.NewTicker(sweep)
	defer tick.Stop()
	for ctx.Err() == nil {
		d.hire(working, &workers)
		select {
		case <-d.wake:
		case now := <-tick.C:
			d.sweep(now)
		case <-ctx.Done():
		}
	}
	d.close()
	d.hire(working, &workers)
	stop := time.AfterFunc(d.config.DrainTimeout, cancel)
	defer stop.Stop()
	workers.Wait()
}

// hire starts workers while there is work for more.
func (d *Dispatcher) hire(ctx context.Context, workers *sync.WaitGroup) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n := min(len(d.queue), maxWorkers-d.workers); n > 0; n-- {
		d.workers++
		workers.Go(func() { d.work(ctx) })
	}
}

// work serves one agent after the other until none waits.
func (d *Dispatcher) work(ctx context.Context) {
	for {
		w, j := d.next()
		if w == nil {
			return
		}
		for _, u := range j.updates {
			d.take(ctx, w, u)
		}
		if j.look {
			d.look(ctx, w)
		}
		d.rest(w)
	}
}

// close has no more work taken on, and forgets what only waits for its time.
func (d *Dispatcher) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
}

// sweep has those agents' actions looked at whose time has come, and forgets those that have none.
func (d *Dispatcher) sweep(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.active {
		switch {
		case w.queued || w.working:
		case len(d.config.Source.OpenActions(w.agent.ID)) == 0:
			w.agent.work = nil
			d.active.Delete(w)
		case !w.again.IsZero() && !now.Before(w.again):
			w.again = time.Time{}
			d.ask(w)
		}
	}
}
