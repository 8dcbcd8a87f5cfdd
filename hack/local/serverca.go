package local

import (
	"context"
	"crypto/tls"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// ServerCA is the authority of the gateways' certificates with its key, which none but the manager and the cluster's administrator can read.
func ServerCA(ctx context.Context, admin *rest.Config) (tls.Certificate, error) {
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the server CA: %w", err)
	}
	secret, err := client.CoreV1().Secrets(Namespace).Get(ctx, "rollcall-server-ca", metav1.GetOptions{})
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the server CA: %w", err)
	}
	ca, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the server CA from the Secret %s/%s: %w", Namespace, secret.Name, err)
	}
	return ca, nil
}
