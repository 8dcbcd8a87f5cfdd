package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/fleettest"
	"github.com/rollcall-dev/rollcall/internal/agent/journal"
	"github.com/rollcall-dev/rollcall/internal/agent/perform"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// machine is a machine whose clocks a test moves.
type machine struct {
	mu    sync.Mutex
	boot  time.Duration
	slept time.Duration
	truth time.Time
	skew  time.Duration
	// oddity is in the name of its operating system.
	oddity string
}

func (m *machine) Clock() liveness.Reading {
	m.mu.Lock()
	defer m.mu.Unlock()
	return liveness.Reading{Wall: m.truth.Add(m.skew), Boot: m.boot, Awake: m.boot - m.slept}
}

func (m *machine) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.truth
}

func (m *machine) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boot += d
	m.truth = m.truth.Add(d)
}

func (m *machine) sleep(d time.Duration) {
	m.pass(d)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slept += d
}

func (m *machine) IDs() (string, string) {
	return identity.HashMachineID("machine"), identity.HashMachineID("boot")
}
func (m *machine) Hostname() string { return "devbox" }
func (m *machine) Inventory(context.Context) *agentv1.Inventory {
	return &agentv1.Inventory{Hostname: "devbox", OsName: "debian" + m.oddity, Disks: []*agentv1.Disk{{Mount: "/", Total: 2, Free: uint64(m.Clock().Boot)}}}
}

func (m *machine) Vitals(context.Context) *agentv1.Vitals {
	return &agentv1.Vitals{Uptime: durationpb.New(m.Clock().Boot)}
}

// world is a fleet, its gateway, and one agent.
type world struct {
	*Engine
	t       *testing.T
	fleet   *fleettest.Fleet
	gateway *fleettest.Gateway
	machine *machine
	path    string
	config  Config
	// deaf to what the test knows will not come, and must not be waited for.
	deaf deafness
	// changed is called after each change on the disk.
	changed func()
	// doubles do types of action that are not the agent's own.
	doubles map[string]*double
}

type deafness int

const (
	toNothing deafness = iota
	toActions
	toAnswers
	toDials
)

func newWorld(t *testing.T) *world { return newWorldOf(t, false) }

// newWorldOverHTTPS is one without websockets.
func newWorldOverHTTPS(t *testing.T) *world { return newWorldOf(t, true) }

func newWorldOf(t *testing.T, overHTTPS bool) *world {
	t.Helper()
	m := &machine{boot: time.Hour, truth: noon}
	f := fleettest.New(t, m.now)
	g := f.Serve(t)
	g.Websocket.Store(true)
	w := &world{t: t, fleet: f, gateway: g, machine: m, path: t.TempDir(), changed: func() {}, doubles: map[string]*double{}}
	w.config = Config{
		Host: m, Server: g.URL, Version: "8.0.0", Platform: "linux/amd64", Token: f.Token(), Timing: DefaultTiming(), NoWebsocket: overHTTPS,
		Log: logr.Discard(), Random: func() float64 { return 0.5 }, Executors: perform.Executors{},
	}
	for _, name := range []string{"TerminateProcess", "QuarantineFile", "IsolateEndpoint", "CancelIsolation"} {
		w.doubles[name] = newDouble(name == "TerminateProcess")
		w.config.Executors[name] = w.doubles[name]
	}
	if testing.Verbose() {
		w.config.Log = testr.NewWithOptions(t, testr.Options{Verbosity: 1})
	}
	w.start()
	return w
}

// start is a new process on the same directory.
func (w *world) start() {
	w.t.Helper()
	dir, err := state.Open(w.path, state.Light(), state.OnChange(func() { w.changed() })) // a killed process loses nothing by it
	if err != nil {
		w.t.Fatal(err)
	}
	w.config.Dir = dir
	w.Engine = New(w.config)
	engine := w.Engine
	w.t.Cleanup(func() { engine.stop(); _ = dir.Close() })
}

// crash ends the process without a word and starts another, which has no token but the one on disk.
func (w *world) crash() {
	w.t.Helper()
	w.line.End(0, "")  // the kernel would close its connections
	w.runner.Abandon() // and no goroutine goes on
	w.runner.Wait()
	w.stop()
	if err := w.Dir.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.config.Token = identity.Token{}
	w.start()
}

// live steps for a while. What the agent awaits of the gateway comes in real time, in which the machine's stands still, unless it is deaf.
func (w *world) live(d time.Duration) {
	w.t.Helper()
	end := w.machine.Clock().Boot + d
	for range 100_000 {
		wait := w.Step(w.t.Context())
		if w.session.Phase() == session.Dialling && w.deaf < toDials || (w.session.Busy() || w.session.Updating()) && w.deaf < toAnswers || w.acting() ||
			w.content.fetcher.Busy() && w.deaf == toNothing {
			w.hear()
			continue
		}
		if left := end - w.machine.Clock().Boot; wait >= left {
			w.machine.pass(left)
			return
		}
		w.machine.pass(max(wait, time.Millisecond))
	}
	w.t.Fatal("the agent does not come to rest")
}

