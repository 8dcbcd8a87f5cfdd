package endpoint

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/internal/policy"
)

// assign brings the assignment up to date, and returns the policy that it names. It is shared with the cache: not to be changed.
func (r *reconciler) assign(ctx context.Context, ep *v1alpha1.Endpoint, now time.Time) (*v1alpha1.EndpointPolicy, error) {
	if ep.Status.Identity == nil {
		return nil, nil //nolint:nilnil // nobody is there to obey one
	}
	var policies v1alpha1.EndpointPolicyList
	if err := r.client.List(ctx, &policies, client.InNamespace(ep.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the policies of Endpoint %s/%s: %w", ep.Namespace, ep.Name, err)
	}
	to := &agentv1.Assignment{Namespace: ep.Namespace, FleetId: r.FleetID, IdentityId: ep.Status.Identity.ID}
	name := v1alpha1.LocalName("")
	p := policy.For(ep.Labels, policies.Items)
	if p != nil {
		to.PolicyId, name = string(p.UID), v1alpha1.LocalName(p.Name)
	}
	var before *agentv1.Envelope
	if ep.Status.Policy == nil {
		ep.Status.Policy = &v1alpha1.AssignedPolicy{}
	} else {
		before = order.FromResource(ep.Status.Policy.Assignment)
	}
	e, err := policy.Assign(r.Orders, before, to, now)
	if err != nil {
		return nil, fmt.Errorf("assign a policy to Endpoint %s/%s: %w", ep.Namespace, ep.Name, err)
	}
	if e != before {
		ep.Status.Policy.Assignment = order.ToResource(e)
	}
	ep.Status.Policy.Name = name
	adopt(ep, p, now)
	return p, nil
}

// adopt decides by which silence the endpoint is judged, and keeps it in the status: a manager that was restarted must not forget it.
func adopt(ep *v1alpha1.Endpoint, p *v1alpha1.EndpointPolicy, now time.Time) {
	f := facts{Endpoint: ep}
	known, contact := time.Duration(0), f.contact()
	if !contact.IsZero() {
		known = offlineAfter(ep)
	}
	if f.connected() {
		contact = now
	}
	after := policy.PaceOf(p).Adopt(known, applied(ep, p), contact, now)
	ep.Status.Policy.OfflineAfterSeconds = int32(after / time.Second) //nolint:gosec // the API bounds it to 133 days
}

// offlineAfter is the age of the last contact, as recorded, at which an endpoint is offline.
func offlineAfter(ep *v1alpha1.Endpoint) time.Duration {
	if ep.Status.Policy == nil {
		return 0
	}
	return time.Duration(ep.Status.Policy.OfflineAfterSeconds) * time.Second
}

// applied tells whether the agent says that it obeys p as it is now; nil is the defaults.
func applied(ep *v1alpha1.Endpoint, p *v1alpha1.EndpointPolicy) bool {
	agent := ep.Status.Agent
	switch {
	case agent == nil:
		return false
	case p == nil:
		return agent.PolicyID == ""
	default:
		return agent.PolicyID == string(p.UID) && agent.PolicyRevision == p.Status.Revision
	}
}
