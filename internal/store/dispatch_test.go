package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/gateway/dispatch"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// courier is a gateway on a real API server, and the one agent that it knows.
type courier struct {
	*dispatch.Dispatcher
	name  string
	agent *dispatch.Agent
	end   func()

	mu   sync.Mutex
	line *wireless
}

// wireless is a session: a double of the Line that one is.
type wireless struct {
	mu     sync.Mutex
	orders []*agentv1.Envelope
	down   bool
}

func (l *wireless) Channel() v1alpha1.Channel   { return v1alpha1.ChannelWebSocket }
func (l *wireless) Room(*agentv1.Envelope) bool { return true }
func (l *wireless) lock() func()                { l.mu.Lock(); return l.mu.Unlock }
func (l *wireless) Up() bool                    { defer l.lock()(); return !l.down }
func (l *wireless) Send(order *agentv1.Envelope) {
	defer l.lock()()
	l.orders = append(l.orders, order)
}
func (l *wireless) cut() { defer l.lock()(); l.down = true }

// take waits for the next order.
func (l *wireless) take(t *testing.T) (order *agentv1.Envelope) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, func() error {
		defer l.lock()()
		if len(l.orders) == 0 {
			return fmt.Errorf("no order has come")
		}
		order, l.orders = l.orders[0], l.orders[1:]
		return nil
	})
	return order
}

func newCourier(t *testing.T, f store.Fleet, e *v1alpha1.Endpoint) *courier {
	t.Helper()
	c := &courier{agent: &dispatch.Agent{ID: e.Status.Identity.ID}}
	s, name := f.Gateway(func(s *store.Store) { s.OnAction(c.changed) })
	c.name = name
	metrics, err := dispatch.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	d := dispatch.New(dispatch.Config{
		Source: s, API: s, Metrics: metrics, Log: logr.Discard(), Gateway: name, Timing: dispatch.Timing{Repeat: time.Hour, RunningAfter: time.Hour},
		Wait: 10 * time.Second, Updates: limit.PerSecond(100, 100), DrainTimeout: time.Second,
	})
	c.mu.Lock()
	c.Dispatcher = d
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { d.Run(ctx); close(done) }()
	c.end = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(c.end)
	f.Known(s, e)
	return c
}

func (c *courier) changed(identityID string) {
	c.mu.Lock()
	line, d := c.line, c.Dispatcher
	c.mu.Unlock()
	if line != nil && identityID == c.agent.ID {
		d.Look(c.agent, line)
	}
}

func beatOf(lists ...*v1alpha1.EndpointAction) *agentv1.Heartbeat {
	m := &agentv1.Heartbeat{Agent: &agentv1.AgentInfo{JournalId: store.JournalID, JournalCreatedAt: timestamppb.New(store.JournalTime)}}
	for _, a := range lists {
		m.OpenActions = append(m.OpenActions, &agentv1.ActionState{ActionUid: string(a.UID), Phase: agentv1.ActionPhase_ACTION_PHASE_ACKNOWLEDGED})
	}
	return m
}

func (c *courier) connect(lists ...*v1alpha1.EndpointAction) *wireless {
	line := &wireless{}
	c.mu.Lock()
	c.line = line
	c.mu.Unlock()
	c.Heard(c.agent, beatOf(lists...), line, time.Now())
	return line
}

func (c *courier) poll(t *testing.T, lists ...*v1alpha1.EndpointAction) []*agentv1.Envelope {
	line, reply := dispatch.NewAnswer(), &agentv1.HeartbeatReply{}
	c.Heard(c.agent, beatOf(lists...), line, time.Now())
	c.Wait(t.Context(), line, reply)
	return reply.GetOrders()
}

// signer is the agent's key.
type signer struct {
	key  *ecdsa.PrivateKey
	spki []byte
}

