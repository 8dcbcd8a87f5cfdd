package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
)

// accountTokenLife is what a process's token is good for. `make run` renews them; no test lasts that long.
const accountTokenLife = 24 * time.Hour

// WriteToken asks the API server for a token of a service account and puts it into a file, by rename.
func WriteToken(ctx context.Context, admin *rest.Config, namespace, account, path string) error {
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return fmt.Errorf("token of %s/%s: %w", namespace, account, err)
	}
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(accountTokenLife.Seconds()))}}
	got, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, req, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("token of %s/%s: %w", namespace, account, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("token of %s/%s: %w", namespace, account, err)
	}
	if err := os.WriteFile(path+".new", []byte(got.Status.Token), 0o600); err != nil {
		return fmt.Errorf("token of %s/%s: %w", namespace, account, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("token of %s/%s: %w", namespace, account, err)
	}
	return nil
}

// WriteKubeconfig writes a kubeconfig that reaches cluster with the token in tokenFile; without one, it holds no credentials at all.
func WriteKubeconfig(path string, cluster *rest.Config, tokenFile, namespace string) error {
	c := clientcmdapi.NewConfig()
	c.Clusters["rollcall"] = &clientcmdapi.Cluster{Server: cluster.Host, CertificateAuthorityData: cluster.CAData, CertificateAuthority: cluster.CAFile}
	c.AuthInfos["rollcall"] = &clientcmdapi.AuthInfo{TokenFile: tokenFile}
	c.Contexts["rollcall"] = &clientcmdapi.Context{Cluster: "rollcall", AuthInfo: "rollcall", Namespace: namespace}
	c.CurrentContext = "rollcall"
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
