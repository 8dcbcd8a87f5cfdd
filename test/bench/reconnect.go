package main

import (
	"context"
	"errors"
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

// reconnect compares the gateway's CPU for a connection up to its 101 with and without the TLS session of the one before. Each round has agents
// of its own: they come for the first time, then with their ticket, then without it.
func (b *bench) reconnect(ctx context.Context) ([]table.Row, error) {
	w, err := b.world(ctx)
	if err != nil {
		return nil, err
	}
	w.stopGateway() // one that has judged none of the certificates
	if err := w.start(ctx, rig.Unhurried...); err != nil {
		return nil, err
	}
	crowd, err := b.crowd(b.agents)
	if err != nil {
		return nil, err
	}
	defer crowd.Stop()
	each := min(b.agents, 5000) / (reconnectRounds + 1)
	var full, resumed, known []float64
	for round := range reconnectRounds + 1 {
		o := drill.Order{Skip: round * each, Count: each, Resume: true}
		f, err := b.cpuPerReconnect(ctx, crowd, o, 0)
		if err != nil {
			return nil, err
		}
		r, err := b.cpuPerReconnect(ctx, crowd, o, each)
		if err != nil {
			return nil, err
		}
		o.Resume = false
		k, err := b.cpuPerReconnect(ctx, crowd, o, 0)
		if err != nil {
			return nil, err
		}
		if round > 0 { // what the first ones cost is not what each costs
			full, resumed, known = append(full, f), append(resumed, r), append(known, k)
		}
	}
	last := drill.Order{Skip: reconnectRounds * each, Count: each, Resume: true}
	beats := last
	beats.Hello = true
	hello, err := b.cpuPerReconnect(ctx, crowd, beats, each)
	if err != nil {
		return nil, err
	}
	row := reconnectRow(full, resumed, known, hello)
	row.Notes[0] += fmt.Sprintf("; medians of %d rounds of %d", reconnectRounds, each)
	err = b.missed(ctx, &row, w.gateway, rig.CPU, func() error {
		for range 5 {
			if _, err := b.cpuPerReconnect(ctx, crowd, last, each); err != nil {
				return err
			}
		}
		return nil
	})
	return []table.Row{row}, err
}

// reconnectRow is made of microseconds.
func reconnectRow(full, resumed, known []float64, hello float64) table.Row {
	ours, whole, again := stats.Median(resumed), stats.Median(full), stats.Median(known)
	return table.Row{
		Key: "reconnect", Name: "server's CPU per reconnect, resumed", Value: fmt.Sprintf("%.0f µs", ours), Beside: fmt.Sprintf("%.0f µs full", whole),
		Ratio: ours / whole, Goal: table.AtMost(ours/whole, 0.4, "×"),
		Notes: []string{
			"TCP, TLS and upgrade",
			fmt.Sprintf("full, of a certificate that this gateway has judged before: %.0f µs, of which resumed is %.2f", again, ours/again),
			fmt.Sprintf("resumed, with the first heartbeats and what they have written: %.0f µs", hello),
		},
	}
}

// cpuPerReconnect is in microseconds. So many handshakes must have been resumed.
func (b *bench) cpuPerReconnect(ctx context.Context, crowd *rig.Crowd, o drill.Order, resumed int) (float64, error) {
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
		if err := g.Idle(ctx, time.Minute); err != nil {
			return 0, err
		}
	}
	after, err := probe.CPU(g.PID())
	if err != nil {
		return 0, err
	}
	if r.Resumed != resumed {
		return 0, fmt.Errorf("%d of %d handshakes were resumed, and %d were to be: %w", r.Resumed, r.Done, resumed, errNotComparable)
	}
	return float64((after - before).Nanoseconds()) / 1e3 / float64(r.Done), nil
}

var errNotComparable = errors.New("these figures cannot be compared")
