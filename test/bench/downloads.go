package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/rollcall-dev/rollcall/test/bench/drill"
	"github.com/rollcall-dev/rollcall/test/bench/probe"
	"github.com/rollcall-dev/rollcall/test/bench/rig"
	"github.com/rollcall-dev/rollcall/test/bench/stats"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

const (
	downloaders    = 200
	downloadBytes  = 4 << 20
	downloadRounds = 3
	downloadRound  = 6 * time.Second
	// downloadBeat is how often those beat who download, in seconds: so soon all of them have heard of it.
	downloadBeat = 2
	// downloadRate and downloadsAtOnce are the gateway's defaults.
	downloadRate    = 32 << 20
	downloadsAtOnce = 64
	bytesMetric     = "rollcall_gateway_download_bytes_total"
	downloadsMetric = "rollcall_gateway_downloads"
)

// downloads compares how long agents wait for their heartbeats' answers while nobody downloads and while 200 others do, all at once.
func (b *bench) downloads(ctx context.Context) ([]table.Row, error) {
	w, err := b.world(ctx)
	if err != nil {
		return nil, err
	}
	if b.agents < downloaders+good {
		return nil, fmt.Errorf("downloads need N=%d at least", downloaders+good)
	}
	w.stopGateway()
	if err := w.start(ctx, rig.Unhurried...); err != nil {
		return nil, err
	}
	releases, err := w.Releases(ctx, b.pki)
	if err != nil {
		return nil, err
	}
	defer releases.Close()
	names := make([]string, downloaders)
	for i := range names {
		names[i] = fmt.Sprintf("agent-%02d", i+1)
	}
	if err := releases.For(ctx, names, downloadBeat); err != nil {
		return nil, err
	}
	sim, err := w.HumbleFleetsim(w.token, w.states, downloaders)
	if err != nil {
		return nil, err
	}
	defer sim.Stop(time.Minute)
	if err := w.sessions(ctx, downloaders, time.Minute); err != nil {
		return nil, err
	}
	crowd, err := rig.NewCrowd(b.bin, b.dir, w.states, b.pki.CA, downloaders, good, "127.0.1.1", false)
	if err != nil {
		return nil, err
	}
	defer crowd.Stop()
	if _, err := crowd.Do(drill.Order{Deed: drill.Open, Kind: drill.Session, Address: w.gateway.Address, Count: good, Workers: dialers}); err != nil {
		return nil, err
	}
	if err := b.settled(ctx); err != nil {
		return nil, err
	}
	before, err := probe.Peak(w.gateway.PID())
	if err != nil {
		return nil, err
	}
	var all download
	for i := range downloadRounds {
		if err := b.download(ctx, &all, crowd, releases, strconv.Itoa(i+1)); err != nil {
			return nil, err
		}
	}
	peak, err := probe.Peak(w.gateway.PID())
	if err != nil {
		return nil, err
	}
	rows := all.rows(mb(peak) - mb(before))
	err = b.missed(ctx, &rows[0], w.gateway, rig.CPU, func() error {
		return b.download(ctx, &download{}, crowd, releases, strconv.Itoa(downloadRounds+1))
	})
	return rows, err
}

// download is what was measured in some rounds.
type download struct{ quiet, busy, rates, took []float64 }

func (b *bench) download(ctx context.Context, all *download, crowd *rig.Crowd, releases *rig.Releases, version string) error {
	g := b.fleetOf.gateway
	beats := drill.Order{Deed: drill.Pace, Kind: drill.Session, Address: g.Address, Workers: 50, Rate: 300, Time: downloadRound}
	quiet, err := crowd.Do(beats)
	if err != nil {
		return err
	}
	sent, err := g.Metric(ctx, bytesMetric)
	if err != nil {
		return err
	}
	size, err := releases.Publish(ctx, version, downloadBytes)
	if err != nil {
		return err
	}
	if err := b.metric(ctx, downloadsMetric, downloadsAtOnce/2); err != nil {
		return err
	}
	began, from := time.Now(), sent
	if sent, err = g.Metric(ctx, bytesMetric); err != nil {
		return err
	}
	busy, err := crowd.Do(beats)
	if err != nil {
		return err
	}
	now, err := g.Metric(ctx, bytesMetric)
	if err != nil {
		return err
	}
	rate := (now - sent) / time.Since(began).Seconds()
	if err := b.metric(ctx, bytesMetric, from+float64(size)*downloaders); err != nil {
		return err
	}
	all.took = append(all.took, time.Since(began).Seconds())
	all.quiet, all.busy, all.rates = append(all.quiet, ms(quiet.P99)), append(all.busy, ms(busy.P99)), append(all.rates, rate)
	if err := releases.RunBy(ctx, downloaders, version, 2*time.Minute); err != nil {
		return err
	}
	return b.settled(ctx)
}

// metric waits until a metric of the gateway is so much.
func (b *bench) metric(ctx context.Context, name string, least float64) error {
	return rig.Poll(ctx, 2*time.Minute, func() error {
		have, err := b.fleetOf.gateway.Metric(ctx, name)
		if err == nil && have < least {
			err = fmt.Errorf("%s is %.0f, not %.0f", name, have, least)
		}
		return err
	})
}

func (d *download) rows(grown float64) []table.Row {
	quiet, busy, rate := stats.Median(d.quiet), stats.Median(d.busy), stats.Median(d.rates)
	return []table.Row{
		{
			Key: "downloads", Name: fmt.Sprintf("p99 of heartbeats on sessions, while %d agents download", downloaders), Value: fmt.Sprintf("%.1f ms", busy),
			Beside: fmt.Sprintf("%.1f ms in peace", quiet), Ratio: busy / quiet, Goal: table.AtMost(busy/quiet, 2, "×"),
			Notes: []string{fmt.Sprintf("%d MB each, %d at once and the others told to come again: all had it after %.0f s; the gateway's peak grew by %.0f MB", downloadBytes>>20, downloadsAtOnce,
				stats.Median(d.took), grown)},
		},
		{
			Key: "downloads", Name: "bytes a second of all downloads together", Value: fmt.Sprintf("%.0f MB", mb(int64(rate))), Beside: fmt.Sprintf("%.0f MB allowed", mb(downloadRate)),
			Ratio: rate / downloadRate, Goal: table.AtMost(rate/downloadRate, 1.05, "×"),
		},
	}
}
