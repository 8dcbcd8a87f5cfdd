package heartbeat

import (
	"time"
	"unique"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// orders tells a set of orders from others.
type orders struct {
	assigned int64 // when the assignment was issued, in nanoseconds; 0: there is none
	revision int64 // of the policy
	policy   unique.Handle[string]
}

// heldBy are the orders that an agent says it has.
func heldBy(m *agentv1.Heartbeat) orders {
	o := orders{policy: unique.Make(m.GetPolicyId()), revision: number(m.GetPolicyRevision())}
	if at := m.GetAssignmentIssuedAt(); at != nil {
		o.assigned = at.AsTime().UnixNano()
	}
	return o
}

// assigned is what the manager has assigned to an endpoint.
type assigned struct {
	at         time.Time // zero: nothing yet
	assignment func() *agentv1.Envelope
	policy     store.Policy
	applies    bool // there is a policy
}

func (s *Service) assigned(e store.Endpoint) assigned {
	policy, applies := s.policy(e)
	return assigned{e.AssignmentIssuedAt, e.Assignment, policy, applies}
}

func (of assigned) orders() (o orders) {
	if !of.at.IsZero() {
		o.assigned = of.at.UnixNano()
	}
	if of.applies && of.policy.Order != nil {
		o.revision = of.policy.Revision
	}
	o.policy = unique.Make(of.policy.UID)
	return o
}

// lacking are the orders that an agent does not have yet, in the order in which it is to obey them. An agent that has a newer assignment than
// this replica knows of is right.
func lacking(held orders, of assigned) (lacks []*agentv1.Envelope) {
	now := of.orders()
	if now.assigned > held.assigned {
		if a := of.assignment(); a != nil {
			lacks = append(lacks, a)
		}
	}
	if now.revision > 0 && (now.policy != held.policy || now.revision > held.revision) {
		lacks = append(lacks, of.policy.Order)
	}
	return lacks
}

// pingInterval is how often an agent gives a sign of life on a session. One that has not taken over its policy yet may still obey any other.
func (of assigned) pingInterval(held orders, otherwise, most time.Duration) time.Duration {
	now := of.orders()
	switch {
	case held.policy.Value() == "":
		return otherwise
	case held.policy != now.policy || held.revision != now.revision:
		return max(otherwise, most)
	case of.policy.PingInterval > 0:
		return of.policy.PingInterval
	}
	return otherwise
}
