package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rollcall-dev/rollcall/test/bench/probe"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

const (
	agentBeats    = 60
	agentInterval = 500 * time.Millisecond
)

// agent runs the real agent until it has done what it does for hours, and looks at the process and its file.
func (b *bench) agent(ctx context.Context) ([]table.Row, error) {
	w, err := b.system(ctx, "agent")
	if err != nil {
		return nil, err
	}
	defer w.stop()
	if w.token, err = w.Token(ctx); err != nil {
		return nil, err
	}
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	a, err := w.Agent(w.token, w.states, "--heartbeat-interval="+agentInterval.String())
	if err != nil {
		return nil, err
	}
	defer a.Stop(10 * time.Second)
	if err := pause(ctx, agentBeats*agentInterval); err != nil {
		return nil, err
	}
	resident, err := probe.Resident(a.PID())
	if err != nil {
		return nil, fmt.Errorf("the agent: %w", err)
	}
	peak, err := probe.Peak(a.PID())
	if err != nil {
		return nil, err
	}
	file, err := os.Stat(filepath.Join(b.bin, "rollcall-agent"))
	if err != nil {
		return nil, err
	}
	if err := w.Online(ctx, 1); err != nil {
		return nil, err
	}
	return []table.Row{
		{
			Key: "agent", Name: "agent's resident memory", Value: fmt.Sprintf("%.1f MB", mb(resident)), Goal: table.AtMost(mb(resident), 30, " MB"),
			Notes: []string{fmt.Sprintf("after some %d heartbeats in %s; %.1f MB at its peak", agentBeats, agentBeats*agentInterval, mb(peak))},
		},
		{Key: "agent", Name: "agent's binary, as make build makes it", Value: fmt.Sprintf("%.1f MB", mb(file.Size())), Goal: table.AtMost(mb(file.Size()), 25, " MB")},
	}, nil
}

// pause lets time pass, which is what is measured here.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
