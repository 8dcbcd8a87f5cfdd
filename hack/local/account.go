package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
)

// WriteToken asks the API server for a token of a service account, good for a day, and puts it into a file by rename.
func WriteToken(ctx context.Context, admin *rest.Config, namespace, account, path string) error {
	as, err := controlplane.ServiceAccountConfig(ctx, admin, namespace, account)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("token of %s/%s: %w", namespace, account, err)
	}
	if err := os.WriteFile(path+".new", []byte(as.BearerToken), 0o600); err != nil {
		return fmt.Errorf("token of %s/%s: %w", namespace, account, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("token of %s/%s: %w", namespace, account, err)
	}
	return nil
}

// WriteKubeconfig writes a kubeconfig that reaches cluster with the token in tokenFile; without one, it holds no credentials at all.
func WriteKubeconfig(path string, cluster *rest.Config, tokenFile, namespace string) error {
	as := rest.AnonymousClientConfig(cluster)
	as.BearerTokenFile = tokenFile
	return controlplane.WriteKubeconfig(path, "rollcall", namespace, as)
}
