package store_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/dispatch"
	"github.com/rollcall-dev/rollcall/internal/gateway/heartbeat"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/gateway/session"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Two gateways, whose watches lag as they like, and one agent that moves between them: whatever happens, what was written of a session is never
// overwritten by what was said of an earlier one, one machine is never taken for two, and in the end the record is the truth.
func TestSessionsMoveBetweenGateways(t *testing.T) {
	check(t, kinds, func(*player) {})
}

// And if a clone of the machine speaks up now and then: the agent's sessions are not disturbed, and in the end the clone has been found out.
func TestCloneIsFoundOutBetweenGateways(t *testing.T) {
	check(t, append([]string{"clone", "clone"}, kinds...), func(p *player) {
		p.cloned = true
		p.move(move{"connect", 0, 0}) // it speaks first
		p.pass(1)
		p.gateways[1].store.Deliver(p.server, 100)
	})
}

func check(t *testing.T, kinds []string, begin func(*player)) {
	rapid.Check(t, func(rt *rapid.T) {
		moves := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) move {
			return move{rapid.SampledFrom(kinds).Draw(t, "what"), rapid.IntRange(0, 1).Draw(t, "gateway"), rapid.IntRange(0, 40).Draw(t, "n")}
		}), 1, 60).Draw(rt, "moves")
		var failure string
		synctest.Test(t, func(t *testing.T) { failure = play(t, moves, begin) })
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

type move struct {
	what       string
	gateway, n int
}

var kinds = []string{
	"connect", "connect", "break", "half-open", "https", "restart", "late", "watch", "watch", "pass", "pass", "pass", "crash", "drain", "manager", "outage", "beat",
}

// player has the two gateways and the agent.
type player struct {
	t        *testing.T
	server   store.Server
	id       string
	gateways [2]*replica
	names    int
	away     bool

	mu      sync.Mutex // of what the server looks at
	live    *socket    // the agent's session; nil: it has none
	failure string
	before  *v1alpha1.EndpointConnection

	cloned              bool // there is a clone, which was made when the agent had started once
	epoch, number, over int
	old                 []*socket // that the agent has given up, and the gateway perhaps not
}

// replica is a gateway.
type replica struct {
	name  string
	store *store.Replica
	beats *heartbeat.Service
	hub   *session.Hub
	// end ends the process; nothing more is written.
	end func()
}

func play(t *testing.T, moves []move, begin func(*player)) string {
	p := &player{t: t, epoch: 1}
	p.server, p.id = store.NewServer(t)
	p.server.OnStore(p.judge)
	for i := range p.gateways {
		p.gateways[i] = p.start()
		p.gateways[i].store.Deliver(p.server, 1)
	}
	begin(p)
	for _, m := range moves {
		p.move(m)
		if p.failed() != "" {
			break
		}
	}
	p.settle()
	if p.cloned {
		p.pass(61)
		p.clone(0)
		p.pass(1)
		p.expose()
	}
	for _, g := range p.gateways {
		g.hub.Drain(canceled())
		g.end()
	}
	if p.failed() != "" {
		return p.failed() + p.tell()
	}
	return ""
}

func (p *player) failed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure
}

func (p *player) fail(format string, args ...any) {
	if p.failure == "" {
		p.failure = fmt.Sprintf(format, args...)
	}
}

// tell is what was stored, one version after the other.
func (p *player) tell() string {
	var b strings.Builder
	for _, e := range p.server.History() {
		if c := e.Status.Connection; c != nil {
			fmt.Fprintf(&b, "\n%s %d.%d %s", c.Channel, c.Epoch, c.SessionNumber, c.Gateway)
		}
	}
	return b.String()
}

