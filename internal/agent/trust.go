package agent

import (
	"context"
	"fmt"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/identity"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// maxTrustRounds bounds how often trust is asked for in a row; each round brings up to wire.MaxTrustPerReply bundles.
const maxTrustRounds = 16

// ensureTrust makes sure that there is a trust to verify the server with, at least of a version.
func (e *Engine) ensureTrust(ctx context.Context, minimum uint64) error {
	if e.book.Trust != nil && e.book.Trust.Version >= minimum {
		return nil
	}
	if e.pin == [32]byte{} {
		return problem.New(problem.TrustMissing, "The agent's file with the fleet's trust was damaged, and no pin of its root key is left.")
	}
	if err := e.refreshTrust(ctx); err != nil {
		return err
	}
	if e.book.Trust.Version < minimum {
		return problem.New(problem.ServerNotOfFleet, fmt.Sprintf("The server's trust has the version %d, the token was made at version %d: it is a replay, or a backup.",
			e.book.Trust.Version, minimum))
	}
	return nil
}

// refreshTrust asks for newer trust and follows it from the pin, or from what is known. The connection is not verified, and needs not be.
func (e *Engine) refreshTrust(ctx context.Context) error {
	c := client.NewTrustClient(e.remote())
	defer c.Close()
	trust, chain := e.book.Trust, e.chain
	for range maxTrustRounds {
		known := uint64(0)
		if trust != nil {
			known = trust.Version
		}
		bundles, err := c.After(ctx, known)
		if err != nil {
			return err
		}
		for _, b := range bundles {
			if trust, err = follow(e.pin, trust, b); err != nil {
				return problem.New(problem.ServerNotOfFleet, err.Error()+".")
			}
			chain = orders.Extend(e.pin, chain, b)
		}
		if len(bundles) < wire.MaxTrustPerReply {
			break
		}
	}
	if trust == nil {
		return problem.New(problem.ServerNotOfFleet, "The server has no trust to show.")
	}
	e.adopt(trust, chain)
	return nil
}

func follow(pin [32]byte, trust *identity.Trust, b *agentv1.Envelope) (*identity.Trust, error) {
	if trust == nil {
		return identity.FirstTrust(pin, b)
	}
	return trust.Advance(b)
}

func (e *Engine) adopt(trust *identity.Trust, chain []*agentv1.Envelope) {
	old := e.book.Trust
	if old == trust {
		return
	}
	// Each reset counts once, or every later bundle that still carries it would lower the floor again.
	if reset := trust.ResetTimeFloor; !reset.IsZero() && (old == nil || !reset.Equal(old.ResetTimeFloor)) {
		e.clock.ResetFloor(reset)
		e.book.ForgetAfter(reset)
		e.Log.Info("the fleet's clock was set back", "floor", reset)
	}
	e.clock.Order(trust.IssuedAt)
	e.book.Trust, e.chain = trust, chain
	if old == nil || !old.ServerPool().Equal(trust.ServerPool()) {
		e.reconnect()
	}
	e.save()
	e.Log.Info("trust advanced", "version", trust.Version)
	e.scheduleRenewal()
}

// tryRefreshTrust is refreshTrust where its failure changes nothing.
func (e *Engine) tryRefreshTrust(ctx context.Context) {
	if e.pin == [32]byte{} {
		return
	}
	if err := e.refreshTrust(ctx); err != nil {
		e.Log.V(1).Info("asked for newer trust: " + err.Error())
	}
}
