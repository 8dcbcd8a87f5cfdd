package rogue

import (
	"cmp"
	"context"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

func (r *Rogue) release(ctx context.Context, a Ask) (*v1alpha1.Envelope, error) {
	c, err := read[v1alpha1.ContentRelease](ctx, r, cmp.Or(a.ReleaseNamespace, a.Namespace), a.Release)
	if err == nil && c.Status.Offer == nil {
		err = fmt.Errorf("release %s is not offered", a.Release)
	}
	if err != nil {
		return nil, err
	}
	return c.Status.Offer, nil
}

func (r *Rogue) keepOffer(ctx context.Context, a Ask) ([]Attempt, error) {
	e, err := r.release(ctx, a)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept.offers == nil {
		r.kept.offers = map[string]v1alpha1.Envelope{}
	}
	r.kept.offers[a.Release] = *e
	return nil, nil
}

func (r *Rogue) offer(ctx context.Context, a Ask) ([]Attempt, error) {
	ep, err := r.endpoint(ctx, a.Namespace, a.Endpoint)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	e, ok := r.kept.offers[a.Release]
	r.mu.Unlock()
	if !ok {
		newest, err := r.release(ctx, a)
		if err != nil {
			return nil, err
		}
		e = *newest
	}
	r.tell(ep, lieOf(e))
	return nil, nil
}

// forgeOffer offers something that it would serve itself.
func (r *Rogue) forgeOffer(ctx context.Context, a Ask) ([]Attempt, error) {
	ep, err := r.endpoint(ctx, a.Namespace, a.Endpoint)
	if err != nil {
		return nil, err
	}
	trust, _ := r.liar.Trust()
	own := []byte("{}")
	e, err := r.signed(envelope.Offer, &agentv1.Offer{
		FleetId: trust.FleetID, Namespace: ep.Namespace, ReleaseUid: uuid.NewString(), Kind: agentv1.ReleaseKind_RELEASE_KIND_CONTENT, Version: "999999999",
		Sequence: 1 << 50, Share: content.Everybody, IssuedAt: timestamppb.Now(), ReleasedAt: timestamppb.Now(),
		Artifacts: []*agentv1.Artifact{{Sha256: content.Digest(own), Size: uint64(len(own)), MediaType: content.MediaType, Signature: "mine"}},
	})
	if err != nil {
		return nil, err
	}
	r.tell(ep, lieOf(order.ToResource(e)))
	return nil, nil
}
