package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/bench/prompt"
	"github.com/rollcall-dev/rollcall/test/bench/rig"
	"github.com/rollcall-dev/rollcall/test/bench/stats"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

const (
	// samples of each way, one every so often.
	samples     = 200
	sampleEvery = 150 * time.Millisecond
	// creates a second go on beside, on busyAgents others.
	createsPerSecond = 15
	busyAgents       = 20
)

// actions measures how long it takes from a person's create until the agent has the action on its session, and what it costs the API server.
func (b *bench) actions(ctx context.Context) ([]table.Row, error) {
	w, err := b.system(ctx, "actions")
	if err != nil {
		return nil, err
	}
	defer w.stop()
	agent, others, err := w.actionFleet(ctx)
	if err != nil {
		return nil, err
	}
	defer others.Stop(10 * time.Second)
	defer agent.Close()
	failed := make(chan error, 1)
	go func() { failed <- agent.Run() }()
	endpoint, err := w.EndpointOf(ctx, agent.IdentityID())
	if err != nil {
		return nil, err
	}
	a, err := w.Actions(ctx)
	if err != nil {
		return nil, err
	}
	defer a.Stop()
	before, err := w.Writes()
	if err != nil {
		return nil, err
	}
	idle, err := latencies(ctx, a, agent, "idle", endpoint)
	if err != nil {
		return nil, err
	}
	after, err := w.Writes()
	if err != nil {
		return nil, err
	}
	stop := w.createBeside(ctx, a)
	busy, err := latencies(ctx, a, agent, "busy", endpoint)
	if err = errors.Join(err, stop()); err != nil {
		return nil, err
	}
	select {
	case err := <-failed:
		return nil, fmt.Errorf("the agent's session has ended: %w", err)
	default:
	}
	each := float64(after.Since(before)["endpointactions/status"]) / samples
	return []table.Row{
		idle.row("actions", "create until the agent has it, p99, idle"),
		busy.row("actions", fmt.Sprintf("create until the agent has it, p99, %d creates a second beside", createsPerSecond)),
		{Key: "actions", Name: "status writes for an action", Value: fmt.Sprintf("%.2f", each), Goal: table.AtMost(each, 3.01, "")},
	}, nil
}

// actionFleet enrols agents, has one of them be prompt, and the others be simulated.
func (w *world) actionFleet(ctx context.Context) (*prompt.Agent, *local.Process, error) {
	if err := w.Apply(ctx, policy); err != nil {
		return nil, nil, err
	}
	var err error
	if w.token, err = w.Token(ctx); err != nil {
		return nil, nil, err
	}
	if err := w.start(ctx, rig.Unhurried...); err != nil {
		return nil, nil, err
	}
	one, err := w.Fleetsim(w.token, filepath.Join(w.states, "one"), 1, "--prefix=prompt")
	if err != nil {
		return nil, nil, err
	}
	if err := w.Online(ctx, 1); err != nil {
		return nil, nil, err
	}
	one.Stop(10 * time.Second)
	dirs, err := filepath.Glob(filepath.Join(w.states, "one", "*", "identity"))
	if err != nil || len(dirs) != 1 {
		return nil, nil, fmt.Errorf("one agent was to enrol: %v, %w", dirs, err)
	}
	others, err := w.Fleetsim(w.token, filepath.Join(w.states, "others"), busyAgents, "--prefix=busy")
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(w.sessions(ctx, busyAgents, time.Minute), w.Online(ctx, busyAgents)); err != nil {
		return nil, others, err
	}
	agent, err := prompt.Connect(ctx, filepath.Dir(dirs[0]), w.gateway.Address)
	if err != nil {
		return nil, others, err
	}
	return agent, others, w.Quiet(ctx, 3*time.Second)
}

// ways are the times from a create until the agent had it, and until a watch showed the object: created, admitted and sent, of the same actions.
type ways struct{ agent, watch, admitted, sent []time.Duration }

func latencies(ctx context.Context, a *rig.Actions, agent *prompt.Agent, name, endpoint string) (t ways, err error) {
	for i := range samples {
		began := time.Now()
		uid, err := a.Create(ctx, fmt.Sprintf("%s-%d", name, i), map[string]any{"endpointName": endpoint})
		if err != nil {
			return t, err
		}
		err = rig.Poll(ctx, 30*time.Second, func() error {
			had, here := agent.Had(uid)
			shown, seen := a.Shown(uid)
			if !here || !seen {
				return fmt.Errorf("%s-%d did not arrive", name, i)
			}
			t.agent, t.watch = append(t.agent, had.Sub(began)), append(t.watch, shown.Created.Sub(began))
			t.admitted, t.sent = append(t.admitted, shown.Admitted.Sub(began)), append(t.sent, shown.Sent.Sub(began))
			return nil
		})
		if err != nil {
			return t, err
		}
		if err := pause(ctx, sampleEvery-min(time.Since(began), sampleEvery)); err != nil {
			return t, err
		}
	}
	for _, all := range [][]time.Duration{t.agent, t.watch, t.admitted, t.sent} {
		slices.Sort(all)
	}
	return t, nil
}

func (t ways) row(key, name string) table.Row {
	agent, watch := stats.Quantile(t.agent, 0.99), stats.Quantile(t.watch, 0.99)
	ratio := float64(agent) / float64(watch)
	return table.Row{
		Key: key, Name: name, Value: inMilliseconds(agent), Beside: inMilliseconds(watch) + " (watch)", Ratio: ratio, Goal: table.AtMost(ratio, 3, "×"),
		Notes: []string{"p50 of " + t.legs(0.5), "p99 of " + t.legs(0.99)},
	}
}

// legs are the stations on the way.
func (t ways) legs(q float64) string {
	at := func(all []time.Duration) string { return inMilliseconds(stats.Quantile(all, q)) }
	return fmt.Sprintf("create until a watch shows it: %s, admitted %s, sent %s; until the agent has it: %s", at(t.watch), at(t.admitted), at(t.sent), at(t.agent))
}

func inMilliseconds(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }

// createBeside creates actions on the other agents until it is told to stop.
func (w *world) createBeside(ctx context.Context, a *rig.Actions) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Second / createsPerSecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				ended <- nil
				return
			case <-tick.C:
			}
			target := map[string]any{"endpointName": fmt.Sprintf("busy-%02d", 1+i%busyAgents), "ttlSecondsAfterFinished": int64(0)}
			if _, err := a.Create(ctx, fmt.Sprintf("beside-%d", i), target); err != nil && ctx.Err() == nil {
				ended <- err
				return
			}
		}
	}()
	return func() error {
		cancel()
		return <-ended
	}
}
