// Package gateway is what agents talk to: it finds the route of a request, has the agent authenticated where the route asks for it, and puts the
// answer into words.
package gateway

import (
	"crypto/tls"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/dispatch"
	"github.com/rollcall-dev/rollcall/internal/gateway/download"
	"github.com/rollcall-dev/rollcall/internal/gateway/enroll"
	"github.com/rollcall-dev/rollcall/internal/gateway/heartbeat"
	"github.com/rollcall-dev/rollcall/internal/gateway/listen"
	"github.com/rollcall-dev/rollcall/internal/gateway/session"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Source is what there is to know. *store.Store is one.
type Source interface {
	Ready() error
	Trust() (*store.Trust, bool)
}

// Config of a Gateway.
type Config struct {
	Source    Source
	Auth      *auth.Authenticator
	Enroll    *enroll.Service
	Heartbeat *heartbeat.Service
	Actions   *dispatch.Dispatcher
	Sessions  *session.Hub
	Downloads *download.Service
	Metrics   *Metrics
	Log       logr.Logger
}

// Gateway answers the agents' requests.
type Gateway struct {
	Config
	trust publisher
	ready atomic.Bool // it was once, and then stays so: what was read is there while the API server is away
}

// New makes a gateway.
func New(config Config) *Gateway { return &Gateway{Config: config} }

// Welcome is for listen.Config.Welcome.
func (g *Gateway) Welcome(state *tls.ConnectionState, peer *listen.Peer) http.Handler {
	return &connection{gateway: g, peer: peer, credentials: g.Auth.Credentials(state)}
}

// connection is one agent's, and answers its requests one by one.
type connection struct {
	gateway     *Gateway
	peer        *listen.Peer
	credentials auth.Credentials
	vouched     bool
	pending     bool // the answer was: ask again
}

// route of the protocol; one whose path ends with a slash is for all below. Its handler returns nil once it has written an answer.
type route struct {
	path    string
	name    string // in metrics
	methods []string
	// early says that the route is served before everything was read.
	early  bool
	handle func(c *connection, w http.ResponseWriter, r *http.Request, now time.Time) *wire.Problem
}

var routes = []route{
	{wire.PathTrust, "trust", []string{http.MethodGet, http.MethodHead}, true, (*connection).serveTrust},
	{wire.PathEnroll, "enroll", []string{http.MethodPost}, false, (*connection).serveEnroll},
	{wire.PathRenew, "renew", []string{http.MethodPost}, false, (*connection).serveRenew},
	{wire.PathHeartbeat, "heartbeat", []string{http.MethodPost}, false, (*connection).serveHeartbeat},
	{wire.PathActions, "actions", []string{http.MethodPost}, false, (*connection).serveActions},
	{wire.PathSession, "session", []string{http.MethodGet}, false, (*connection).serveSession},
	{wire.PathArtifacts, "artifacts", []string{http.MethodGet, http.MethodHead}, false, (*connection).serveArtifact},
}

// ServeHTTP implements http.Handler.
func (c *connection) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	c.pending = false
	at, p := find(r, w.Header())
	if p == nil {
		p = wire.CheckRequest(r)
	}
	if p == nil && !at.early {
		p = c.gateway.missing()
	}
	if p == nil {
		p = at.handle(c, w, r, now)
	}
	if p != nil {
		p.Write(w)
		c.gateway.Log.V(1).Info("Refused.", "route", at.name, "remoteAddress", c.peer.Address.String(), "reason", string(p.Name), "detail", p.Detail)
	}
	if !c.vouched { // a stranger's connection is good for one answer
		w.Header().Set("Connection", "close")
	}
	c.gateway.Metrics.answered(at.name, c.result(p), time.Since(now))
}

func (c *connection) result(p *wire.Problem) string {
	switch {
	case p != nil:
		return string(p.Name)
	case c.pending:
		return "pending"
	}
	return "ok"
}

// find is the route of a request.
func find(r *http.Request, answer http.Header) (route, *wire.Problem) {
	for _, at := range routes {
		if at.path != r.URL.Path && (!strings.HasSuffix(at.path, "/") || !strings.HasPrefix(r.URL.Path, at.path)) {
			continue
		}
		for _, m := range at.methods {
			if m == r.Method {
				return at, nil
			}
		}
		allowed := strings.Join(at.methods, ", ")
		answer.Set("Allow", allowed)
		return at, &wire.Problem{Name: wire.MethodNotAllowed, Detail: "This route takes " + allowed + ".", Supported: at.methods}
	}
	none := route{name: "none"}
	if rest, ours := strings.CutPrefix(r.URL.Path, "/agent/"); ours && rest != "v1" && !strings.HasPrefix(rest, "v1/") {
		return none, &wire.Problem{Name: wire.ProtocolVersionUnsupported, Detail: "This gateway speaks version 1 of the protocol, below " + wire.PathPrefix + ".", Supported: []string{"v1"}}
	}
	return none, &wire.Problem{Name: wire.NotFound, Detail: "There is no such route in version 1 of the protocol."}
}