// judge looks at each version as it is stored.
func (p *player) judge(e *v1alpha1.Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, before := e.Status.Connection, p.before
	p.before = now.DeepCopy()
	if now == nil {
		return
	}
	if now.ConflictInstanceID != "" && !p.cloned {
		p.fail("one machine was taken for two")
	}
	if before != nil && (now.Epoch < before.Epoch || now.Epoch == before.Epoch && now.SessionNumber < before.SessionNumber) {
		p.fail("session %d.%d was written over %d.%d", now.Epoch, now.SessionNumber, before.Epoch, before.SessionNumber)
	}
	same := before != nil && now.Epoch == before.Epoch && now.SessionNumber == before.SessionNumber
	if same && before.Channel == v1alpha1.ChannelHeartbeat && now.Channel != v1alpha1.ChannelHeartbeat {
		p.fail("%s was written of session %d.%d, which is over, as the agent said", now.Channel, now.Epoch, now.SessionNumber)
	}
	if s := p.live; s != nil && s.is(now) && s.closed() == nil && now.Channel != v1alpha1.ChannelWebSocket {
		p.fail("%s was written over session %d.%d, which is up", now.Channel, now.Epoch, now.SessionNumber)
	}
}

func (p *player) start() *replica {
	p.names++
	g := &replica{name: fmt.Sprintf("gw-%05d-aaaaa", p.names)}
	g.store = p.server.NewReplica(g.name)
	metrics, err := session.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		p.t.Fatal(err)
	}
	g.beats = heartbeat.New(heartbeat.Config{Source: g.store, Actions: g, Gateway: g.name, MinInterval: time.Nanosecond, Burst: 100, Grace: time.Minute, PingInterval: 30 * time.Second})
	g.hub = session.New(session.Config{
		Beats: g.beats, Actions: g, Auth: g, Metrics: metrics, Log: logr.Discard(), FirstMessage: 10 * time.Second, Slack: 40 * time.Second, DownAfter: 30 * time.Second,
		Refresh: 5 * time.Minute, Sweep: time.Second, Messages: limit.PerSecond(1000, 1000), Unanswered: 8, Upgrades: limit.PerSecond(1000, 1000), Spread: time.Second,
	})
	changed := func(id string) { g.beats.Changed(id); g.hub.Changed(id) }
	g.store.OnChange(changed)
	g.store.OnConnection(changed)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { g.store.RunWriting(ctx) })
	group.Go(func() { g.hub.Run(ctx) })
	g.end = func() { cancel(); group.Wait() }
	return g
}

// Heard, Look and Update are a dispatcher's that has nothing to do.
func (g *replica) Heard(*dispatch.Agent, *agentv1.Heartbeat, dispatch.Line, time.Time) bool {
	return false
}
func (g *replica) Look(*dispatch.Agent, dispatch.Line) {}
func (g *replica) Update(*dispatch.Agent, []byte, *agentv1.ActionUpdate, time.Time, func(*wire.Problem)) (*wire.Problem, bool) {
	return nil, true
}

// Check has no certificates to judge.
func (g *replica) Check(cr auth.Credentials, _ time.Time) (store.Endpoint, *wire.Problem) {
	e, ok := g.store.EndpointByIdentity(cr.Certificate.IdentityID)
	if !ok {
		return e, &wire.Problem{Name: wire.EndpointUnknown}
	}
	return e, nil
}

func (p *player) move(m move) {
	switch m.what {
	case "connect":
		p.giveUp(m.n)
		p.connect(m.gateway)
	case "break":
		p.giveUp(0)
	case "half-open":
		p.giveUp(1)
	case "https":
		if p.live == nil {
			p.https(m.gateway)
		}
	case "restart":
		p.giveUp(m.n)
		p.epoch, p.number, p.over = p.epoch+1, 0, 0
	case "late":
		for _, s := range p.old {
			if time.Since(s.since) < 20*time.Second {
				s.say(&agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: s.beat}})
			}
		}
	case "clone":
		p.clone(m.gateway)
	case "beat":
		if s := p.live; s != nil {
			s.say(&agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: s.beat}})
		}
	case "watch":
		p.gateways[m.gateway].store.Deliver(p.server, m.n)
	case "pass":
		p.pass(m.n)
	case "crash", "drain":
		p.restart(m.gateway, m.what == "drain")
	case "manager":
		p.manager()
	case "outage":
		p.away = !p.away
		p.server.Away(p.away)
	}
	synctest.Wait()
}

