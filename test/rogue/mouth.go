package rogue

import (
	"crypto/tls"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/listen"
	"github.com/rollcall-dev/rollcall/internal/gateway/session"
	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// The real gateway reads the clock by itself where it tells agents the time. What it is about to say is therefore changed here.

// welcome serves one connection of an agent.
func (r *Rogue) welcome(state *tls.ConnectionState, peer *listen.Peer) http.Handler {
	credentials := r.judge.Credentials(state)
	front := r.front.Welcome(state, peer)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case wire.PathSession:
			if p := r.session(w, req, peer, credentials); p != nil {
				p.Write(w)
			}
		case wire.PathHeartbeat:
			front.ServeHTTP(answer{w, r.liar}, req)
		default:
			front.ServeHTTP(w, req)
		}
	})
}

// session upgrades to a websocket, as the real gateway does but for what is said on it.
func (r *Rogue) session(w http.ResponseWriter, req *http.Request, peer *listen.Peer, credentials auth.Credentials) *wire.Problem {
	now := time.Now()
	e, p := r.judge.Check(credentials, now)
	if p != nil {
		return p
	}
	peer.Vouch(e.IdentityID)
	agent := r.beats.Agent(e, now)
	if p := r.beats.Admit(agent, now); p != nil {
		return p
	}
	conn, p := transport.Accept(w, req)
	if p != nil {
		return p
	}
	peer.Hand(r.sessions.Open(mouth{conn, r.liar}, credentials, agent, peer.Address, now))
	return nil
}

// mouth is a websocket to an agent.
type mouth struct {
	session.Conn
	liar *liar
}

// Write implements session.Conn.
func (m mouth) Write(message []byte) error {
	said := &agentv1.ServerMessage{}
	then := m.liar.time()
	if then == nil || wire.Protobuf.Unmarshal(message, said) != nil {
		return m.Conn.Write(message)
	}
	if reply := said.GetHeartbeatReply(); reply != nil {
		reply.ServerTime = then
	}
	if orders := said.GetOrders(); orders != nil {
		orders.ServerTime = then
	}
	message, err := wire.Protobuf.Marshal(said)
	if err != nil {
		return err
	}
	return m.Conn.Write(message)
}

// answer is to a heartbeat over HTTPS.
type answer struct {
	http.ResponseWriter
	liar *liar
}

// Write implements http.ResponseWriter, for a gateway that writes an answer in one go.
func (a answer) Write(body []byte) (int, error) {
	said := &agentv1.HeartbeatReply{}
	then := a.liar.time()
	if then == nil || a.Header().Get("Content-Type") != wire.Protobuf.ContentType() || wire.Protobuf.Unmarshal(body, said) != nil {
		return a.ResponseWriter.Write(body)
	}
	said.ServerTime = then
	body, err := wire.Protobuf.Marshal(said)
	if err != nil {
		return 0, err
	}
	return a.ResponseWriter.Write(body)
}

// time is what agents are told without a signature; nil: the truth.
func (l *liar) time() *timestamppb.Timestamp {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.serverTime
}
