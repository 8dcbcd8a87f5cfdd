package session

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// settle is how long after an agent was to come back it may take until another gateway has recorded that.
	settle = 2 * time.Second
	// look is how often it is looked whether it has.
	look = 100 * time.Millisecond
)

// Drain lets no more sessions begin and closes those that there are, over Spread if they are many, so that their agents do not all connect at
// once elsewhere. It then waits until they did, or have had the time to, or ctx ends. What is recorded as up here in the end is recorded as
// down. Afterwards nothing runs but Run.
func (h *Hub) Drain(ctx context.Context) {
	h.mu.Lock()
	h.draining = true
	all := append([]*Session(nil), h.all...)
	h.mu.Unlock()
	// As many a second as another gateway lets begin.
	spread := min(h.config.Spread, time.Duration(len(all))*h.config.Upgrades.Every).Truncate(time.Second)
	began := time.Now()
	for i, s := range all {
		wait(ctx, time.Until(began.Add(spread*time.Duration(i)/time.Duration(len(all)))))
		h.end(s, draining(time.Second+rand.N(spread+1))) //nolint:gosec // to spread them
	}
	h.running.Wait()
	for end := time.Now().Add(time.Second + spread + settle); h.unfollowed() > 0 && ctx.Err() == nil && time.Now().Before(end); {
		wait(ctx, look)
	}
	h.mu.Lock()
	left := h.past(h.since(time.Now()))
	h.mu.Unlock()
	for _, e := range left {
		h.config.Beats.Down(e.agent, e.instance, e.last, time.Now())
	}
}

// unfollowed is how many sessions have ended and are still recorded as up here.
func (h *Hub) unfollowed() (n int) {
	h.mu.Lock()
	all := slices.Collect(maps.Values(h.ended))
	h.mu.Unlock()
	for _, e := range all {
		if _, ok := h.config.Beats.Recorded(e.agent.IdentityID()); ok {
			n++
		}
	}
	return n
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
