package heartbeat

import (
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// assigned is what the manager has assigned to an endpoint. *store.Endpoint has it.
type assigned struct {
	at         time.Time // zero: nothing yet
	assignment func() *agentv1.Envelope
	policy     store.Policy
	applies    bool // there is a policy
}

// lacking are the orders that an agent does not have yet, in the order in which it is to obey them. An agent that has a newer assignment than
// this replica knows of is right.
func lacking(m *agentv1.Heartbeat, of assigned) (orders []*agentv1.Envelope) {
	has := m.GetAssignmentIssuedAt()
	if !of.at.IsZero() && (has == nil || of.at.After(has.AsTime())) {
		if a := of.assignment(); a != nil {
			orders = append(orders, a)
		}
	}
	if of.applies && of.policy.Order != nil && (m.GetPolicyId() != of.policy.UID || number(m.GetPolicyRevision()) < of.policy.Revision) {
		orders = append(orders, of.policy.Order)
	}
	return orders
}
