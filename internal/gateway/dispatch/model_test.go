package dispatch

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Two gateways whose watches lag as they like, an API server that is away now and then or does not say what it has done, a manager, and one agent
// that moves between them: whatever happens, nothing is done twice, what is written as never sent was not, and in the end each action has ended as
// the agent said.
func TestActionsBetweenGateways(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		moves := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) move {
			return move{rapid.SampledFrom(kinds).Draw(t, "what"), rapid.IntRange(0, 1).Draw(t, "gateway"), rapid.IntRange(0, 40).Draw(t, "n")}
		}), 1, 50).Draw(rt, "moves")
		var failure string
		synctest.Test(t, func(t *testing.T) { failure = play(t, moves) })
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
	"create", "create", "manager", "manager", "watch", "watch", "watch", "connect", "break", "https", "https", "beat", "report", "report",
	"pass", "pass", "cancel", "outage", "deaf", "crash", "lose", "delete",
}

// player has the gateways and the agent.
type player struct {
	*world
	gateways [2]*replica
	agents   [2]*Agent // as the gateways remember it
	names    []string  // of actions
	deleted  map[string]bool

	line    *socket // the agent's session; nil: it has none
	at      int     // the gateway of it
	journal map[string]*entry
	done    map[string]int
	failure string
}

// entry of the agent's journal.
type entry struct {
	name      string
	cancelled bool // and never begun
	settled   bool
}

func play(t *testing.T, moves []move) string {
	p := &player{world: newWorld(t), deleted: map[string]bool{}, journal: map[string]*entry{}, done: map[string]int{}}
	for i := range p.gateways {
		p.gateways[i], p.agents[i] = p.replica()
	}
	for _, m := range moves {
		p.move(m)
		p.arrive()
		if p.failure != "" {
			break
		}
	}
	p.settle()
	for _, r := range p.replicas {
		r.stop()
	}
	return p.failure
}

func (p *player) fail(format string, args ...any) {
	if p.failure == "" {
		p.failure = fmt.Sprintf(format, args...)
	}
}

func (p *player) move(m move) {
	g, a := p.gateways[m.gateway], p.agents[m.gateway]
	switch m.what {
	case "create":
		p.names = append(p.names, fmt.Sprintf("a-%02d", len(p.names)))
		p.create(p.names[len(p.names)-1])
	case "manager":
		p.manage()
	case "watch":
		g.watch()
	case "connect":
		p.breakOff()
		p.line, p.at = p.connect(g, a, p.open()...), m.gateway
	case "break":
		p.breakOff()
	case "https":
		if p.line == nil {
			p.poll(g, a)
		}
	case "beat":
		if p.line != nil {
			p.gateways[p.at].Heard(p.agents[p.at], p.beat(p.open()...), p.line, time.Now())
		}
	case "report":
		p.tell(m.gateway)
	case "pass":
		pass(time.Duration(m.n) * time.Second)
	case "cancel":
		if n := len(p.names); n > 0 && !p.deleted[p.names[m.n%n]] {
			p.server.change(p.names[m.n%n], func(a *v1alpha1.EndpointAction) { a.Spec.Cancel = true })
		}
	case "outage":
		p.server.be(func(s *server) { s.away = !s.away })
	case "deaf":
		p.server.be(func(s *server) { s.deaf = m.n % 3 })
	case "crash":
		if p.line != nil && p.at == m.gateway {
			p.breakOff()
		}
		p.server.be(func(s *server) { s.dead[g.name] = true })
		g.onChanged = func() {}
		p.gateways[m.gateway], p.agents[m.gateway] = p.replica()
	case "lose": // what is on its way to the agent
		if p.line != nil && m.n%4 == 0 {
			p.line.took()
		}
	case "delete":
		if n := len(p.names); n > 0 && m.n%4 == 0 && !p.deleted[p.names[m.n%n]] {
			p.deleted[p.names[m.n%n]] = true
			p.server.delete(p.names[m.n%n])
		}
	}
	synctest.Wait()
}

func (p *player) breakOff() {
	if p.line != nil {
		p.line.end()
		p.line = nil
	}
}

// open are the actions that the agent lists.
func (p *player) open() (names []string) {
	for _, e := range p.journal {
		if !e.settled {
			names = append(names, e.name)
		}
	}
	return names
}

