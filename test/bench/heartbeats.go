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
	beatRounds = 9
	beatRound  = 1500 * time.Millisecond
	beaters    = 32
)

// heartbeats has agents of all servers beat as fast as they are answered, the servers in turn, and compares the CPU that they used.
func (b *bench) heartbeats(ctx context.Context) ([]table.Row, error) {
	if _, err := b.world(ctx); err != nil {
		return nil, err
	}
	count := min(b.agents, 2000)
	crowd, err := b.crowd(count)
	if err != nil {
		return nil, err
	}
	defer crowd.Stop()
	servers := map[drill.Kind]rig.Server{}
	open := drill.Order{Deed: drill.Open, Count: count, Workers: dialers, Request: requestBytes, Reply: replyBytes}
	for _, kind := range beside {
		var stop func()
		open.Kind = kind
		if servers[kind], open.Address, stop, err = b.server(ctx, kind, open.Reply); err != nil {
			return nil, err
		}
		defer stop()
		r, err := crowd.Do(open)
		if err != nil {
			return nil, err
		}
		if kind == drill.Session {
			open.Request, open.Reply = r.Request, r.Reply // the others get as many bytes, and answer with as many
		}
	}
	if err := b.settled(ctx); err != nil {
		return nil, err
	}
	rates := map[drill.Kind][]float64{}
	for round := range beatRounds + 1 {
		for _, kind := range beside {
			rate, err := beatsPerCPU(crowd, kind, servers[kind])
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first is to warm up
				rates[kind] = append(rates[kind], rate)
			}
		}
	}
	row := besideRow("heartbeats", "heartbeats per second of the server's CPU", rates, func(r []float64) (float64, string) { return stats.Median(r), "%.0f" })
	row.Goal = table.AtLeast(row.Ratio, 0.6, "×")
	row.Notes = append(row.Notes, fmt.Sprintf("medians of %d rounds, which spread by %.0f %%; a heartbeat has %d bytes, its answer %d; %d agents",
		beatRounds, 100*stats.Spread(rates[drill.Session]), open.Request, open.Reply, count))
	err = b.missed(ctx, &row, b.fleetOf.gateway, rig.CPU, func() error {
		_, err := crowd.Do(drill.Order{Deed: drill.Beat, Kind: drill.Session, Workers: beaters, Time: 5 * time.Second})
		return err
	})
	return []table.Row{row}, err
}

func beatsPerCPU(crowd *rig.Crowd, kind drill.Kind, s rig.Server) (float64, error) {
	before, err := probe.CPU(s.PID())
	if err != nil {
		return 0, err
	}
	r, err := crowd.Do(drill.Order{Deed: drill.Beat, Kind: kind, Workers: beaters, Time: beatRound})
	if err != nil {
		return 0, err
	}
	after, err := probe.CPU(s.PID())
	return float64(r.Done) / (after - before).Seconds(), err
}
