package gateway

import (
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/rollcall-dev/rollcall/internal/transport"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

var minSessionVersion = version.MustParseGeneric(wire.MinSessionVersion)

// checkVersion tells whether agents of a version may have sessions.
func checkVersion(agent string) *wire.Problem {
	if v, err := version.ParseGeneric(agent); err == nil && !v.LessThan(minSessionVersion) {
		return nil
	}
	return &wire.Problem{
		Name: wire.AgentVersionUnsupported, Minimum: wire.MinSessionVersion,
		Detail: fmt.Sprintf("Agent %s is too old for the websocket, which needs %s or later: it is served by heartbeats over HTTPS.", agent, wire.MinSessionVersion),
	}
}

// serveSession upgrades to a websocket. The first message on it is a heartbeat, and counts as one here, before it costs anything.
func (c *connection) serveSession(w http.ResponseWriter, r *http.Request, now time.Time) *wire.Problem {
	if p := checkVersion(r.Header.Get(wire.HeaderAgentVersion)); p != nil {
		return p
	}
	e, p := c.authenticate(w, now)
	if p != nil {
		return p
	}
	if p := c.gateway.Sessions.Admit(now); p != nil {
		return p
	}
	agent := c.gateway.Heartbeat.Agent(e, now)
	if p := c.gateway.Heartbeat.Admit(agent, now); p != nil {
		return p
	}
	conn, p := transport.Accept(w, r)
	if p != nil {
		return p
	}
	c.peer.Hand(c.gateway.Sessions.Open(conn, c.credentials, agent, c.peer.Address, now))
	return nil
}