// await steps with what comes until a condition holds, and the machine's time stands still.
func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		wait := w.Step(w.t.Context())
		switch {
		case ok():
			return
		case time.Now().After(end):
			w.t.Fatal("waited 20s for: " + what)
		case wait > 0:
			w.heard(time.After(10 * time.Millisecond)) // what was sent may not have arrived yet
		}
	}
}

// hear waits for something to come on the websocket, of a dial, or of an action that is done.
func (w *world) hear() {
	w.t.Helper()
	if !w.heard(time.After(20 * time.Second)) {
		w.t.Fatal("waited 20s for an answer of the gateway, or of an action")
	}
}

func (w *world) heard(deadline <-chan time.Time) bool {
	select {
	case event := <-w.line.Events():
		w.came = append(w.came, event)
	case event := <-w.runner.Events():
		w.events = append(w.events, event)
	case r := <-w.reportRequests:
		w.wantReport(r)
	case r := <-w.content.fetcher.Results():
		w.content.results = append(w.content.results, r)
	case <-deadline:
		return false
	}
	return true
}

// acting tells whether an action is done that does not wait for the machine's time.
func (w *world) acting() bool {
	runs := func(e *journal.Entry) bool { return w.runner.Runs(e.UID) }
	return w.deaf == toNothing && len(w.reports) == 0 && slices.ContainsFunc(w.journal.Open(), runs)
}

// online lives until the agent is, and fails if it is not within a minute.
func (w *world) online() {
	w.t.Helper()
	w.live(time.Minute)
	w.expect("Online")
}

func (w *world) expect(state string, problems ...wire.Name) {
	w.t.Helper()
	s := w.Status()
	var names []wire.Name
	for _, p := range s.Problems {
		names = append(names, wire.Name(p.Name))
	}
	if s.State != state || len(names) != len(problems) {
		w.t.Fatalf("state %s with problems %v, want %s with %v", s.State, names, state, problems)
	}
	for i, p := range problems {
		if names[i] != p {
			w.t.Errorf("problems %v, want %v", names, problems)
		}
	}
}

// certificate is what is on disk.
func (w *world) certificate() string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.path, "identity", "agent.crt"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return string(b)
}

func TestEnrolsAndBeats(t *testing.T) {
	w := newWorld(t)
	w.online()
	if got := w.gateway.Requests(wire.PathTrust); len(got) != 1 || string(got[0]) != "after=0" {
		t.Errorf("asked for trust %q", got)
	}
	if _, err := os.Stat(filepath.Join(w.path, "token")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the token is still here: %v", err)
	}
	w.live(10 * time.Minute)
	beats := w.gateway.Beats()
	if len(beats) != 3 {
		t.Fatalf("%d heartbeats in 11 minutes, want 3", len(beats))
	}
	first, third := beats[0], beats[2]
	if first.GetAgent().GetEpoch() != 1 || first.GetAgent().GetVersion() != "8.0.0" || first.GetInventory().GetOsName() != "debian" || first.GetCapabilities() == nil {
		t.Errorf("the first heartbeat is %v", first)
	}
	if third.GetInventory() != nil || third.GetCapabilities() != nil || third.GetInventoryTag() != first.GetInventoryTag() || third.GetInventoryTag() == "" {
		t.Errorf("what has not changed was sent again: %v", third)
	}
	if third.GetClockSkew() == nil || third.GetAgent().GetJournalCreatedAt() == nil || third.GetVitals().GetUptime() == nil {
		t.Errorf("the third heartbeat is %v", third)
	}
	w.gateway.SetReply(func(r *agentv1.HeartbeatReply) { r.Send = []agentv1.Section{agentv1.Section_SECTION_INVENTORY} })
	w.live(5 * time.Minute)
	w.gateway.SetReply(nil)
	w.live(5 * time.Minute)
	if last := w.gateway.LastBeat(); last.GetInventory() == nil || last.GetCapabilities() != nil {
		t.Errorf("was asked for the inventory, and sent %v", last)
	}
}