func newSigner(t *testing.T) (s signer) {
	t.Helper()
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
		s.spki, err = x509.MarshalPKIXPublicKey(&s.key.PublicKey)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// report tells a gateway what became of an action, and how that was answered.
func (s signer) report(t *testing.T, c *courier, a *v1alpha1.EndpointAction, outcome agentv1.Outcome) string {
	t.Helper()
	e, err := envelope.Seal(s.key, envelope.Result, &agentv1.ActionResult{
		FleetId: store.FleetID, IdentityId: c.agent.ID, ActionUid: string(a.UID), Outcome: outcome, Reason: "Done", Message: "full report received in 2 ms",
		ActionDigest: fmt.Sprintf("%x", sha256.Sum256(a.Status.Admission.Order.Payload)), FinishedAt: timestamppb.Now(),
		Processes: []*agentv1.ProcessInstance{{Pid: 7, Executable: "/usr/bin/sleep"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	u := &agentv1.ActionUpdate{ActionUid: string(a.UID), Phase: agentv1.ActionPhase_ACTION_PHASE_FINISHED, Result: e}
	acks := c.Updates(t.Context(), c.agent, s.spki, []*agentv1.ActionUpdate{u}, time.Now())
	if p, ok := wire.ProblemOf(acks.GetAcks()[0].GetProblem()); ok {
		return string(p.Name) + ": " + p.Detail
	}
	return "ack"
}

// An action on the real API server, under the gateways' own account and its fences: it is pushed, its gateway dies, the agent gets it again by a
// heartbeat from another, and reports there; late, a third time, to the one that it does not know. Three writes in all.
func TestActionOnARealAPIServer(t *testing.T) {
	f := store.NewFleet(t)
	e := f.Enrol("laptop-1")
	first, second := newCourier(t, f, e), newCourier(t, f, e)
	agent := newSigner(t)

	line := first.connect()
	a := f.Act(e, "hello")
	pushed := line.take(t)
	if d := f.Stored(a).Status.Delivery; d == nil || string(d.Gateway) != first.name || d.Channel != v1alpha1.ChannelWebSocket {
		t.Errorf("delivery %+v", d)
	}
	line.cut()
	first.end()

	var again []*agentv1.Envelope
	harness.Eventually(t, 10*time.Second, func() error {
		if again = second.poll(t); len(again) != 1 {
			return fmt.Errorf("a heartbeat brings %d orders", len(again))
		}
		return nil
	})
	if !slices.Equal(again[0].GetPayload(), pushed.GetPayload()) {
		t.Error("the second time it is another order")
	}
	if orders := second.poll(t, a); len(orders) > 0 {
		t.Errorf("the agent has it, and gets %d orders", len(orders))
	}
	for range 2 {
		if got := agent.report(t, second, a, agentv1.Outcome_OUTCOME_SUCCEEDED); got != "ack" {
			t.Errorf("a result is answered with %s", got)
		}
	}
	done := f.Stored(a)
	if done.Status.Phase != v1alpha1.ActionSucceeded || done.Status.Result.Proof == nil || done.Status.Message != "full report received in 2 ms" {
		t.Errorf("it ended as %+v", done.Status)
	}
	harness.Eventually(t, 10*time.Second, func() error { // the log lags behind
		if writes := f.Writes(a); len(writes) != 3 || strings.HasSuffix(writes[0], "gateway") || !strings.HasSuffix(writes[2], "gateway") {
			return fmt.Errorf("written by %q, want once by the manager and twice by gateways", writes)
		}
		return nil
	})
	if orders := second.poll(t); len(orders) > 0 {
		t.Errorf("it has ended, and the agent gets %d orders", len(orders))
	}
}

// A cancellation is pushed, the agent was too late for it; and what is cancelled before it is sent never is.
func TestCancelOnARealAPIServer(t *testing.T) {
	f := store.NewFleet(t)
	e := f.Enrol("laptop-1")
	c := newCourier(t, f, e)
	agent := newSigner(t)
	never := f.Act(e, "never")
	f.Cancel(never)
	f.Look(e, never)
	line := c.connect()
	a := f.Act(e, "hello")
	if o := line.take(t); o.GetPayloadType() != string(envelope.Action) || !strings.Contains(string(o.GetPayload()), string(a.UID)) {
		t.Errorf("pushed: %s", o.GetPayload())
	}
	f.Cancel(a)
	f.Look(e, a)
	if o := line.take(t); o.GetPayloadType() != string(envelope.Cancel) {
		t.Errorf("pushed: %s", o.GetPayload())
	}
	if got := agent.report(t, c, a, agentv1.Outcome_OUTCOME_FAILED); got != "ack" || f.Stored(a).Status.Phase != v1alpha1.ActionFailed {
		t.Errorf("a result is answered with %s, and it is %s", got, f.Stored(a).Status.Phase)
	}
	if s := f.Stored(never).Status; s.Phase != v1alpha1.ActionCancelled || s.Delivery != nil {
		t.Errorf("it is %+v", s)
	}
}
