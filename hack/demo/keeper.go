package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
)

// keeper starts processes again when they end, as a kubelet would, and stops them in the opposite order.
type keeper struct {
	say func(string, ...any)

	mu       sync.Mutex
	kept     []*kept
	agents   int
	stopping bool
	failed   chan error
}

// kept is a process and how to start it.
type kept struct {
	name    string
	start   func(context.Context) (*local.Process, error)
	process *local.Process
}

// restartDelay is what a process that ended is given before its next start.
const restartDelay = time.Second

func newKeeper(say func(string, ...any)) *keeper {
	return &keeper{say: say, failed: make(chan error, 1)}
}

// keep starts a process and watches over it from then on. A first start that fails is the caller's to report.
func (k *keeper) keep(ctx context.Context, name string, start func(context.Context) (*local.Process, error)) error {
	p, err := start(ctx)
	if err != nil {
		if p != nil {
			p.Stop(time.Second)
		}
		return err
	}
	one := &kept{name: name, start: start, process: p}
	k.mu.Lock()
	k.kept = append(k.kept, one)
	k.mu.Unlock()
	go k.watch(ctx, one)
	return nil
}

func (k *keeper) watch(ctx context.Context, one *kept) {
	for {
		<-one.process.Done()
		select {
		case <-ctx.Done():
			return
		case <-time.After(restartDelay):
		}
		k.mu.Lock()
		stopping := k.stopping
		k.mu.Unlock()
		if stopping {
			return
		}
		k.say("  %s ended (%v): starting it again; its last words are in %s", one.name, one.process.Err(), one.process.Log)
		p, err := one.start(ctx)
		if p == nil {
			if ctx.Err() == nil {
				k.failed <- fmt.Errorf("%s cannot be started again: %w", one.name, err)
			}
			return
		}
		k.mu.Lock()
		one.process = p
		if k.stopping {
			k.mu.Unlock()
			p.Kill()
			return
		}
		k.mu.Unlock()
	}
}

// wait returns when ctx ends, or when a process cannot be kept.
func (k *keeper) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-k.failed:
		return err
	}
}

// addAgents counts simulated agents, for the last line.
func (k *keeper) addAgents(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.agents += n
}

// stop ends everything, last started first, and returns how many agents that were.
func (k *keeper) stop() int {
	k.mu.Lock()
	k.stopping = true
	all, agents := slices.Clone(k.kept), k.agents
	k.mu.Unlock()
	for _, one := range slices.Backward(all) {
		k.mu.Lock()
		p := one.process
		k.mu.Unlock()
		p.Stop(10 * time.Second)
		if one.name == "agent" {
			agents++
		}
	}
	return agents
}
