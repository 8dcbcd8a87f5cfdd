package session

import (
	"time"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Admit tells why no session may begin now.
func (h *Hub) Admit(now time.Time) *wire.Problem {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return draining(time.Second)
	}
	if wait, ok := h.gate.Take(h.config.Upgrades, now); !ok {
		return &wire.Problem{
			Name: wire.Overloaded, RetryAfter: wait,
			Detail: "Many agents connect at once, each gets its turn. Heartbeats over HTTPS are served meanwhile.",
		}
	}
	return nil
}

func draining(retry time.Duration) *wire.Problem {
	return &wire.Problem{Name: wire.Draining, Detail: "This gateway is about to stop: connect again, and reach another.", RetryAfter: retry}
}
