package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/audit"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// TestSessionsAreFree: heartbeats on sessions write nothing. The API server's audit log is the witness.
func TestSessionsAreFree(t *testing.T) {
	t.Parallel()
	const agents, beats = 50, 3000
	// that they were there is written once an hour, which is not what is counted here
	s := startSystem(t, steadyManager, []string{"--seen-refresh=24h"})
	n := s.tenant(t, "fleet")
	n.Apply(t, `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: 1, missed: 10}}}`)
	startFleetsim(t, s, "fleetsim", fleetToken(t, n), agents, "--retry-base=100ms")
	allConnected(t, n, agents)
	// until what the first heartbeats brought is written; an agent that beat before it had its policy says so some seconds later
	harness.Eventually(t, 60*time.Second, func() error {
		obey := n.counted(t, func(e v1alpha1.EndpointStatus) bool { return e.Agent != nil && e.Agent.PolicyRevision > 0 })
		if obey != agents {
			return fmt.Errorf("%d of %d obey their policy", obey, agents)
		}
		return nil
	})
	harness.Eventually(t, 30*time.Second, func() error {
		before := endpointWrites(t, s)
		wait(t.Context(), 2*time.Second, func() bool { return false })
		if after := endpointWrites(t, s); len(after) != len(before) {
			return fmt.Errorf("still written to: %s", after[len(after)-1])
		}
		return nil
	})
	before, heard := endpointWrites(t, s), heartbeatsOnSessions(t, s.gateway)
	harness.Eventually(t, 3*beats/agents*time.Second, func() error {
		if now := heartbeatsOnSessions(t, s.gateway) - heard; now < beats {
			return fmt.Errorf("%d heartbeats came", now)
		}
		return nil
	})
	now := heartbeatsOnSessions(t, s.gateway) - heard
	writes := endpointWrites(t, s)[len(before):]
	t.Logf("%d heartbeats of %d agents on sessions: %d writes to Endpoints, by the API server's audit log", now, agents, len(writes))
	if len(writes) > 0 {
		t.Errorf("written:\n%s", strings.Join(writes, "\n"))
	}
	if out := n.Kubectl(t, "get", "fep", "--no-headers"); strings.Count(out, " WebSocket ") != agents {
		t.Errorf("not all have a session:\n%s", out)
	}
}

