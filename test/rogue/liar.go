package rogue

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// liar is what the gateway's parts take for the store. It says what the store says, but for what it is to lie about.
type liar struct {
	*store.Store

	mu       sync.Mutex
	withhold bool
	orders   map[string][]*v1alpha1.EndpointAction // to be sent beside the true ones, by identity
	proofs   []proof
	// nil: the true one.
	beacon     *agentv1.Envelope
	serverTime *timestamppb.Timestamp
	trust      *store.Trust
}

// proof is an enrolment or a renewal that has passed, and the certificate that came of it.
type proof struct {
	envelope    *agentv1.Envelope
	certificate []byte
}

// OpenActions are what is to be sent to an agent.
func (l *liar) OpenActions(identityID string) []*v1alpha1.EndpointAction {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.withhold {
		return l.orders[identityID]
	}
	return slices.Concat(l.Store.OpenActions(identityID), l.orders[identityID])
}

// Beacon is the time.
func (l *liar) Beacon() (*agentv1.Envelope, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.beacon != nil {
		return l.beacon, true
	}
	return l.Store.Beacon()
}

// Certify has the manager sign, and keeps what has passed.
func (l *liar) Certify(ctx context.Context, spki, csrDER []byte, signed *agentv1.Envelope) ([]byte, error) {
	certificate, err := l.Store.Certify(ctx, spki, csrDER, signed)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.proofs = append(l.proofs, proof{signed, certificate})
	}
	return certificate, err
}

// publisher answers those who ask for the fleet's trust.
type publisher struct{ *liar }

// Trust is the fleet's, or the rogue's own.
func (p publisher) Trust() (*store.Trust, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.trust != nil {
		return p.trust, true
	}
	return p.Store.Trust()
}

// say changes what it lies about.
func (l *liar) say(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}
