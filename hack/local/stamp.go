package local

import (
	"context"
	"fmt"
	"path/filepath"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
)

// Stamp installs what writes into each EndpointAction who asked for it, where the cluster can: from Kubernetes 1.36 on. It tells whether it did.
func Stamp(ctx context.Context, kubectl, kubeconfig string, admin *rest.Config, root string) (bool, error) {
	client, err := discovery.NewDiscoveryClientForConfig(admin)
	if err != nil {
		return false, fmt.Errorf("look for mutating admission policies: %w", err)
	}
	served, err := client.ServerResourcesForGroupVersion("admissionregistration.k8s.io/v1")
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("look for mutating admission policies: %w", err)
	}
	for _, r := range served.APIResources {
		if r.Name != "mutatingadmissionpolicies" {
			continue
		}
		manifest, err := Kubectl(ctx, kubectl, kubeconfig, "", "kustomize", filepath.Join(root, "config", "components", "requested-by-stamp"))
		if err == nil {
			_, err = Kubectl(ctx, kubectl, kubeconfig, manifest, "apply", "-f", "-")
		}
		return err == nil, err
	}
	return false, nil
}
