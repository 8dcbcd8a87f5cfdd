package session

import (
	"time"

	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// maxTurn is the latest that an agent is told to come again.
const maxTurn = time.Minute

// gate lets sessions begin at a rate. Who is turned away gets a turn of its own: a storm comes back as a queue.
type gate struct {
	pace limit.State
	turn time.Time // the last that was given
}

func (g *gate) take(r limit.Rate, now time.Time) *wire.Problem {
	if _, ok := g.pace.Take(r, now); ok {
		return nil
	}
	if soonest := now.Add(time.Second); g.turn.Before(soonest) {
		g.turn = soonest
	}
	if latest := now.Add(maxTurn); g.turn.After(latest) {
		g.turn = latest
	}
	g.turn = g.turn.Add(r.Every)
	return &wire.Problem{
		Name: wire.Overloaded, RetryAfter: g.turn.Sub(now),
		Detail: "Many agents connect at once, each gets its turn. Heartbeats over HTTPS are served meanwhile.",
	}
}

// Admit tells why no session may begin now.
func (h *Hub) Admit(now time.Time) *wire.Problem {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return draining(time.Second)
	}
	return h.gate.take(h.config.Upgrades, now)
}

func draining(retry time.Duration) *wire.Problem {
	return &wire.Problem{Name: wire.Draining, Detail: "This gateway is about to stop: connect again, and reach another.", RetryAfter: retry}
}