func fleetToken(t testing.TB, n *tenant) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(n.tokenText(t, "fleet", "{expiresAfterHours: 0, labels: {site: lab}}")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func allConnected(t testing.TB, n *tenant, count int) {
	t.Helper()
	harness.Eventually(t, 60*time.Second, func() error {
		if c := n.counted(t, hasSession); c != count {
			return fmt.Errorf("%d of %d have a session", c, count)
		}
		return nil
	})
}

// endpointWrites are the writes to Endpoints in the audit log so far, a line each.
func endpointWrites(t testing.TB, s *system) (all []string) {
	t.Helper()
	err := audit.Read(s.api.AuditLog, func(e audit.Event) {
		if o := e.ObjectRef; e.Wrote() && o.APIGroup == "rollcall.dev" && o.Resource == "endpoints" {
			all = append(all, fmt.Sprintf("%s %s %s/%s %s", e.By(), e.Verb, o.Namespace, o.Name, o.Subresource))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	healthAddress     = regexp.MustCompile(`"health":"([0-9.:]+)"`)
	sessionHeartbeats = regexp.MustCompile(`(?m)^rollcall_gateway_session_messages_total\{kind="heartbeat"\} ([0-9.e+]+)$`)
)

// heartbeatsOnSessions is how many a gateway has heard.
func heartbeatsOnSessions(t testing.TB, gateway *local.Process) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+lastLogged(t, gateway, healthAddress)+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var count float64
	if m := sessionHeartbeats.FindSubmatch(body); m != nil {
		_, _ = fmt.Sscan(string(m[1]), &count) // a number, by the pattern
	}
	return int(count)
}

// TestTwoGateways moves sessions between two gateways, kills one, and restarts both. What is recorded is always the newest, and true.
func TestTwoGateways(t *testing.T) {
	t.Parallel()
	const agents, rounds = 10, 10
	s := startSystem(t, steadyManager, sessionGateway)
	n := s.tenant(t, "fleet")
	n.Apply(t, `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: fast}, spec: {heartbeat: {intervalSeconds: 1, missed: 20}}}`)
	a, b := s.gateway, s.launch(t, "gateway-b")
	balancer := startBalancer(t, s.GatewayAddress)
	front := *s
	front.GatewayAddress = balancer.Addr().String()
	token := fleetToken(t, n)
	sim := startFleetsim(t, &front, "fleetsim", token, agents, sessionAgent...)
	allConnected(t, n, agents)
	w := watchSessions(t, n)

	t.Run("a hundred moves", func(t *testing.T) {
		for i := range rounds {
			to := []string{b.address, s.GatewayAddress}[i%2]
			balancer.move(to)
			harness.Eventually(t, 20*time.Second, func() error { return w.allOn(agents, gatewayName(t, []*local.Process{b.Process, a}[i%2])) })
		}
		w.neverBackwards(t)
	})
	t.Run("kill -9 and a start within the Lease leave no ghost", func(t *testing.T) {
		dead := gatewayName(t, a) // the last round has left all sessions there
		a.Kill()
		s.startGateway(t)
		a = s.gateway
		if name := gatewayName(t, a); name == dead {
			t.Fatalf("the new gateway has the dead one's name %s", name)
		}
		harness.Eventually(t, 20*time.Second, func() error { return w.allOn(agents, gatewayName(t, a)) })
		w.neverBackwards(t)
	})
	sim.Stop(10 * time.Second)
	t.Run("a rolling restart of both drops nothing", func(t *testing.T) {
		sim = startFleetsim(t, &front, "fleetsim", token, agents, sessionAgent...) // the same machines, started again: what is counted is from here on
		harness.Eventually(t, 20*time.Second, func() error { return w.newer(1) })
		for _, next := range []string{b.address, s.GatewayAddress} { // as a load balancer does that sees one become unready
			balancer.target.Store(&next)
			began := time.Now()
			if next == b.address {
				a.Stop(20 * time.Second)
				harness.Eventually(t, 20*time.Second, func() error { return w.allOn(agents, gatewayName(t, b.Process)) })
				s.startGateway(t)
			} else {
				b.Stop(20 * time.Second)
				harness.Eventually(t, 20*time.Second, func() error { return w.allOn(agents, gatewayName(t, s.gateway)) })
			}
			w.spread(t, began)
		}
		w.neverBackwards(t)
		t.Log(n.Kubectl(t, "get", "fep", "-o", "wide"))
		sim.Stop(10 * time.Second)
		sum := fleetSummary(t, sim)
		t.Logf("%d heartbeats were accepted, %d were not", sum.Accepted, sum.Failed)
		if sum.Failed > 0 {
			t.Errorf("%d heartbeats were lost", sum.Failed)
		}
	})
}

// launched is one more gateway.
type launched struct {
	*local.Process
	address string
}

func (s *system) launch(t testing.TB, name string) launched {
	t.Helper()
	address := freeAddress(t)
	p, ready, err := s.LaunchGateway(name, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(5 * time.Second) })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := p.WaitFor(ctx, ready); err != nil {
		t.Fatal(err)
	}
	return launched{p, address}
}

var gatewayNames = regexp.MustCompile(`"gateway":"(gw-[a-z0-9-]+)","listen"`)

// gatewayName is what a gateway calls itself, by its log.
func gatewayName(t testing.TB, gateway *local.Process) string {
	t.Helper()
	return lastLogged(t, gateway, gatewayNames)
}

// lastLogged is what a process' log says, by a pattern, of its newest start.
func lastLogged(t testing.TB, p *local.Process, pattern *regexp.Regexp) string {
	t.Helper()
	log, err := os.ReadFile(p.Log)
	if err != nil {
		t.Fatal(err)
	}
	all := pattern.FindAllSubmatch(log, -1)
	if all == nil {
		t.Fatalf("%s has nothing like %s", p.Log, pattern)
	}
	return string(all[len(all)-1][1])
}

// balancer stands before gateways as a load balancer does that knows TCP and no more.
type balancer struct {
	net.Listener
	target atomic.Pointer[string]
	mu     sync.Mutex
	conns  map[net.Conn]bool
}

func startBalancer(t testing.TB, target string) *balancer {
	t.Helper()
	var c net.ListenConfig
	l, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{Listener: l, conns: map[net.Conn]bool{}}
	b.target.Store(&target)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { b.carry(t.Context(), in) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.cut()
		wg.Wait()
	})
	return b
}

func (b *balancer) carry(ctx context.Context, in net.Conn) {
	defer in.Close()
	var d net.Dialer
	out, err := d.DialContext(ctx, "tcp", *b.target.Load())
	if err != nil {
		return
	}
	defer out.Close()
	b.mu.Lock()
	b.conns[in] = true
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.conns, in)
		b.mu.Unlock()
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, in)
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
	_ = in.Close()
	<-done
}

