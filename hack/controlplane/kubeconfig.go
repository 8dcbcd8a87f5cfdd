package controlplane

import (
	"context"
	"fmt"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// serviceAccountTokenTTL outlasts any test run.
const serviceAccountTokenTTL = 24 * time.Hour

// ServiceAccountConfig returns a configuration that authenticates as the
// service account, with a token that the API server issued for 24 hours. The
// account must exist; what it may do is up to RBAC.
func ServiceAccountConfig(ctx context.Context, admin *rest.Config, namespace, name string) (*rest.Config, error) {
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return nil, err
	}
	seconds := int64(serviceAccountTokenTTL / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	request, err = client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("request a token for service account %s/%s: %w", namespace, name, err)
	}
	cfg := rest.AnonymousClientConfig(admin)
	cfg.BearerToken = request.Status.Token
	return cfg, nil
}

// WriteKubeconfig writes cfg as a kubeconfig file, mode 0600, with one context
// of the given name and default namespace. It replaces the file in one step.
func WriteKubeconfig(path, contextName, namespace string, cfg *rest.Config) error {
	kubeconfig := clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{contextName: {
			Server: cfg.Host, CertificateAuthorityData: cfg.CAData, CertificateAuthority: cfg.CAFile,
		}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{contextName: {
			ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData,
			Token: cfg.BearerToken, TokenFile: cfg.BearerTokenFile,
		}},
		Contexts: map[string]*clientcmdapi.Context{contextName: {
			Cluster: contextName, AuthInfo: contextName, Namespace: namespace,
		}},
		CurrentContext: contextName,
	}
	unfinished := path + ".new"
	if err := clientcmd.WriteToFile(kubeconfig, unfinished); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return os.Rename(unfinished, path)
}
