package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

const howToInstall = "apply the CRDs of this version: kubectl apply --server-side -k config/crd (Helm does not upgrade them by itself)"

// checkKinds tells whether the API server serves and stores the kinds as this version knows them. It asks discovery, which needs no rights.
func checkKinds(cfg *rest.Config) error {
	client, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return err
	}
	version := v1alpha1.GroupVersion
	served, err := client.ServerResourcesForGroupVersion(version.String())
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: the API server does not serve %s: %s", errKinds, version, howToInstall)
	}
	if err != nil {
		return fmt.Errorf("ask the API server for its kinds: %w", err)
	}
	stored := map[string]string{}
	for _, r := range served.APIResources {
		stored[r.Kind] = r.StorageVersionHash
	}
	for _, kind := range []string{"ContentRelease", "Endpoint", "EndpointAction", "EndpointPolicy", "EnrollmentToken"} {
		hash, ok := stored[kind]
		if !ok {
			return fmt.Errorf("%w: the API server does not serve %s of %s: %s", errKinds, kind, version, howToInstall)
		}
		if want := storageHash(kind); hash != "" && hash != want {
			return fmt.Errorf("%w: the API server stores %s in another version than %s: %s", errKinds, kind, version.Version, howToInstall)
		}
	}
	return nil
}

var errKinds = fmt.Errorf("the CRDs do not fit this manager")

// storageHash is how discovery names the stored version of a kind (k8s.io/apiserver/pkg/endpoints/discovery.StorageVersionHash).
func storageHash(kind string) string {
	sum := sha256.Sum256([]byte(v1alpha1.GroupVersion.Group + "/" + v1alpha1.GroupVersion.Version + "/" + kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}
