package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/rollcall-dev/rollcall/internal/agent"
	"github.com/rollcall-dev/rollcall/internal/agent/host"
	"github.com/rollcall-dev/rollcall/internal/agent/perform"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/agent/status"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

type options struct {
	server, proxy *url.URL
	token         identity.Token
	count         int
	stateDir      string
	prefix        string
	version       string
	odd           bool
	oddAfter      time.Duration
	enrolledFile  string
	startRate     float64
	enrollAtOnce  int
	noWebsocket   bool
	terminate     bool
	timing        agent.Timing
	log           logr.Logger
	progress      io.Writer
}

func (o *options) name(i int) string { return fmt.Sprintf("%s-%02d", o.prefix, i) }

// sim is the fleet.
type sim struct {
	*options
	machine *host.Machine
	wg      sync.WaitGroup

	mu       sync.Mutex
	agents   map[string]*simulated
	starting []*simulated // some of them; see enrolling
	stopped  int
	failed   error
}

// simulated is one agent, while it runs and after.
type simulated struct {
	name    string
	started time.Time
	engine  *agent.Engine
	stop    context.CancelFunc
	done    chan struct{}
}

// summary is what the fleet has done.
type summary struct {
	Agents   int            `json:"agents"`
	Enrolled int            `json:"enrolled"`
	Online   int            `json:"online"`
	Stopped  int            `json:"stopped"`
	States   map[string]int `json:"states"`
	Problems map[string]int `json:"problems"`
	// EnrolledSeconds is when the last of them had enrolled, -1 if not all have.
	EnrolledSeconds float64 `json:"enrolledSeconds"`
	Accepted        uint64  `json:"heartbeatsAccepted"`
	Failed          uint64  `json:"heartbeatsFailed"`
	// Connected is how many have a websocket; the rest counts them since the start.
	Connected  int    `json:"connected"`
	Opened     uint64 `json:"sessionsOpened"`
	Lost       uint64 `json:"sessionsLost"`
	Reconnects uint64 `json:"reconnects"`
	// Outages are times at which many websockets were gone at once, oldest first.
	Outages []outage `json:"outages,omitempty"`

	wanting int // agents that are to have a websocket
}

// run starts the agents, tells how it goes, and ends with ctx.
func run(ctx context.Context, o *options) (summary, error) {
	s := &sim{options: o, machine: host.This(ctx, os.TempDir()), agents: map[string]*simulated{}}
	if err := os.MkdirAll(o.stateDir, 0o700); err != nil { //nolint:gosec // where the person said
		return summary{}, err
	}
	began := time.Now()
	s.wg.Go(func() { s.startAll(ctx) })
	allEnrolled := -1.0
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var outages outages
	said, sum, due := "", s.summarize(), began
	for {
		select {
		case <-ctx.Done(): // the fleet as it was last seen, not as it ends
			s.wg.Wait()
			sum.EnrolledSeconds, sum.Outages = allEnrolled, outages.all
			return sum, nil
		case <-tick.C:
		}
		if ctx.Err() != nil {
			continue
		}
		if allEnrolled >= 0 { // before, some begin all the time
			if over := outages.observe(time.Now(), s.connected(), sum.wanting); over != "" {
				_, _ = fmt.Fprintln(o.progress, over)
			}
		}
		if time.Now().Before(due) {
			continue
		}
		sum = s.summarize()
		due = time.Now().Add(max(200*time.Millisecond, time.Duration(o.count)*200*time.Microsecond)) // a look at all of them costs
		if sum.Enrolled == o.count && allEnrolled < 0 {
			allEnrolled = time.Since(began).Round(time.Millisecond).Seconds()
		}
		if now := fmt.Sprintf("enrolled %d of %d, online %d, connected %d", sum.Enrolled, o.count, sum.Online, sum.Connected); now != said {
			said = now
			_, _ = fmt.Fprintln(o.progress, now)
			s.tellEnrolled(sum.Enrolled)
		}
		if err := s.failure(); err != nil {
			return sum, err
		}
	}
}

