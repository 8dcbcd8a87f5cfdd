// Package policy signs EndpointPolicies for the agents that obey them, and counts those. Which policy an endpoint obeys is decided in
// internal/policy and written by controllers/endpoint.
package policy

import (
	"context"
	"crypto"
	"fmt"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Options of the controller.
type Options struct {
	// FleetID and Orders are whose orders the signed policies are. Where another key or fleet has signed one, it is signed anew.
	FleetID string
	Orders  crypto.Signer
	// CountInterval is how often the endpoints of a policy are counted.
	CountInterval time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// byPolicy finds the Endpoints that obey a policy.
const byPolicy = "status.policy.name"

// Setup adds the controller to a manager.
func Setup(mgr ctrl.Manager, opts Options) error {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.Endpoint{}, byPolicy, func(o client.Object) []string {
		if ep, ok := o.(*v1alpha1.Endpoint); ok && ep.Status.Policy != nil {
			return []string{string(ep.Status.Policy.Name)}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index Endpoints by their policy: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).Named("endpointpolicy").
		For(&v1alpha1.EndpointPolicy{}).
		Complete(&reconciler{Options: opts, client: mgr.GetClient()})
}