// manage is the manager's look at everything.
func (p *player) manage() {
	for _, name := range p.names {
		if p.deleted[name] {
			continue
		}
		p.server.change(name, func(a *v1alpha1.EndpointAction) {
			l := action.Look{Now: time.Now(), FleetID: fleetID, Seal: seal, Endpoint: &action.Endpoint{
				IdentityID: p.endpoint.IdentityID, Lifecycle: v1alpha1.LifecycleActive, Reported: true, AgentVersion: "8.0.0", Online: true,
				Capabilities: []v1alpha1.Text{"PerformHeartbeat"}, Channel: v1alpha1.ChannelHeartbeat, Interval: 5 * time.Minute,
				JournalID: journalID, JournalTime: p.began,
			}}
			status, _, err := action.Next(a, l)
			if err != nil {
				p.fail("the manager at %s: %v", name, err)
				return
			}
			a.Status = *status
		})
		pass(time.Millisecond)
	}
}

func (p *player) poll(g *replica, a *Agent) {
	line, reply := NewAnswer(), &agentv1.HeartbeatReply{}
	g.Heard(a, p.beat(p.open()...), line, time.Now())
	g.Wait(p.Context(), line, reply)
	p.obey(reply.GetOrders())
}

// arrive has the agent obey what is there.
func (p *player) arrive() {
	synctest.Wait()
	if p.line == nil {
		return
	}
	p.line.mu.Lock()
	orders := p.line.sent
	p.line.sent = nil
	p.line.mu.Unlock()
	p.obey(orders)
}

// obey is what an agent does: once, and never what it was told to forget before it had it.
func (p *player) obey(orders []*agentv1.Envelope) {
	for _, o := range orders {
		m := &agentv1.Action{}
		if err := envelope.Open(o, envelope.Type(o.GetPayloadType()), m, orderKey.Public()); err != nil {
			p.fail("%v", err)
			return
		}
		uid := m.GetActionUid()
		name := ""
		for _, n := range p.names {
			if uidOf(n) == uid {
				name = n
			}
		}
		if s := p.server.stored(name); s != nil && s.Status.Delivery == nil {
			p.fail("%s is %s, and was sent", name, s.Status.Phase)
		}
		if e := p.journal[uid]; e != nil {
			e.settled = false // it says again what became of it
			continue
		}
		cancelled := o.GetPayloadType() == string(envelope.Cancel) || !time.Now().Before(m.GetExpiresAt().AsTime())
		p.journal[uid] = &entry{name: name, cancelled: cancelled}
		if !cancelled {
			p.done[name]++
		}
	}
}

// tell reports what became of everything that is not settled.
func (p *player) tell(gateway int) {
	if p.line != nil {
		gateway = p.at
	}
	for _, e := range p.journal {
		if e.settled {
			continue
		}
		outcome := agentv1.Outcome_OUTCOME_SUCCEEDED
		if e.cancelled {
			outcome = agentv1.Outcome_OUTCOME_CANCELLED
		}
		u := p.result(e.name, outcome)
		answers := make(chan *wire.Problem, 1)
		if q, done := p.gateways[gateway].Update(p.agents[gateway], p.spki, u, time.Now(), func(q *wire.Problem) { answers <- q }); done {
			answers <- q
		}
		if q := <-answers; q != nil {
			continue
		}
		e.settled = true
		if s := p.server.stored(e.name); s != nil && (s.Status.Result == nil || !bytes.Equal(s.Status.Result.Proof.Payload, u.Result.Payload) && s.Status.Phase == v1alpha1.ActionPending) {
			p.fail("the result of %s was acknowledged, and it is %s", e.name, s.Status.Phase)
		}
	}
}

// settle lets everything come to rest, and compares.
func (p *player) settle() {
	p.server.be(func(s *server) { s.away, s.deaf = false, 0 })
	if p.line == nil {
		p.line, p.at = p.connect(p.gateways[0], p.agents[0], p.open()...), 0
	}
	for range 10 {
		p.manage()
		for _, g := range p.gateways {
			g.watch()
		}
		pass(20 * time.Second)
		p.arrive()
		p.tell(p.at)
	}
	for _, name := range p.names {
		if p.done[name] > 1 {
			p.fail("%s was done %d times", name, p.done[name])
		}
		s := p.server.stored(name)
		switch {
		case s == nil:
		case s.Status.FinishTime == nil:
			p.fail("%s is %s in the end: %s", name, s.Status.Phase, s.Status.Message)
		case (s.Status.Phase == v1alpha1.ActionSucceeded) != (p.done[name] == 1):
			p.fail("%s is %s, and was done %d times", name, s.Status.Phase, p.done[name])
		}
	}
	for _, e := range p.journal {
		if !e.settled {
			p.fail("the result of %s was never taken", e.name)
		}
	}
	p.breakOff()
	pass(time.Minute)
	for _, r := range p.gateways {
		r.watch()
		pass(2 * time.Second)
		if n := len(r.active); n > 0 {
			p.fail("%s still remembers %d agents", r.name, n)
		}
	}
}
