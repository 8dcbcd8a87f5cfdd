package session

import (
	"context"
	"hash/fnv"
	"time"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Run looks at all sessions' times until ctx ends.
func (h *Hub) Run(ctx context.Context) {
	tick := time.NewTicker(h.config.Sweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			h.sweep(now)
			h.metrics.sweep.Observe(time.Since(now).Seconds())
		}
	}
}

// sweep ends the sessions that are silent, refreshes the records of those whose time has come, and records as down what has ended some time ago.
func (h *Hub) sweep(now time.Time) {
	at := h.since(now)
	var silent, due []*Session
	h.mu.Lock()
	for _, s := range h.all {
		switch {
		case at-time.Duration(s.last.Load()) > time.Duration(s.silence.Load()):
			silent = append(silent, s)
		case at >= s.due:
			s.due = h.due(s, now)
			due = append(due, s)
		}
	}
	down := h.past(at - h.config.DownAfter)
	h.mu.Unlock()
	for _, s := range silent {
		h.end(s, &wire.Problem{Name: wire.MessageTimeout})
	}
	for _, s := range due {
		h.refresh(s, now)
	}
	for _, e := range down {
		h.config.Beats.Down(e.agent, e.instance, e.last, now)
	}
}

// past takes out what ended by a time, under the lock.
func (h *Hub) past(at time.Duration) (all []ending) {
	for len(h.endings) > 0 && h.endings[0].at <= at {
		e := h.endings[0]
		h.endings = h.endings[1:]
		if h.ended[e.agent.IdentityID()] == e {
			delete(h.ended, e.agent.IdentityID())
			all = append(all, e)
		}
	}
	return all
}

// refresh judges a session's certificate anew, which expires without anybody's doing, and records when its agent was last heard of. Between two
// such records there may be half the time between two refreshes, if something else was recorded meanwhile, and one and a half.
func (h *Hub) refresh(s *Session, now time.Time) {
	if _, p := h.config.Auth.Check(s.credentials, now); p != nil {
		h.end(s, p)
		return
	}
	if s.is(up) {
		h.config.Beats.Refresh(s.agent, h.lastMessage(s, now), h.config.Refresh/2)
	}
}

// due is when a session is to be refreshed next, or its certificate expires.
func (h *Hub) due(s *Session, now time.Time) time.Duration {
	next := nextRefresh(s.agent.IdentityID(), h.config.Refresh, now)
	if c := s.credentials.Certificate; c != nil && c.NotAfter.Before(next) && !c.NotAfter.Before(now) {
		next = c.NotAfter.Add(time.Millisecond)
	}
	return h.since(now) + next.Sub(now)
}

// nextRefresh is a time after now that is the endpoint's own in each period, the same at every gateway.
func nextRefresh(identityID string, period time.Duration, now time.Time) time.Time {
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(identityID))
	offset := int64(sum.Sum64() % uint64(period)) //nolint:gosec // below the period
	into := (now.UnixNano() - offset) % int64(period)
	return now.Add(period - time.Duration(into))
}
