package dispatch

import (
	"context"
	"errors"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// reading is how often an agent may have actions read that are not open here.
var reading = limit.Rate{Every: 2 * time.Second, Burst: wire.MaxUpdates}

// again is after how long an agent says again what was not taken.
const again = 10 * time.Second

// take writes a result, and answers.
func (d *Dispatcher) take(ctx context.Context, w *work, u update) {
	u.answer(d.result(ctx, w.agent, u))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting -= u.size()
}

// result writes a result. Without a problem it is durable, or nobody wants it.
func (d *Dispatcher) result(ctx context.Context, agent *Agent, u update) (p *wire.Problem) {
	id := agent.ID
	endpoint, there := d.config.Source.EndpointByIdentity(id)
	trust, known := d.config.Source.Trust()
	if !there || !known {
		return notReady("the endpoint or the trust bundle was not read yet")
	}
	says, p := openResult(u, trust.FleetID, id)
	if p != nil {
		return p
	}
	a, err := d.find(ctx, agent, endpoint.Ref, says.GetActionUid())
	if err == nil {
		_, _, err = d.advance(ctx, endpoint.Ref, a, action.Result{Now: time.Now(), IdentityID: id, Says: says, Proof: order.ToResource(u.says.GetResult())})
	}
	switch {
	case err == nil, errors.Is(err, store.ErrGone):
		return nil
	case errors.Is(err, action.ErrEarly):
		return notReady("the manager has not admitted the action yet")
	case errors.Is(err, action.ErrUnfit): // it never will
		d.config.Log.V(1).Info("A result does not fit its action.", "identity", id, "action", says.GetActionUid(), "reason", err.Error())
		return nil
	case errors.As(err, &p):
		return p
	}
	return notReady("the API server has not taken it")
}

func notReady(why string) *wire.Problem {
	return &wire.Problem{Name: wire.NotReady, Detail: "Report again: " + why + ".", RetryAfter: again}
}

// openResult verifies a result, before anything in it is looked at.
func openResult(u update, fleetID, identityID string) (*agentv1.ActionResult, *wire.Problem) {
	key, err := envelope.ParseKey(u.key)
	says := &agentv1.ActionResult{}
	if err == nil {
		err = envelope.Open(u.says.GetResult(), envelope.Result, says, key)
	}
	if err != nil {
		return nil, &wire.Problem{Name: wire.ProofInvalid, Detail: "The result must be signed by the key of this connection's certificate: " + err.Error() + "."}
	}
	if err := wire.CheckActionResult(says); err != nil {
		return nil, &wire.Problem{Name: wire.Malformed, Detail: "The result exceeds a bound: " + err.Error() + "."}
	}
	if says.GetFleetId() != fleetID || says.GetIdentityId() != identityID || says.GetActionUid() != u.says.GetActionUid() {
		return nil, &wire.Problem{Name: wire.ProofInvalid, Detail: "The result must name this fleet, the identity of this connection's certificate, and the action of its update."}
	}
	return says, nil
}

// find is an action that a result is about: one that is open, or else as the API server has it. The error may be a *wire.Problem.
func (d *Dispatcher) find(ctx context.Context, agent *Agent, endpoint store.Ref, uid string) (*v1alpha1.EndpointAction, error) {
	if a, ok := d.config.Source.Action(uid); ok {
		return a, nil
	}
	throttled := func(wait time.Duration) error {
		return &wire.Problem{Name: wire.Throttled, Detail: "Too many results are about actions that are not open.", RetryAfter: wait}
	}
	if wait, ok := agent.reads.Take(reading, time.Now()); !ok {
		return nil, throttled(wait)
	}
	a, err := d.config.API.ReadAction(ctx, endpoint, uid)
	if errors.Is(err, store.ErrBusy) {
		return nil, throttled(again)
	}
	return a, err
}
