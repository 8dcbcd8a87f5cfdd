package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rollcall-dev/rollcall/test/bench/stats"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

// selector has one action reach many simulated agents, and looks how long that takes, and what others notice of it.
func (b *bench) selector(ctx context.Context) ([]table.Row, error) {
	w, err := b.world(ctx)
	if err != nil {
		return nil, err
	}
	n := b.agents
	w.stopGateway()
	if err := w.start(ctx, "--session-rate=1000"); err != nil {
		return nil, err
	}
	sim, err := w.Fleetsim(w.token, w.states, n)
	if err != nil {
		return nil, err
	}
	defer sim.Stop(time.Minute)
	if err := w.sessions(ctx, n, 5*time.Minute); err != nil {
		return nil, err
	}
	if err := w.Quiet(ctx, 3*time.Second); err != nil {
		return nil, err
	}
	raw, err := w.RawWrites(ctx, 10*time.Second)
	if err != nil {
		return nil, err
	}
	calm, err := b.probed(ctx, w, "calm", func() error { return pause(ctx, 5*time.Second) })
	if err != nil {
		return nil, err
	}
	a, err := w.Actions(ctx)
	if err != nil {
		return nil, err
	}
	defer a.Stop()
	began := time.Now()
	busy, err := b.probed(ctx, w, "busy", func() error {
		target := map[string]any{
			"maxParallel": int64(500),
			"selector":    map[string]any{"matchExpressions": []any{map[string]any{"key": "reported.rollcall.dev/os", "operator": "Exists"}}},
		}
		if _, err := a.Create(ctx, "all", target); err != nil {
			return err
		}
		return a.Ended(ctx, "all", 10*time.Minute)
	})
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	finished := float64(n) / took.Seconds()
	status, err := w.StatusWrites(ctx, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return []table.Row{
		{
			Key: "selector", Name: fmt.Sprintf("one action on %d endpoints: targets finished a second", n), Value: fmt.Sprintf("%.0f", finished),
			Beside: fmt.Sprintf("%.0f raw writes", raw), Ratio: finished / raw, Goal: table.AtLeast(finished/raw, 0.2, "×"),
			Notes: []string{fmt.Sprintf("all had it after %.1f s", took.Seconds())},
		},
		{
			Key: "selector", Name: "the same", Value: fmt.Sprintf("%.0f", finished),
			Beside: fmt.Sprintf("%.0f raw writes of their status", status), Ratio: finished / status, Goal: table.AtLeast(finished/status, 0.2, "×"),
		},
		{
			Key: "selector", Name: "another client's read and write meanwhile, p99", Value: inMilliseconds(stats.Quantile(busy, 0.99)),
			Beside: inMilliseconds(stats.Quantile(calm, 0.99)) + " (before)", Ratio: float64(stats.Quantile(busy, 0.99)) / float64(stats.Quantile(calm, 0.99)),
		},
	}, nil
}

// probed is how long another client's requests take while do runs.
func (b *bench) probed(ctx context.Context, w *world, name string, do func() error) ([]time.Duration, error) {
	stop, err := w.Probe(ctx, "probe-"+name)
	if err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		_, _ = stop()
		return nil, err
	}
	return stop()
}
