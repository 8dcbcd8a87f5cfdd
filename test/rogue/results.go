package rogue

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

// send writes that an action was sent, and does not send it: nobody can tell.
func (r *Rogue) send(ctx context.Context, act *v1alpha1.EndpointAction) (*v1alpha1.EndpointAction, error) {
	ep, err := r.endpoint(ctx, act.Namespace, string(act.Spec.EndpointName))
	if err != nil {
		return nil, err
	}
	journal := ep.Status.Agent.JournalID
	return r.step(ctx, act, decide.Send{
		Now: time.Now(), Channel: v1alpha1.ChannelWebSocket, Gateway: r.name, JournalID: journal,
		Endpoint: &decide.Endpoint{IdentityID: ep.Status.Identity.ID, Lifecycle: v1alpha1.LifecycleActive, JournalID: journal},
	}, func(*v1alpha1.EndpointActionStatus) {})
}

// end has an action end as Succeeded, which was not sent to anybody.
func (r *Rogue) end(ctx context.Context, a Ask, what string, now time.Time, proof func(*agentv1.ActionResult) (*v1alpha1.Envelope, error)) ([]Attempt, error) {
	act, err := r.action(ctx, a.Namespace, a.Action)
	if err != nil {
		return nil, err
	}
	sent, err := r.send(ctx, act)
	if err != nil {
		return nil, fmt.Errorf("write that an action was sent, which a gateway may: %w", err)
	}
	trust, _ := r.liar.Trust()
	id := sent.Status.Admission.IdentityID
	says := &agentv1.ActionResult{
		FleetId: trust.FleetID, IdentityId: id, ActionUid: string(sent.UID), ActionDigest: decide.Digest(sent.Status.Admission.Order),
		Outcome: agentv1.Outcome_OUTCOME_SUCCEEDED, Reason: "Done", Message: "all is well", StartedAt: timestamppb.New(now), FinishedAt: timestamppb.New(now),
	}
	signed, err := proof(says)
	if err != nil {
		return nil, err
	}
	_, err = r.step(ctx, sent, decide.Result{Now: now, IdentityID: id, Says: says}, func(s *v1alpha1.EndpointActionStatus) { s.Result.Proof = signed })
	return []Attempt{attempt(what, err)}, nil
}

func (r *Rogue) endWithoutProof(ctx context.Context, a Ask) ([]Attempt, error) {
	return r.end(ctx, a, "Succeeded, without a proof", time.Now(), func(*agentv1.ActionResult) (*v1alpha1.Envelope, error) { return nil, nil })
}

func (r *Rogue) endWithOwnProof(ctx context.Context, a Ask) ([]Attempt, error) {
	return r.end(ctx, a, "Succeeded, signed by another key", time.Now(), r.ownProof)
}

func (r *Rogue) endWithOldDate(ctx context.Context, a Ask) ([]Attempt, error) {
	return r.end(ctx, a, "Succeeded, two days ago", time.Now().AddDate(0, 0, -2), r.ownProof)
}

func (r *Rogue) endWithOtherProof(ctx context.Context, a Ask) ([]Attempt, error) {
	other, err := r.action(ctx, a.Namespace, a.OtherAction)
	if err != nil {
		return nil, err
	}
	return r.end(ctx, a, "Succeeded, by what the agent has said of another action", time.Now(), func(*agentv1.ActionResult) (*v1alpha1.Envelope, error) {
		return other.Status.Result.Proof, nil
	})
}

// ownProof is a result that the rogue has signed as if it were the agent.
func (r *Rogue) ownProof(says *agentv1.ActionResult) (*v1alpha1.Envelope, error) {
	e, err := envelope.Seal(r.keys.agent, envelope.Result, says)
	if err != nil {
		return nil, err
	}
	signed := order.ToResource(e)
	return &signed, nil
}
