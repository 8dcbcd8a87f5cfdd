package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rollcall-dev/rollcall/test/bench/drill"
	"github.com/rollcall-dev/rollcall/test/bench/probe"
	"github.com/rollcall-dev/rollcall/test/bench/rig"
	"github.com/rollcall-dev/rollcall/test/bench/stats"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

const (
	reconnectRounds = 5
	reconnects      = 1000
	reconnecters    = 16
)

// reconnect compares the gateway's CPU for a connection up to its 101 with and without the TLS session of the one before.
func (b *bench) reconnect(ctx context.Context) ([]table.Row, error) {
	w, err := b.world(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	crowd, err := b.crowd(min(b.agents, 500))
	if err != nil {
		return nil, err
	}
	defer crowd.Stop()
	full, resumed, hello := []float64{}, []float64{}, 0.0
	for round := range reconnectRounds + 1 {
		f, err := b.cpuPerReconnect(crowd, drill.Order{})
		if err != nil {
			return nil, err
		}
		r, err := b.cpuPerReconnect(crowd, drill.Order{Resume: true})
		if err != nil {
			return nil, err
		}
		if round > 0 { // in the first there is nothing to resume
			full, resumed = append(full, f), append(resumed, r)
		}
	}
	if hello, err = b.cpuPerReconnect(crowd, drill.Order{Resume: true, Hello: true}); err != nil {
		return nil, err
	}
	ours, whole := stats.Median(resumed), stats.Median(full)
	row := table.Row{
		Key: "reconnect", Name: "server's CPU per reconnect, resumed", Value: fmt.Sprintf("%.0f µs", ours), Beside: fmt.Sprintf("%.0f µs full", whole),
		Ratio: ours / whole, Goal: table.AtMost(ours/whole, 0.4, "×"),
		Notes: []string{fmt.Sprintf("TCP, TLS and upgrade; medians of %d rounds of %d. With the first heartbeats and what they have written, resumed: %.0f µs", reconnectRounds, reconnects, hello)},
	}
	return []table.Row{row}, b.missed(ctx, &row, w.gateway, "cpu.pprof", func() error {
		_, err := b.cpuPerReconnect(crowd, drill.Order{Resume: true})
		return err
	})
}

// cpuPerReconnect is in microseconds.
func (b *bench) cpuPerReconnect(crowd *rig.Crowd, o drill.Order) (float64, error) {
	g := b.fleetOf.gateway
	o.Deed, o.Kind, o.Address, o.Count, o.Workers = drill.Reconnect, drill.Session, g.Address, reconnects, reconnecters
	before, err := probe.CPU(g.PID())
	if err != nil {
		return 0, err
	}
	r, err := crowd.Do(o)
	if err != nil {
		return 0, err
	}
	if o.Hello { // what they had written counts, too
		if err := g.Idle(context.Background(), time.Minute); err != nil {
			return 0, err
		}
	}
	after, err := probe.CPU(g.PID())
	if err == nil && !o.Resume && r.Resumed > 0 {
		err = fmt.Errorf("%d of %d handshakes were resumed that were to be full", r.Resumed, r.Done)
	}
	return float64((after - before).Nanoseconds()) / 1e3 / float64(r.Done), err
}
