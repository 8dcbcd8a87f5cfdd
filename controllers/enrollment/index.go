package enrollment

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// Indexes of the cache.
const (
	byUID        = "metadata.uid"
	byKey        = "status.identity.publicKeys[0]"
	byIdentityID = "status.identity.id"
	byMachineID  = "status.identity.machineID"
)

// Index adds what the controllers look up by to the cache.
func Index(ctx context.Context, indexer client.FieldIndexer) error {
	identities := func(value func(*v1alpha1.EndpointIdentity) string) client.IndexerFunc {
		return func(o client.Object) []string {
			ep, ok := o.(*v1alpha1.Endpoint)
			if !ok || ep.Status.Identity == nil || value(ep.Status.Identity) == "" {
				return nil
			}
			return []string{value(ep.Status.Identity)}
		}
	}
	endpoints := map[string]client.IndexerFunc{
		byKey:        identities(func(id *v1alpha1.EndpointIdentity) string { return identity.KeyHash(id.PublicKeys[0]) }),
		byIdentityID: identities(func(id *v1alpha1.EndpointIdentity) string { return id.ID }),
		byMachineID:  identities(func(id *v1alpha1.EndpointIdentity) string { return string(id.MachineID) }),
	}
	for field, f := range endpoints {
		if err := indexer.IndexField(ctx, &v1alpha1.Endpoint{}, field, f); err != nil {
			return err
		}
	}
	return indexer.IndexField(ctx, &v1alpha1.EnrollmentToken{}, byUID, func(o client.Object) []string { return []string{string(o.GetUID())} })
}