func (g *Gateway) missing() *wire.Problem {
	if g.ready.Load() {
		return nil
	}
	if err := g.Source.Ready(); err != nil {
		return auth.NotReady("this gateway has not read everything from the API server yet")
	}
	g.ready.Store(true)
	return nil
}

// authenticate says which endpoint the agent is. From then on its connection is no stranger's; one that is refused is not kept.
func (c *connection) authenticate(w http.ResponseWriter, now time.Time) (store.Endpoint, *wire.Problem) {
	e, p := c.gateway.Auth.Check(c.credentials, now)
	if p != nil {
		w.Header().Set("Connection", "close")
		return store.Endpoint{}, p
	}
	c.peer.Vouch(e.IdentityID)
	c.vouched = true
	return e, nil
}

func (c *connection) serveHeartbeat(w http.ResponseWriter, r *http.Request, now time.Time) *wire.Problem {
	e, p := c.authenticate(w, now)
	if p != nil {
		return p
	}
	agent := c.gateway.Heartbeat.Agent(e, now)
	if p := c.gateway.Heartbeat.Admit(agent, now); p != nil {
		return p
	}
	m := &agentv1.Heartbeat{}
	codec, p := wire.Decode(r, wire.MaxHeartbeatBytes, m, wire.CheckHeartbeat)
	if p != nil {
		return p
	}
	reply, line := &agentv1.HeartbeatReply{}, dispatch.NewAnswer()
	p = c.gateway.Heartbeat.Beat(agent, m, nil, heartbeat.Via{Line: line, Address: c.peer.Address}, now, reply)
	c.gateway.Sessions.Heard(e.IdentityID) // it may have said that its session is over
	if p != nil {
		return p
	}
	c.gateway.Actions.Wait(r.Context(), line, reply)
	return answer(w, codec, reply)
}

func (c *connection) serveActions(w http.ResponseWriter, r *http.Request, now time.Time) *wire.Problem {
	e, p := c.authenticate(w, now)
	if p != nil {
		return p
	}
	agent := c.gateway.Heartbeat.Agent(e, now).Actions()
	if p := c.gateway.Actions.Admit(agent, now); p != nil {
		return p
	}
	m := &agentv1.ActionUpdates{}
	codec, p := wire.Decode(r, wire.MaxActionsBytes, m, wire.CheckActionUpdates)
	if p != nil {
		return p
	}
	return answer(w, codec, c.gateway.Actions.Updates(r.Context(), agent, c.credentials.Certificate.SPKI, m.GetUpdates(), now))
}

func (c *connection) serveArtifact(w http.ResponseWriter, r *http.Request, now time.Time) *wire.Problem {
	e, p := c.authenticate(w, now)
	if p != nil {
		return p
	}
	return c.gateway.Downloads.Serve(w, r, e, strings.TrimPrefix(r.URL.Path, wire.PathArtifacts))
}

func (c *connection) serveEnroll(w http.ResponseWriter, r *http.Request, now time.Time) *wire.Problem {
	m := &agentv1.EnrollRequest{}
	codec, p := wire.Decode(r, wire.MaxEnrollBytes, m, wire.CheckEnrollRequest)
	if p != nil {
		return p
	}
	a, p := c.gateway.Enroll.Enroll(r.Context(), m, c.peer.Address, now)
	return c.certificate(w, codec, a, p, "enrolment")
}

func (c *connection) serveRenew(w http.ResponseWriter, r *http.Request, now time.Time) *wire.Problem {
	known := false
	if c.credentials.Certificate != nil { // it need not have one: an expired one is renewed here
		e, p := c.gateway.Auth.Check(c.credentials, now)
		if known = p == nil; known {
			c.peer.Vouch(e.IdentityID)
			c.vouched = true
		}
	}
	m := &agentv1.RenewRequest{}
	codec, p := wire.Decode(r, wire.MaxRenewBytes, m, wire.CheckRenewRequest)
	if p != nil {
		return p
	}
	a, p := c.gateway.Enroll.Renew(r.Context(), m, c.peer.Address, known, now)
	return c.certificate(w, codec, a, p, "renewal")
}

// certificate answers an enrolment or a renewal.
func (c *connection) certificate(w http.ResponseWriter, codec wire.Codec, a enroll.Answer, p *wire.Problem, what string) *wire.Problem {
	switch {
	case p != nil:
		return p
	case a.Certificate == nil:
		c.pending = true
		w.Header().Set("Retry-After", seconds(a.After))
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	c.gateway.Log.Info("A certificate was handed out.", "reason", what, "remoteAddress", c.peer.Address.String())
	return answer(w, codec, &agentv1.CertificateReply{Certificate: a.Certificate})
}

func answer(w http.ResponseWriter, codec wire.Codec, m wire.Message) *wire.Problem {
	body, err := codec.Marshal(m)
	if err != nil {
		return &wire.Problem{Name: wire.Internal, Detail: "The answer could not be encoded.", RetryAfter: time.Minute}
	}
	w.Header().Set("Content-Type", codec.ContentType())
	_, _ = w.Write(body) //nolint:gosec // G705: protobuf or JSON by its content type, for agents, who run no scripts
	return nil
}
