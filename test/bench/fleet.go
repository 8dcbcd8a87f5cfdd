package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rollcall-dev/rollcall/test/bench/probe"
	"github.com/rollcall-dev/rollcall/test/bench/rig"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

const sessionsMetric = "rollcall_gateway_sessions"

// fleet has simulated agents keep sessions, kills their gateway, starts another at once, and sees when all are back.
func (b *bench) fleet(ctx context.Context) ([]table.Row, error) {
	w, err := b.world(ctx)
	if err != nil {
		return nil, err
	}
	w.stopGateway()
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	sim, err := w.Fleetsim(w.token, w.states, b.agents)
	if err != nil {
		return nil, err
	}
	defer sim.Stop(time.Minute)
	began := time.Now()
	if err := w.sessions(ctx, b.agents, 3*time.Minute); err != nil {
		return nil, err
	}
	b.say("fleet: %d sessions after %.0f s", b.agents, time.Since(began).Seconds())
	if err := w.Online(ctx, b.agents); err != nil {
		return nil, err
	}
	offline, err := w.Watch(ctx, "Offline")
	if err != nil {
		return nil, err
	}
	defer offline.Stop()

	w.gateway.Kill()
	w.gateway = nil
	killed := time.Now()
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	up := time.Since(killed)
	if err := w.sessions(ctx, b.agents*95/100, 5*time.Minute); err != nil {
		return nil, err
	}
	most := time.Since(killed)
	if err := w.sessions(ctx, b.agents, 5*time.Minute); err != nil {
		return nil, err
	}
	back := time.Since(killed)
	if err := w.gateway.Idle(ctx, 2*time.Minute); err != nil {
		return nil, err
	}
	written := time.Since(killed)
	if err := w.Online(ctx, b.agents); err != nil {
		return nil, err
	}
	peak, err := probe.Peak(w.gateway.PID())
	if err != nil {
		return nil, err
	}
	clients, err := probe.Peak(sim.PID())
	if err != nil {
		return nil, err
	}
	shown := offline.Seen()
	return []table.Row{
		{
			Key: "fleet", Name: fmt.Sprintf("kill -9 of the gateway: until %d sessions are back", b.agents), Value: fmt.Sprintf("%.1f s", back.Seconds()),
			Notes: []string{fmt.Sprintf("the new gateway was ready %.1f s after the kill, 95 in 100 were back after %.1f s; all was written down after %.1f s; fleetsim took %.0f MB at most",
				up.Seconds(), most.Seconds(), written.Seconds(), mb(clients))},
		},
		{Key: "fleet", Name: "the new gateway's memory at its peak meanwhile", Value: fmt.Sprintf("%.0f MB", mb(peak)), Beside: fmt.Sprintf("%d sessions", b.agents)},
		{Key: "fleet", Name: "endpoints shown Offline meanwhile", Value: fmt.Sprint(shown), Goal: table.AtMost(float64(shown), 0, "")},
	}, nil
}

// sessions waits until the gateway has n.
func (w *world) sessions(ctx context.Context, n int, patience time.Duration) error {
	return rig.Poll(ctx, patience, func() error {
		have, err := w.gateway.Metric(ctx, sessionsMetric)
		if err == nil && int(have) < n {
			err = fmt.Errorf("there are %.0f sessions, not %d", have, n)
		}
		return err
	})
}
