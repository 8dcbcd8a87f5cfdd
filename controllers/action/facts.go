package action

import (
	"cmp"
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/policy"
)

// look gathers what an action on one endpoint is judged by. ok is false for a child that its parent has not called yet.
func (r *reconciler) look(ctx context.Context, a *v1alpha1.EndpointAction, now time.Time) (l *decide.Look, ok bool, err error) {
	l = &decide.Look{Now: now, FleetID: r.FleetID, Seal: r.seal, SealedNow: r.sealedNow, ReportMargin: r.ReportMargin}
	if l.Parent, l.Turn, ok, err = r.parent(ctx, a); err != nil || !ok {
		return nil, false, err
	}
	ep, err := r.endpoint(ctx, a, l.Parent)
	if err != nil {
		return nil, false, err
	}
	if ep == nil {
		l.EndpointDeleted = a.Status.Admission != nil || l.Parent != nil
	} else if l.Endpoint, err = r.describe(ctx, ep); err != nil {
		return nil, false, err
	}
	newest, newer, err := r.newestOfTopic(ctx, a)
	if err != nil {
		return nil, false, err
	}
	l.NewerOfTopic = newer
	if a.Status.Admission == nil && !now.After(newest) { // agents obey the later; a clock may have gone back
		l.Now = newest.Add(time.Millisecond)
	}
	return l, true, nil
}

// endpoint is the Endpoint of an action; nil if there is none. It is shared with the cache: not to be changed.
//
// The cache may be behind the one that an earlier decision was made by: that an endpoint is gone, or another than the one that the action was
// admitted or made for, the API server itself must say.
func (r *reconciler) endpoint(ctx context.Context, a, parent *v1alpha1.EndpointAction) (*v1alpha1.Endpoint, error) {
	ep, err := getEndpoint(ctx, r.client, a)
	if err == nil && (ep == nil && (parent != nil || a.Status.Admission != nil) || ep != nil && another(ep, a, parent)) {
		ep, err = getEndpoint(ctx, r.live, a)
	}
	if ep != nil && madeForAnother(ep, a, parent) {
		return nil, err
	}
	return ep, err
}

func getEndpoint(ctx context.Context, from client.Reader, a *v1alpha1.EndpointAction) (*v1alpha1.Endpoint, error) {
	key, ep := client.ObjectKey{Namespace: a.Namespace, Name: string(a.Spec.EndpointName)}, &v1alpha1.Endpoint{}
	switch err := from.Get(ctx, key, ep, client.UnsafeDisableDeepCopy); {
	case apierrors.IsNotFound(err):
		return nil, nil //nolint:nilnil // there is none, and that is a fact to judge by
	case err != nil:
		return nil, fmt.Errorf("get Endpoint %s: %w", key, err)
	}
	return ep, nil
}

// another tells whether an Endpoint is not the one that an action is for: its machine has enrolled anew, or only the name is the same.
func another(ep *v1alpha1.Endpoint, a, parent *v1alpha1.EndpointAction) bool {
	return a.Status.Admission != nil && identityOf(ep) != a.Status.Admission.IdentityID || madeForAnother(ep, a, parent)
}

// madeForAnother: a child's name tells which Endpoint it was made for.
func madeForAnother(ep *v1alpha1.Endpoint, a, parent *v1alpha1.EndpointAction) bool {
	return parent != nil && childName(parent, ep.UID) != a.Name
}

func identityOf(ep *v1alpha1.Endpoint) string {
	if ep.Status.Identity == nil {
		return ""
	}
	return ep.Status.Identity.ID
}

// describe says of an endpoint what its actions are judged by.
func (r *reconciler) describe(ctx context.Context, ep *v1alpha1.Endpoint) (*decide.Endpoint, error) {
	var policies v1alpha1.EndpointPolicyList
	if err := r.client.List(ctx, &policies, client.InNamespace(ep.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the policies of Endpoint %s/%s: %w", ep.Namespace, ep.Name, err)
	}
	e := own(ep)
	obeyed := policy.For(ep.Labels, policies.Items)
	e.Interval = policy.PaceOf(obeyed).Interval
	if obeyed != nil {
		e.Policy = obeyed.Name
		if obeyed.Spec.Actions != nil {
			e.Disabled = obeyed.Spec.Actions.Disabled
		}
	}
	return &e, nil
}

// own is what an Endpoint itself says; which policy it obeys is another's word.
func own(ep *v1alpha1.Endpoint) decide.Endpoint {
	e := decide.Endpoint{
		IdentityID: identityOf(ep), Lifecycle: cmp.Or(ep.Spec.Lifecycle, v1alpha1.LifecycleActive),
		Conflict:  meta.IsStatusConditionTrue(ep.Status.Conditions, v1alpha1.EndpointIdentityConflict),
		Online:    meta.IsStatusConditionTrue(ep.Status.Conditions, v1alpha1.EndpointOnline),
		Channel:   v1alpha1.ChannelNone,
		Isolation: ep.Spec.Isolation, Proxy: ep.Spec.Proxy, State: ep.Status.Agent,
	}
	if seen := ep.Status.LastSeenTime; seen != nil {
		e.LastSeen = seen.Time
	}
	if c := ep.Status.Connection; c != nil {
		e.Channel = c.Channel
		e.Conflict = e.Conflict || c.ConflictInstanceID != "" // the condition follows
		if c.SinceTime != nil && c.SinceTime.After(e.LastSeen) {
			e.LastSeen = c.SinceTime.Time
		}
	}
	if agent := ep.Status.Agent; agent != nil { // there once the capabilities are known
		e.Reported, e.AgentVersion, e.Capabilities, e.JournalID = true, string(agent.Version), agent.Capabilities, agent.JournalID
		if agent.JournalTime != nil {
			e.JournalTime = agent.JournalTime.Time
		}
	}
	return e
}

// matters is all that open actions of an endpoint may wait for or end by: a change of anything else is none of theirs.
func matters(ep *v1alpha1.Endpoint) any {
	m := struct {
		UID    types.UID
		Policy v1alpha1.LocalName
		decide.Endpoint
	}{UID: ep.UID, Endpoint: own(ep)}
	if p := ep.Status.Policy; p != nil {
		m.Policy = p.Name
	}
	m.LastSeen = time.Time{}
	if s := m.State; s != nil {
		m.State = &v1alpha1.EndpointAgent{
			Isolation: s.Isolation, IsolationActionUID: s.IsolationActionUID, Proxy: s.Proxy, ProxyActionUID: s.ProxyActionUID,
		}
	}
	return m
}

// openAt is what an action is found by while it is open.
func openAt(a *v1alpha1.EndpointAction) []string {
	if decide.Ended(&a.Status) {
		return nil
	}
	if a.Spec.EndpointName == "" {
		return []string{anyEndpoint}
	}
	return []string{anyEndpoint, string(a.Spec.EndpointName)}
}