// move sends what comes from now on to another gateway, and cuts what is there.
func (b *balancer) move(to string) {
	b.target.Store(&to)
	b.cut()
}

func (b *balancer) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		_ = c.Close()
	}
}

// seen is what a watch has shown of an endpoint's connection at one time.
type seen struct {
	at                        time.Time
	channel, gateway, summary string
	epoch, number             int64
}

// sessionWatch remembers all that a watch has shown, in order.
type sessionWatch struct {
	mu  sync.Mutex
	all map[string][]seen
}

func watchSessions(t testing.TB, n *tenant) *sessionWatch {
	w := &sessionWatch{all: map[string][]seen{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		const c = ".status.connection."
		follow(ctx, n, "fep", "{.metadata.name},{"+c+"channel},{"+c+"gateway},{"+c+"epoch},{"+c+"sessionNumber},{.status.summary}", func(line string) {
			f := strings.Split(line, ",")
			if len(f) != 6 || f[1] == "" {
				return
			}
			is := seen{at: time.Now(), channel: f[1], gateway: f[2], summary: f[5]}
			_, _ = fmt.Sscan(f[3], &is.epoch) // absent for 0
			_, _ = fmt.Sscan(f[4], &is.number)
			w.mu.Lock()
			w.all[f[0]] = append(w.all[f[0]], is)
			w.mu.Unlock()
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

// allOn tells whether count endpoints are recorded on sessions of one gateway.
func (w *sessionWatch) allOn(count int, gateway string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	there := 0
	var other string
	for name, history := range w.all {
		if last := history[len(history)-1]; last.channel == "WebSocket" && last.gateway == gateway {
			there++
		} else {
			other = fmt.Sprintf("%s: %+v", name, last)
		}
	}
	if there != count {
		return fmt.Errorf("%d of %d are on %s; %s", there, count, gateway, other)
	}
	return nil
}

// newer tells whether all sessions are of a later epoch.
func (w *sessionWatch) newer(than int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, history := range w.all {
		if last := history[len(history)-1]; last.channel != "WebSocket" || last.epoch <= than {
			return fmt.Errorf("%s: %+v", name, last)
		}
	}
	return nil
}

// neverBackwards: no record was ever replaced by one of an older session, nor a session by its absence once a newer one was up; and nobody
// was shown anything but online.
func (w *sessionWatch) neverBackwards(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	moves, downs := 0, 0
	for name, history := range w.all {
		for i, is := range history {
			if is.summary != "" && is.summary != "Online" {
				t.Errorf("%s was shown %s", name, is.summary)
			}
			if i == 0 {
				continue
			}
			was := history[i-1]
			if is.epoch < was.epoch || is.epoch == was.epoch && is.number < was.number {
				t.Errorf("%s: %+v was overwritten by %+v", name, was, is)
			}
			if is.gateway != was.gateway && is.gateway != "" {
				moves++
			}
			if is.channel != "WebSocket" && was.channel == "WebSocket" {
				downs++
			}
		}
	}
	t.Logf("%d moves, %d downs, never backwards", moves, downs)
}

// spread looks at when agents came back: not in lockstep.
func (w *sessionWatch) spread(t *testing.T, since time.Time) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	slots := map[time.Duration]int{}
	var latest time.Duration
	for _, history := range w.all {
		after := history[len(history)-1].at.Sub(since)
		slots[after.Truncate(50*time.Millisecond)]++
		latest = max(latest, after)
	}
	for at, count := range slots {
		if count > len(w.all)/2 {
			t.Errorf("%d of %d came back within 50 ms, %s after the gateway was told to stop", count, len(w.all), at)
		}
	}
	t.Logf("all were back %s after the gateway was told to stop, in %d slots of 50 ms", latest.Round(time.Millisecond), len(slots))
}

// fleetTotals are what fleetsim says at its end.
type fleetTotals struct {
	Accepted uint64 `json:"heartbeatsAccepted"`
	Failed   uint64 `json:"heartbeatsFailed"`
}

func fleetSummary(t testing.TB, sim *local.Process) (sum fleetTotals) {
	t.Helper()
	f, err := os.Open(sim.Log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := bufio.NewScanner(f); r.Scan(); {
		if strings.HasPrefix(r.Text(), "{") {
			if err := json.Unmarshal(r.Bytes(), &sum); err != nil {
				t.Fatal(err)
			}
		}
	}
	return sum
}
