package dispatch

import (
	"context"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// updatesWait is how long the answer to updates over HTTPS waits for the API server.
const updatesWait = 10 * time.Second

// Admit counts a request with updates of an agent, before its body is read, or says when the agent may come again.
func (d *Dispatcher) Admit(a *Agent, now time.Time) *wire.Problem {
	d.mu.Lock()
	defer d.mu.Unlock()
	wait, ok := a.pace.Take(d.config.Updates, now)
	if ok {
		return nil
	}
	return &wire.Problem{Name: wire.Throttled, Detail: "The endpoint reports too often.", RetryAfter: wait}
}

// Updates takes what an agent says of actions over HTTPS, and gives an answer to each, in the same order. What is not written in time is to be
// reported again.
func (d *Dispatcher) Updates(ctx context.Context, a *Agent, key []byte, all []*agentv1.ActionUpdate, now time.Time) *agentv1.Acks {
	type answer struct {
		at int
		p  *wire.Problem
	}
	answers := make(chan answer, len(all)) // nobody hangs on it, whoever has given up
	acks, waiting := make([]*agentv1.Ack, len(all)), 0
	for i, u := range all {
		acks[i] = ack(notReady("it was not written in time"))
		if p, done := d.Update(a, key, u, now, func(p *wire.Problem) { answers <- answer{i, p} }); done {
			acks[i] = ack(p)
		} else {
			waiting++
		}
	}
	ctx, cancel := context.WithTimeout(ctx, updatesWait)
	defer cancel()
	for ; waiting > 0 && ctx.Err() == nil; waiting-- {
		select {
		case is := <-answers:
			acks[is.at] = ack(is.p)
		case <-ctx.Done():
		}
	}
	return &agentv1.Acks{Acks: acks}
}

func ack(p *wire.Problem) *agentv1.Ack {
	if p == nil {
		return &agentv1.Ack{}
	}
	return &agentv1.Ack{Problem: p.Proto()}
}