// startAll starts them one after the other, so that a large fleet is no flood of handshakes.
func (s *sim) startAll(ctx context.Context) {
	pause := time.NewTicker(time.Duration(float64(time.Second) / s.startRate))
	defer pause.Stop()
	for i := 1; i <= s.count; {
		if s.enrolling(time.Now()) < s.enrollAtOnce {
			s.startNumber(ctx, i)
			i++
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// maxEnrolling is how long an agent that does not get its identity keeps others from starting.
const maxEnrolling = 30 * time.Second

// enrolling counts the agents that have started and have no identity yet. Each asks again and again, with a handshake each: many at once would
// be busy with nothing else.
func (s *sim) enrolling(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting = slices.DeleteFunc(s.starting, func(a *simulated) bool {
		return now.Sub(a.started) > maxEnrolling || a.engine.Status().Endpoint != nil
	})
	return len(s.starting)
}

// start runs an agent on a directory until ctx, or its own stop.
func (s *sim) start(ctx context.Context, name, dir, version string, odd ...func(*agent.Config)) *simulated {
	d, err := state.Open(dir, state.Light())
	if err != nil {
		s.fail(fmt.Errorf("%s: %w", name, err))
		return nil
	}
	var executors perform.Executors
	if s.terminate {
		executors = perform.Executors{"TerminateProcess": &processes{}}
	}
	config := agent.Config{
		Dir: d, Host: &machine{Machine: s.machine, name: name}, Server: s.server, Proxy: s.proxy, Token: s.token,
		Version: version, Platform: host.Platform, Executors: executors, NoWebsocket: s.noWebsocket, Timing: s.timing, Log: s.log.WithValues("endpoint", name),
	}
	for _, change := range odd {
		change(&config)
	}
	ctx, stop := context.WithCancel(ctx)
	a := &simulated{name: name, started: time.Now(), stop: stop, done: make(chan struct{}), engine: agent.New(config)}
	s.mu.Lock()
	s.agents[filepath.Base(dir)] = a
	s.starting = append(s.starting, a)
	s.mu.Unlock()
	s.wg.Go(func() {
		defer close(a.done)
		defer stop()
		a.engine.Run(ctx)
		_ = d.Close() // the next start locks it again
	})
	return a
}

func (s *sim) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = errors.Join(s.failed, err)
}

func (s *sim) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

func (s *sim) summarize() summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := summary{Agents: s.count, Enrolled: s.stopped, Stopped: s.stopped, States: map[string]int{}, Problems: map[string]int{}, EnrolledSeconds: -1}
	for name, a := range s.agents {
		st := a.engine.Status()
		sum.Accepted += st.Heartbeat.AcceptedCount
		sum.Failed += st.Heartbeat.FailedCount
		sum.Opened += st.Websocket.OpenedCount
		sum.Lost += st.Websocket.LostCount
		sum.Reconnects += max(st.Websocket.OpenedCount, 1) - 1
		if st.Endpoint != nil && filepath.Ext(name) != cloneSuffix {
			sum.Enrolled++
		}
		select {
		case <-a.done:
			sum.Stopped++
			continue
		default:
		}
		sum.add(st)
	}
	return sum
}

func (s *summary) add(st status.Status) {
	s.States[st.State]++
	if st.State == "Online" {
		s.Online++
	}
	switch st.Websocket.State {
	case status.Connected:
		s.Connected++
		s.wanting++
	case status.Connecting:
		s.wanting++
	case status.Disconnected:
		if st.Endpoint != nil {
			s.wanting++
		}
	}
	for _, p := range st.Problems {
		s.Problems[p.Name]++
	}
}

// connected counts websockets.
func (s *sim) connected() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.agents {
		if a.engine.Connected() {
			n++
		}
	}
	return n
}

// tellEnrolled keeps the number in a file, for whoever started this.
func (s *sim) tellEnrolled(n int) {
	if s.enrolledFile == "" {
		return
	}
	err := os.WriteFile(s.enrolledFile+".new", []byte(strconv.Itoa(n)+"\n"), 0o600)
	if err = errors.Join(err, os.Rename(s.enrolledFile+".new", s.enrolledFile)); err != nil {
		s.fail(err)
	}
}