// giveUp ends the agent's session: it breaks off for both, or the gateway is not told.
func (p *player) giveUp(n int) {
	p.mu.Lock()
	s := p.live
	p.live = nil
	p.mu.Unlock()
	if s == nil {
		return
	}
	p.over = p.number
	if n%2 == 0 {
		s.end(&transport.CloseError{Code: wire.CloseAbnormal})
	} else {
		s.since = time.Now()
		p.old = append(p.old, s)
	}
	synctest.Wait()
}

func (p *player) connect(gateway int) {
	p.number++
	g := p.gateways[gateway]
	e, ok := g.store.EndpointByIdentity(p.id)
	if !ok {
		p.over = p.number
		return // it has not read anything yet
	}
	s := &socket{gateway: g.name, epoch: p.epoch, number: p.number, in: make(chan []byte, 10), over: make(chan struct{})}
	s.beat = beat(p.epoch, p.number)
	step := g.hub.Open(s, auth.Credentials{Certificate: &auth.Certificate{IdentityID: p.id, NotAfter: time.Now().AddDate(1, 0, 0)}}, g.beats.Agent(e, time.Now()), netip.IPv4Unspecified(), time.Now())
	go func() {
		for step() { // until it is over
		}
	}()
	p.mu.Lock()
	p.live = s
	p.mu.Unlock()
	s.say(&agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: s.beat}})
	synctest.Wait()
	if c := s.closed(); c != nil {
		p.mu.Lock()
		p.fail("the newest session was refused: %v", c)
		p.mu.Unlock()
	}
}

func (p *player) https(gateway int) {
	g := p.gateways[gateway]
	e, ok := g.store.EndpointByIdentity(p.id)
	if !ok {
		return
	}
	if q := g.beats.Beat(g.beats.Agent(e, time.Now()), beat(p.epoch, p.over), nil, heartbeat.Via{}, time.Now(), &agentv1.HeartbeatReply{}); q != nil {
		p.mu.Lock()
		p.fail("a heartbeat over HTTPS was refused: %v", q)
		p.mu.Unlock()
	}
	g.hub.Heard(p.id)
}

// clone is a heartbeat of the other machine, which is always refused.
func (p *player) clone(gateway int) {
	g := p.gateways[gateway]
	e, ok := g.store.EndpointByIdentity(p.id)
	if !ok || e.Connection.ID == "" {
		return // this gateway cannot know
	}
	m := beat(1, 0)
	m.Agent.InstanceId = strings.Repeat("c", 32)
	if q := g.beats.Beat(g.beats.Agent(e, time.Now()), m, nil, heartbeat.Via{}, time.Now(), &agentv1.HeartbeatReply{}); q == nil {
		p.mu.Lock()
		p.fail("the clone was accepted")
		p.mu.Unlock()
	}
	g.hub.Heard(p.id)
}

func (p *player) expose() {
	e := p.server.History()
	c := e[len(e)-1].Status.Connection
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.ConflictInstanceID != strings.Repeat("c", 32) || c.ConflictReason == "" || c.InstanceID == c.ConflictInstanceID {
		p.fail("the clone was not found out: %+v", c)
	}
}

// pass lets seconds go by, in which the agent pings and finds out whether its session was closed.
func (p *player) pass(seconds int) {
	for range seconds {
		<-time.After(time.Second)
		synctest.Wait()
		s := p.live
		if s == nil {
			continue
		}
		if c := s.closed(); c != nil {
			if c.Code == wire.CloseReplaced || c.Code == wire.CloseTimeout {
				p.mu.Lock()
				p.fail("the agent's session was closed: %v", c)
				p.mu.Unlock()
			}
			p.giveUp(0)
		} else if time.Now().Unix()%15 == 0 {
			s.say(&agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}})
		}
	}
}

