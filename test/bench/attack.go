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
	good = 200
	// badAgents have enrolled, and then went bad.
	badAgents    = 50
	attackRounds = 3
	attackRound  = 6 * time.Second
)

// attack compares how long good agents wait for their heartbeats' answers while there is peace and while others do their worst.
func (b *bench) attack(ctx context.Context) ([]table.Row, error) {
	w, err := b.world(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.start(ctx, rig.Unhurried...); err != nil {
		return nil, err
	}
	if b.agents < good+badAgents {
		return nil, fmt.Errorf("the attack needs N=%d at least", good+badAgents)
	}
	crowd, err := b.crowd(good)
	if err != nil {
		return nil, err
	}
	defer crowd.Stop()
	// in the field they have machines of their own: here, they get of this one what is left
	enemy, err := rig.NewCrowd(b.bin, b.dir, w.states, b.pki.CA, good, badAgents, "127.0.2.1", true)
	if err != nil {
		return nil, err
	}
	defer enemy.Stop()
	var rows []table.Row
	for _, k := range []struct {
		kind drill.Kind
		name string
		rate float64
	}{
		{drill.Session, "p99 of good agents' heartbeats on sessions, under attack", 300},
		{drill.HTTPS, "p99 of good agents' heartbeats over HTTPS, under attack", 50},
	} {
		if _, err := crowd.Do(drill.Order{Deed: drill.Open, Kind: k.kind, Address: w.gateway.Address, Count: good, Workers: dialers}); err != nil {
			return nil, err
		}
		if err := b.settled(ctx); err != nil {
			return nil, err
		}
		row, err := b.besieged(ctx, crowd, enemy, k.kind, k.rate)
		if err != nil {
			return nil, err
		}
		row.Name = k.name
		rows = append(rows, row)
		if _, err := crowd.Do(drill.Order{Deed: drill.Close, Kind: k.kind}); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

func (b *bench) besieged(ctx context.Context, crowd, enemy *rig.Crowd, kind drill.Kind, rate float64) (table.Row, error) {
	g := b.fleetOf.gateway
	beats := drill.Order{Deed: drill.Pace, Kind: kind, Address: g.Address, Workers: 50, Rate: rate, Time: attackRound}
	siege := drill.Order{Deed: drill.Attack, Address: g.Address, Count: b.agents / 5}
	peace := drill.Order{Deed: drill.Close, Kind: drill.Raw} // any deed ends the one before
	var quiet, attacked, failed []float64
	for range attackRounds {
		q, err := crowd.Do(beats)
		if err != nil {
			return table.Row{}, err
		}
		if _, err := enemy.Do(siege); err != nil {
			return table.Row{}, err
		}
		if err := pause(ctx, 2*time.Second); err != nil { // until all of them are there
			return table.Row{}, err
		}
		a, err := crowd.Try(beats)
		if err != nil {
			return table.Row{}, err
		}
		if _, err := enemy.Do(peace); err != nil {
			return table.Row{}, err
		}
		quiet, attacked = append(quiet, ms(q.P99)), append(attacked, ms(a.P99))
		failed = append(failed, float64(a.Failed)/float64(a.Failed+a.Done))
		if err := pause(ctx, time.Second); err != nil {
			return table.Row{}, err
		}
	}
	peak, err := probe.Peak(g.PID())
	ours, before := stats.Median(attacked), stats.Median(quiet)
	row := table.Row{
		Key: "attack", Value: fmt.Sprintf("%.1f ms", ours), Beside: fmt.Sprintf("%.1f ms in peace", before), Ratio: ours / before, Goal: table.AtMost(ours/before, 3, "×"),
		Notes: []string{fmt.Sprintf("%d attackers, %d good agents, %.0f heartbeats a second, %.1f %% of them failed; the gateway's peak so far %.0f MB",
			siege.Count, good, rate, 100*stats.Median(failed), mb(peak))},
	}
	if err != nil || !row.Goal.Missed() {
		return row, err
	}
	if _, err := enemy.Do(siege); err != nil {
		return row, err
	}
	err = b.missed(ctx, &row, g, rig.CPU, func() error {
		_, err := crowd.Try(beats)
		return err
	})
	if _, e := enemy.Do(peace); err == nil {
		err = e
	}
	return row, err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
