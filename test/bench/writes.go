package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rollcall-dev/rollcall/test/bench/rig"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

const (
	// hour of a scaled system: 60 times as fast.
	hour       = time.Minute
	hours      = 2
	hourPolicy = `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: bench}, spec: {heartbeat: {intervalSeconds: 5}}}`
)

// writes counts what the API server was asked to write while a fleet of sessions does nothing but live, by its audit log.
func (b *bench) writes(ctx context.Context) ([]table.Row, error) {
	w, err := b.system(ctx, "writes", "--count-interval=1s")
	if err != nil {
		return nil, err
	}
	defer w.stop()
	if err := w.Apply(ctx, hourPolicy); err != nil {
		return nil, err
	}
	if w.token, err = w.Token(ctx); err != nil {
		return nil, err
	}
	if err := w.start(ctx, "--seen-refresh="+hour.String()); err != nil {
		return nil, err
	}
	n := max(50, b.agents/50)
	sim, err := w.Fleetsim(w.token, w.states, n)
	if err != nil {
		return nil, err
	}
	defer sim.Stop(10 * time.Second)
	if err := w.Online(ctx, n); err != nil {
		return nil, err
	}
	if err := w.gateway.Idle(ctx, time.Minute); err != nil {
		return nil, err
	}
	if err := pause(ctx, hour/4); err != nil { // what follows an enrolment is not what is measured
		return nil, err
	}
	before, err := w.Writes()
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, hours*hour); err != nil {
		return nil, err
	}
	after, err := w.Writes()
	if err != nil {
		return nil, err
	}
	since := after.Since(before)
	each := float64(since[rig.OfEndpoints]) / float64(n*hours)
	perBeat := hour.Seconds() / 5
	return []table.Row{{
		Key: "writes", Name: "API writes per endpoint and hour", Value: fmt.Sprintf("%.2f", each), Beside: fmt.Sprintf("%.0f heartbeats", perBeat),
		Ratio: each / perBeat, Goal: table.AtMost(each, 1, ""),
		Notes: []string{fmt.Sprintf("%d agents, %d hours of %s each; beside these, in an hour of the scaled clock: %s", n, hours, hour, since.Others(hours))},
	}}, w.Online(ctx, n)
}
