package fleettest

import (
	"crypto/tls"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Session is an agent's websocket, as the gateway has it.
type Session struct {
	g    *Gateway
	conn *transport.Conn
	tls  *tls.ConnectionState
	// Resumed tells that TLS was.
	Resumed bool
}

// Sessions are those that are open.
func (g *Gateway) Sessions() []*Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.sessions))
}

// Session is the only one there is.
func (g *Gateway) Session() *Session {
	g.t.Helper()
	all := g.Sessions()
	if len(all) != 1 {
		g.t.Fatalf("there are %d websockets, want one", len(all))
	}
	return all[0]
}

// AwaitSessions waits until that many websockets are open, AwaitConnections for connections of whatever kind.
func (g *Gateway) AwaitSessions(n int) {
	g.t.Helper()
	g.await("websockets", n, func() int { return len(g.Sessions()) })
}

// AwaitConnections is described with AwaitSessions.
func (g *Gateway) AwaitConnections(n int) {
	g.t.Helper()
	g.await("connections", n, g.Connections)
}

func (g *Gateway) await(what string, n int, have func() int) {
	g.t.Helper()
	deadline, tick := time.After(20*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for have() != n {
		select {
		case <-deadline:
			g.t.Fatalf("waited 20s for %d %s; there are %d", n, what, have())
		case <-tick.C:
		}
	}
}

// Upgrades is how many websockets there were.
func (g *Gateway) Upgrades() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.upgrades
}

// Pings is how many pings came.
func (g *Gateway) Pings() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pings
}

// Over is the way that each heartbeat took, websocket or HTTPS.
func (g *Gateway) Over() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.over)
}

// Connections is how many there are, websockets included.
func (g *Gateway) Connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns) + len(g.sessions)
}

func (g *Gateway) connState(c net.Conn, state http.ConnState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch state {
	case http.StateNew:
		g.conns[c] = true
	case http.StateHijacked, http.StateClosed:
		delete(g.conns, c)
	default:
	}
}

// Close ends it with a close frame.
func (s *Session) Close(code wire.CloseCode, reason string) { s.conn.Close(code, reason) }

// Cut ends it without.
func (s *Session) Cut() { s.conn.CloseNow() }

// Push sends orders.
func (s *Session) Push(orders ...*agentv1.Envelope) {
	s.g.t.Helper()
	s.Say(&agentv1.ServerMessage{Body: &agentv1.ServerMessage_Orders{Orders: &agentv1.Orders{Orders: orders, Beacon: s.g.Fleet.Beacon()}}})
}

// Say sends a message.
func (s *Session) Say(m *agentv1.ServerMessage) {
	s.g.t.Helper()
	b, err := wire.Protobuf.Marshal(m)
	if err != nil {
		s.g.t.Error(err)
	}
	s.Raw(b)
}

// Raw sends bytes as a message. An agent that is gone does not hear them.
func (s *Session) Raw(b []byte) { _ = s.conn.Write(b) }

// session serves a websocket, in the goroutine of its request.
func (g *Gateway) session(w http.ResponseWriter, r *http.Request) {
	conn, p := transport.Accept(w, r)
	if p != nil {
		p.Write(w)
		return
	}
	s := &Session{g: g, conn: conn, tls: r.TLS, Resumed: r.TLS.DidResume}
	g.mu.Lock()
	g.handlers.Add(1)
	g.sessions[s] = true
	g.upgrades++
	g.mu.Unlock()
	defer g.handlers.Done()
	defer func() {
		conn.CloseNow()
		g.mu.Lock()
		delete(g.sessions, s)
		g.mu.Unlock()
	}()
	for id := uint64(1); ; id++ {
		b, err := conn.Read()
		if err != nil {
			return
		}
		m := &agentv1.AgentMessage{}
		if err := wire.Protobuf.Unmarshal(b, m); err != nil || wire.CheckAgentMessage(m) != nil || m.GetId() != id {
			g.t.Errorf("message %d of the websocket is %v", id, m)
		}
		s.handle(m)
	}
}

// handle answers one message.
func (s *Session) handle(m *agentv1.AgentMessage) {
	g := s.g
	reply := &agentv1.ServerMessage{Re: m.GetId()}
	var p *wire.Problem
	g.mu.Lock()
	if beat := m.GetHeartbeat(); beat != nil {
		instance := beat.GetAgent().GetInstanceId()
		if n := beat.GetAgent().GetSessionNumber(); !g.Disordered.Load() && m.GetId() == 1 && n <= g.numbers[instance] || n == 0 {
			g.t.Errorf("a heartbeat on session %d after %d", n, g.numbers[instance])
		}
		g.numbers[instance] = max(g.numbers[instance], beat.GetAgent().GetSessionNumber())
		var answer *agentv1.HeartbeatReply
		answer, p = g.answer(beat, s.tls, "websocket")
		reply.Body = &agentv1.ServerMessage_HeartbeatReply{HeartbeatReply: answer}
	} else if u := m.GetActionUpdate(); u != nil && m.GetId() > 1 {
		switch ack := g.update(u, s.tls, "websocket"); {
		case ack == nil:
			g.mu.Unlock()
			return
		case ack.GetProblem() != nil:
			reply.Body = &agentv1.ServerMessage_Problem{Problem: ack.GetProblem()}
		default:
			reply.Body = &agentv1.ServerMessage_Ack{Ack: ack}
		}
	} else {
		if m.GetPing() == nil || m.GetId() == 1 {
			g.t.Errorf("message %d is %v", m.GetId(), m)
		}
		g.pings++
		reply.Body = &agentv1.ServerMessage_Pong{Pong: &agentv1.Pong{}}
	}
	g.mu.Unlock()
	switch {
	case p != nil:
		s.Close(p.Close())
	case g.Mute.Load() || m.GetPing() != nil && g.MutePings.Load():
	default:
		s.Say(reply)
	}
}
