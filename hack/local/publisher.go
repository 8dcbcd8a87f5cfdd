package local

import (
	"crypto/rand"
	"fmt"

	"aead.dev/minisign"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
)

// Publisher makes releases of content, and holds the key that signs them.
type Publisher struct{ key minisign.PrivateKey }

// NewPublisher makes one with a key of its own.
func NewPublisher() (Publisher, error) {
	_, key, err := minisign.GenerateKey(rand.Reader)
	return Publisher{key}, err
}

// PublicKey is the text of its public key file, as the ConfigMap rollcall-release-keys has it.
func (p Publisher) PublicKey() string {
	public, _ := p.key.Public().(minisign.PublicKey) // it is one
	text, _ := public.MarshalText()                  // which never fails
	return string(text)
}

// Sign is the text of the signature file of a file.
func (p Publisher) Sign(file []byte) string { return string(minisign.Sign(p.key, file)) }

// Document is a small bundle of content of a version.
func Document(version string) []byte {
	return fmt.Appendf(nil, `{
  "format": %q,
  "version": %q,
  "rules": [
    {"id": "eicar", "severity": "info", "title": "the EICAR test file, which is harmless", "eicar": true},
    {"id": "dropper", "severity": "high", "title": "programs in directories for temporary files", "paths": ["/tmp/**/*.sh", "/var/tmp/**/*.sh"]}
  ]
}
`, content.Format, version)
}

// Release is a release of a document, and the ConfigMap that it is in, both named content-<version>.
func (p Publisher) Release(namespace, version string, document []byte) (*corev1.ConfigMap, *v1alpha1.ContentRelease) {
	const key = "content.json"
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "content-" + version}
	return &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{key: string(document)}},
		&v1alpha1.ContentRelease{ObjectMeta: meta, Spec: v1alpha1.ContentReleaseSpec{Version: version, Source: v1alpha1.ReleaseSource{
			SHA256: v1alpha1.SHA256(content.Digest(document)), Signature: p.Sign(document),
			ConfigMap: &v1alpha1.ConfigMapSource{Name: v1alpha1.LocalName(meta.Name), Key: key},
		}}}
}