// restart ends a gateway and starts another in its place.
func (p *player) restart(gateway int, gracefully bool) {
	g := p.gateways[gateway]
	for _, s := range append(p.old, p.live) {
		if s != nil && s.gateway == g.name {
			s.end(&transport.CloseError{Code: wire.CloseAbnormal})
		}
	}
	if s := p.live; s != nil && s.gateway == g.name {
		p.giveUp(0)
	}
	if gracefully {
		g.hub.Drain(canceled())
		<-time.After(100 * time.Millisecond)
	}
	g.end()
	p.gateways[gateway] = p.start()
	p.gateways[gateway].store.Deliver(p.server, 1)
}

// manager clears what names a gateway that is not there.
func (p *player) manager() {
	p.server.Change(func(c *v1alpha1.EndpointConnection) {
		if c.Channel == v1alpha1.ChannelWebSocket && string(c.Gateway) != p.gateways[0].name && string(c.Gateway) != p.gateways[1].name {
			c.Channel, c.Gateway = v1alpha1.ChannelNone, ""
		}
	})
}

// settle lets everything come to rest, and compares the record with the truth.
func (p *player) settle() {
	p.server.Away(false)
	for range 60 {
		for _, g := range p.gateways {
			g.store.Deliver(p.server, 1000)
		}
		p.pass(5)
		p.manager()
	}
	e := p.server.History()
	c := e[len(e)-1].Status.Connection
	p.mu.Lock()
	defer p.mu.Unlock()
	switch s := p.live; {
	case s == nil && c != nil && c.Channel == v1alpha1.ChannelWebSocket:
		p.fail("a ghost: session %d.%d at %s is recorded", c.Epoch, c.SessionNumber, c.Gateway)
	case s != nil && (c == nil || !s.is(c) || c.Channel != v1alpha1.ChannelWebSocket || string(c.Gateway) != s.gateway):
		p.fail("session %d.%d at %s is up, and recorded is %+v", s.epoch, s.number, s.gateway, c)
	}
	for _, g := range p.gateways {
		if g.store.Waits() != "[0 0]" {
			p.fail("%s still has to write: %s", g.name, g.store.Waits())
		}
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// socket is one websocket of the agent: a double of the connection.
type socket struct {
	gateway       string
	epoch, number int
	beat          *agentv1.Heartbeat
	in            chan []byte
	since         time.Time // when the agent gave it up

	mu    sync.Mutex
	over  chan struct{}
	ended *transport.CloseError
}

func (s *socket) is(c *v1alpha1.EndpointConnection) bool {
	return c.Epoch == int64(s.epoch) && c.SessionNumber == int64(s.number)
}

func (s *socket) say(m *agentv1.AgentMessage) {
	b, err := wire.Protobuf.Marshal(m)
	if err != nil {
		panic(err)
	}
	select {
	case s.in <- b:
	default: // nobody reads any more
	}
}

func (s *socket) JSON() bool         { return false }
func (s *socket) Write([]byte) error { return nil }

func (s *socket) Read() ([]byte, error) {
	select {
	case <-s.over:
	default:
		select {
		case b := <-s.in:
			return b, nil
		case <-s.over:
		}
	}
	return nil, s.ended
}

func (s *socket) Close(code wire.CloseCode, reason string) {
	s.end(&transport.CloseError{Code: code, Reason: reason, Local: true})
}

func (s *socket) CloseNow() { s.end(&transport.CloseError{Code: wire.CloseAbnormal, Local: true}) }

func (s *socket) end(e *transport.CloseError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = e
		close(s.over)
	}
}

func (s *socket) closed() *transport.CloseError {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func beat(epoch, number int) *agentv1.Heartbeat {
	return &agentv1.Heartbeat{
		Agent: &agentv1.AgentInfo{
			Version: "8.0.0", Platform: "linux/amd64", InstanceId: fmt.Sprintf("%032x", epoch), Epoch: uint64(epoch), SessionNumber: uint64(number),
		},
		State: &agentv1.EndpointState{}, Capabilities: &agentv1.Capabilities{Names: []string{"PerformHeartbeat"}}, Inventory: &agentv1.Inventory{Hostname: "laptop"},
	}
}
