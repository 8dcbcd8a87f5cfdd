package release

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
	decide "github.com/rollcall-dev/rollcall/internal/release"
)

// counts matches the endpoints of a namespace with its releases, in one pass for all of them, and not more often than every interval.
type counts struct {
	client   client.Client
	interval time.Duration
	now      func() time.Time

	mu         sync.Mutex
	namespaces map[string]*counted
}

// counted is what the last pass found.
type counted struct {
	at      time.Time
	stale   bool
	matched map[types.UID][]decide.Counted // by release
}

func newCounts(c client.Client, interval time.Duration, now func() time.Time) *counts {
	return &counts{client: c, interval: interval, now: now, namespaces: map[string]*counted{}}
}

// handler notes that a namespace is to be counted again. It asks for no reconciliation: those that count come by themselves.
func (c *counts) handler() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, _ queue) { c.changed(e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, _ queue) { c.changed(e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, _ queue) { c.changed(e.Object) },
	}
}

func (c *counts) changed(o client.Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.namespaces[o.GetNamespace()]; n != nil {
		n.stale = true
	}
}

// of are the endpoints that a release selects. fresh asks for a pass now: a release has changed.
func (c *counts) of(ctx context.Context, r *v1alpha1.ContentRelease, all []v1alpha1.ContentRelease, fresh bool) ([]decide.Counted, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.namespaces[r.Namespace]
	if n == nil || fresh || n.stale && c.now().Sub(n.at) >= c.interval {
		matched, err := c.pass(ctx, r.Namespace, all)
		if err != nil {
			return nil, err
		}
		n = &counted{at: c.now(), matched: matched}
		c.namespaces[r.Namespace] = n
	}
	return n.matched[r.UID], nil
}

func (c *counts) pass(ctx context.Context, namespace string, all []v1alpha1.ContentRelease) (map[types.UID][]decide.Counted, error) {
	var endpoints v1alpha1.EndpointList
	if err := c.client.List(ctx, &endpoints, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	pins, err := c.pins(ctx, namespace)
	if err != nil {
		return nil, err
	}
	var each, offered []*decide.Release
	for i := range all {
		r, ok := decide.Of(&all[i], content.Everybody, nil)
		if r.UID != "" {
			each = append(each, &r)
		}
		if ok {
			offered = append(offered, &r)
		}
	}
	itself := func(r *decide.Release) *decide.Release { return r }
	decide.Order(offered, itself)
	matched := map[types.UID][]decide.Counted{}
	for i := range endpoints.Items {
		ep := &endpoints.Items[i]
		if ep.Status.Identity == nil {
			continue
		}
		one := countedOf(ep)
		e := decide.Endpoint{IdentityID: ep.Status.Identity.ID, Labels: labels.Set(ep.Labels)}
		if ep.Status.Policy != nil {
			e.Pin = pins[string(ep.Status.Policy.Name)]
		}
		if has, ok := decide.For(e, offered, itself); ok {
			one.Has = has.UID
		}
		for _, r := range each {
			if r.Selects(e.Labels) {
				matched[types.UID(r.UID)] = append(matched[types.UID(r.UID)], one)
			}
		}
	}
	return matched, nil
}

// pins are the versions that policies pin, by the policy's name.
func (c *counts) pins(ctx context.Context, namespace string) (map[string]string, error) {
	var policies v1alpha1.EndpointPolicyList
	if err := c.client.List(ctx, &policies, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	pins := map[string]string{}
	for i := range policies.Items {
		if p := &policies.Items[i]; p.Spec.Content != nil {
			pins[p.Name] = p.Spec.Content.Version
		}
	}
	return pins, nil
}

func countedOf(ep *v1alpha1.Endpoint) decide.Counted {
	c := decide.Counted{Name: ep.Name}
	if a := ep.Status.Agent; a != nil {
		c.Runs, c.Failure = string(a.ContentVersion), a.ContentError
	}
	switch {
	case ep.Spec.Lifecycle != "" && ep.Spec.Lifecycle != v1alpha1.LifecycleActive:
		c.Hindrance = "is refused"
	case meta.IsStatusConditionTrue(ep.Status.Conditions, v1alpha1.EndpointIdentityConflict):
		c.Hindrance = "is held"
	case meta.IsStatusConditionFalse(ep.Status.Conditions, v1alpha1.EndpointOnline):
		c.Hindrance = "is offline"
	}
	return c
}
