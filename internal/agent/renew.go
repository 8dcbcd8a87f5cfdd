package agent

import (
	"bytes"
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// renew gets the next certificate: a new key, on disk before it is sent, and the same request until it is answered.
func (e *Engine) renew(ctx context.Context) (time.Duration, error) {
	if err := e.ensureTrust(ctx, 0); err != nil {
		return 0, err
	}
	pending, err := e.Dir.Pending(state.Renewal)
	if err != nil {
		return 0, problem.New(problem.StateUnwritable, err.Error())
	}
	if !renews(pending, e.id) {
		if err := e.askForRenewal(pending); err != nil {
			return 0, err
		}
	}
	der, err := e.connection().Renew(ctx, e.moment(), pending.Request)
	if err != nil {
		e.forget(state.Renewal, err)
		return 0, err
	}
	if err := e.become(ctx, der, pending.Key); err != nil {
		return 0, err
	}
	e.Log.Info("certificate renewed", "expires", e.id.Certificate.NotAfter)
	return never, nil
}

// renews tells whether a request renews this very certificate for this key.
func renews(p *state.Pending, id *state.Identity) bool {
	m, payload := &agentv1.RenewRequest{}, &agentv1.Renewal{}
	return p.Request != nil && m.UnmarshalVT(p.Request) == nil && envelope.Parse(m.GetRenewal().GetPayload(), payload) == nil &&
		bytes.Equal(payload.GetCertificate(), id.Certificate.Raw) && asksFor(payload.GetCsr(), p.Key)
}

func (e *Engine) askForRenewal(p *state.Pending) error {
	csr, err := newCSR(p.Key)
	if err != nil {
		return err
	}
	sealed, err := envelope.Seal(e.id.Key, envelope.Renewal, &agentv1.Renewal{
		FleetId: e.id.FleetID, IdentityId: e.id.ID, Certificate: e.id.Certificate.Raw, Csr: csr, CreatedAt: timestamppb.New(e.Host.Clock().Wall),
	})
	if err != nil {
		return err
	}
	return e.saveRequest(p, state.Renewal, &agentv1.RenewRequest{Renewal: sealed})
}

// scheduleRenewal decides when the certificate is renewed: in time, or now if its issuer is no longer trusted. Before the first beacon the
// time is but an estimate, and nothing is decided by it: the server says if the certificate has expired.
func (e *Engine) scheduleRenewal() {
	if e.id == nil || e.renewal.problem != nil || e.renewal.waiting {
		return
	}
	switch {
	case !e.book.Trust.IssuedByAgentCA(e.id.Certificate):
		e.renewal.due = e.boot()
	case e.clock.Anchored():
		e.renewal.due = e.boot() + max(0, renewAt(e.id.Certificate).Sub(e.now()))
	}
}
