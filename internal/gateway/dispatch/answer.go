package dispatch

import (
	"context"
	"sync"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const (
	// maxAnswered is how many orders of actions fit into the reply to a heartbeat, beside an assignment and a policy.
	maxAnswered = wire.MaxOrders - 2
	// maxAnsweredBytes likewise.
	maxAnsweredBytes = wire.MaxOrdersBytes - 2*(40<<10)
)

// Answer is the Line that one heartbeat over HTTPS is.
type Answer struct {
	over chan struct{}

	mu       sync.Mutex
	taken    bool // somebody will finish it
	finished bool
	orders   []*agentv1.Envelope
	bytes    int
	more     bool // there was no room, or no time
}

// NewAnswer makes one. It is for heartbeat.Via, and then for Wait.
func NewAnswer() *Answer { return &Answer{over: make(chan struct{})} }

// Channel implements Line.
func (a *Answer) Channel() v1alpha1.Channel { return v1alpha1.ChannelHeartbeat }

// Up implements Line.
func (a *Answer) Up() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.finished
}

// Room implements Line.
func (a *Answer) Room(order *agentv1.Envelope) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.orders) >= maxAnswered || a.bytes+order.SizeVT() > maxAnsweredBytes {
		a.more = true
		return false
	}
	return true
}

// Send implements Line.
func (a *Answer) Send(order *agentv1.Envelope) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.finished {
		a.orders, a.bytes = append(a.orders, order), a.bytes+order.SizeVT()
	}
}

// take promises that it will be finished.
func (a *Answer) take() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.taken = true
}

func (a *Answer) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.finished {
		a.finished = true
		close(a.over)
	}
}

// Wait puts into the reply what an agent is to be sent. If that is not known in time, or does not fit, the agent is to ask again at once; but not
// while the API server is known to be away.
func (d *Dispatcher) Wait(ctx context.Context, a *Answer, reply *agentv1.HeartbeatReply) {
	a.mu.Lock()
	taken := a.taken
	a.mu.Unlock()
	if !taken {
		return
	}
	patience := time.NewTimer(d.config.Wait)
	defer patience.Stop()
	late := false
	select {
	case <-a.over:
	case <-patience.C:
		late = d.apiAnswers()
	case <-ctx.Done():
	}
	a.finish()
	a.mu.Lock()
	defer a.mu.Unlock()
	reply.Orders = append(reply.Orders, a.orders...)
	reply.More = reply.More || a.more || late
}

// apiAnswers tells whether the API server has answered the last time.
func (d *Dispatcher) apiAnswers() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.failing
}
