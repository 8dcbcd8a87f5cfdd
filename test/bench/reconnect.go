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
	reconnectRounds = 7
	reconnecters    = 16
)

// reconnect compares the gateway's CPU for a connection up to its 101 with and without the TLS session of the one before.
func (b *bench) reconnect(ctx context.Context) ([]table.Row, error) {
	w, err := b.world(ctx)
	if err != nil {
		return nil, err
	}
	w.stopGateway() // one that has seen none of the certificates
	if err := w.start(ctx, rig.Unhurried...); err != nil {
		return nil, err
	}
	n := min(b.agents, 1000)
	crowd, err := b.crowd(n)
	if err != nil {
		return nil, err
	}
	defer crowd.Stop()
	if _, err := b.cpuPerReconnect(crowd, drill.Order{Count: warmUp}); err != nil { // what the first ones cost is not what each costs
		return nil, err
	}
	unknown, err := b.cpuPerReconnect(crowd, drill.Order{Skip: warmUp, Count: n - warmUp})
	if err != nil {
		return nil, err
	}
	var full, resumed []float64
	for round := range reconnectRounds + 1 {
		f, err := b.cpuPerReconnect(crowd, drill.Order{Count: n})
		if err != nil {
			return nil, err
		}
		r, err := b.cpuPerReconnect(crowd, drill.Order{Count: n, Resume: true})
		if err != nil {
			return nil, err
		}
		if round > 0 { // in the first there is nothing to resume
			full, resumed = append(full, f), append(resumed, r)
		}
	}
	hello, err := b.cpuPerReconnect(crowd, drill.Order{Count: n, Resume: true, Hello: true})
	if err != nil {
		return nil, err
	}
	ours, whole := stats.Median(resumed), stats.Median(full)
	row := table.Row{
		Key: "reconnect", Name: "server's CPU per reconnect, resumed", Value: fmt.Sprintf("%.0f µs", ours), Beside: fmt.Sprintf("%.0f µs full", whole),
		Ratio: ours / whole, Goal: table.AtMost(ours/whole, 0.4, "×"),
		Notes: []string{fmt.Sprintf("TCP, TLS and upgrade, of agents whose certificate the gateway has judged before; medians of %d rounds of %d. The first time: %.0f µs. "+
			"Resumed, with the first heartbeats and what they have written: %.0f µs", reconnectRounds, n, unknown, hello)},
	}
	err = b.missed(ctx, &row, w.gateway, rig.CPU, func() error {
		for range 3 {
			if _, err := b.cpuPerReconnect(crowd, drill.Order{Count: n, Resume: true}); err != nil {
				return err
			}
		}
		return nil
	})
	return []table.Row{row}, err
}

// cpuPerReconnect is in microseconds.
func (b *bench) cpuPerReconnect(crowd *rig.Crowd, o drill.Order) (float64, error) {
	g := b.fleetOf.gateway
	o.Deed, o.Kind, o.Address, o.Workers = drill.Reconnect, drill.Session, g.Address, reconnecters
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