// A gateway with its own root, and one that shows the true fleet's trust but has no certificate of it, learn nothing.
func TestFakeGateway(t *testing.T) {
	for name, fake := range map[string]func(*world, *fleettest.Fleet) *fleettest.Gateway{
		"with its own root": func(_ *world, f *fleettest.Fleet) *fleettest.Gateway { return f.Serve(t) },
		"with the fleet's own trust": func(w *world, f *fleettest.Fleet) *fleettest.Gateway {
			g := f.Serve(t)
			f.Chain = w.fleet.Chain
			return g
		},
		"with no trust": func(_ *world, f *fleettest.Fleet) *fleettest.Gateway { f.Chain = nil; return f.Serve(t) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			g := fake(w, fleettest.New(t, w.machine.now))
			w.Server = g.URL
			w.live(24 * time.Hour)
			if s := w.Status(); s.State != "NotEnrolled" || len(s.Problems) != 1 || s.Problems[0].Name != "server-not-of-fleet" && s.Problems[0].Name != "server-untrusted" {
				t.Errorf("status %s, %v", s.State, s.Problems)
			}
			for _, path := range []string{wire.PathEnroll, wire.PathRenew, wire.PathHeartbeat} {
				if got := g.Requests(path); got != nil {
					t.Errorf("the fake learnt %d bodies on %s", len(got), path)
				}
			}
			if n := len(g.Requests(wire.PathTrust)); n < 2 || n > 500 {
				t.Errorf("asked %d times in a day", n)
			}
			w.Server = w.gateway.URL // and it was no reason to give up
			w.reconnect()
			w.hurry()
			w.online()
		})
	}
}

func TestTrustOlderThanTheToken(t *testing.T) {
	w := newWorld(t)
	w.Token.TrustVersion = 2
	w.live(time.Hour)
	w.expect("NotEnrolled", "server-not-of-fleet")
	if w.gateway.Requests(wire.PathEnroll) != nil {
		t.Error("enrolled with trust from before the token")
	}
	w.fleet.Publish(w.fleet.Root, nil)
	w.live(20 * time.Minute)
	w.expect("Online")
}

func TestThroughProxy(t *testing.T) {
	w := newWorld(t)
	proxy := fleettest.NewProxy(t)
	w.Proxy = proxy.URL
	w.online()
	if proxy.Tunnels.Load() < 2 || w.gateway.LastBeat().GetState().GetProxyUrl() != proxy.URL.String() {
		t.Errorf("%d tunnels; told %q", proxy.Tunnels.Load(), w.gateway.LastBeat().GetState().GetProxyUrl())
	}
	w.reconnect()
	proxy.Stop()
	w.live(6 * time.Minute)
	w.expect("Offline", "proxy-refused")
}

// A heartbeat now, because a person asked, by the goroutine that owns the engine.
func TestCheckin(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.Run(ctx) }()
	for i := range 3 {
		if err := w.Checkin(ctx); err != nil {
			t.Fatal(err)
		}
		if s := w.Status(); s.State != "Online" || len(w.gateway.Beats()) < i+1 {
			t.Errorf("after check-in %d: %s, %d heartbeats, %v", i+1, s.State, len(w.gateway.Beats()), s.Problems)
		}
	}
	cancel()
	<-stopped
	if err := w.Checkin(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("check-in with a stopped agent: %v", err)
	}
}

func TestServerCannotBeReached(t *testing.T) {
	w := newWorld(t)
	w.online()
	w.gateway.Stop()
	w.live(time.Hour)
	w.expect("Offline", "server-unreachable")
	if s := w.Status(); *s.Heartbeat.AcceptedSecondsAgo < 3000 || *s.Problems[0].RetryInSeconds > 300 {
		t.Errorf("heartbeat %s, retry in %ds", s.Heartbeat, *s.Problems[0].RetryInSeconds)
	}
	w.gateway.Start(w.fleet.ServerCA, fleettest.Serving(w.machine.now(), w.machine.now().Add(time.Hour)))
	w.live(5 * time.Minute)
	w.expect("Online")
}

// offline is an engine that trusts a fleet and can reach nobody.
func offline(t *testing.T, f *fleettest.Fleet) *Engine {
	t.Helper()
	dir, err := state.Open(t.TempDir(), state.Light())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	nowhere, err := client.ParseServer("https://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	e := New(Config{
		Dir: dir, Host: &machine{boot: time.Hour, truth: noon}, Server: nowhere, Version: "8.0.0", Platform: "linux/amd64", Timing: DefaultTiming(), Log: logr.Discard(),
	})
	trust, err := identity.OpenTrust(f.Token().RootPin, f.Chain)
	if err != nil {
		t.Fatal(err)
	}
	e.pin, e.book.Trust, e.book.IdentityID = f.Token().RootPin, trust, "0b6f2f3a-2b1c-4d53-8a64-1e6a3f1f6b02"
	e.kept.Epoch, e.kept.JournalId = 1, randomID()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	e.id = &state.Identity{FleetID: f.ID, ID: e.book.IdentityID, Key: key, Certificate: f.Certify(key.Public(), e.book.IdentityID, noon, noon.Add(day))}
	if err := e.takeUpActions(); err != nil {
		t.Fatal(err)
	}
	return e
}
