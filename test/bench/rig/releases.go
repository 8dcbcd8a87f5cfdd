package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/controllers/keys"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/content"
)

// Releases makes releases of content that the fleet believes, from a web server of its own: a ConfigMap is too small for their files.
type Releases struct {
	system    *System
	publisher local.Publisher
	server    *http.Server
	url       string

	mu    sync.Mutex
	files map[string][]byte // by path
}

// Releases begins. The manager has to believe p's CA.
func (s *System) Releases(ctx context.Context, p *PKI) (*Releases, error) {
	publisher, err := local.NewPublisher()
	if err != nil {
		return nil, err
	}
	c, err := s.configMaps()
	if err != nil {
		return nil, err
	}
	believed := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: keys.ReleaseKeys}, Data: map[string]string{"bench.pub": publisher.PublicKey()}}
	if _, err := c.CoreV1().ConfigMaps(local.Namespace).Create(ctx, believed, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Releases{system: s, publisher: publisher, url: "https://" + l.Addr().String(), files: map[string][]byte{}}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = r.server.ServeTLS(l, p.Cert, p.Key) }() // a manager that gets nothing says so
	return r, nil
}

// Close ends the web server.
func (r *Releases) Close() { _ = r.server.Close() }

func (r *Releases) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	file, ok := r.files[q.URL.Path]
	r.mu.Unlock()
	if !ok {
		http.NotFound(w, q)
		return
	}
	_, _ = w.Write(file)
}

// wanted is the label of endpoints that are to have content.
const wanted = "bench.rollcall.dev/content"

// For has content released to some endpoints alone, which beat every so many seconds.
func (r *Releases) For(ctx context.Context, endpoints []string, beat int) error {
	_, err := local.Kubectl(ctx, r.system.API.KubectlPath, r.system.Person.Kubeconfig, "", slices.Concat([]string{"label", "fep"}, endpoints, []string{wanted + "=yes"})...)
	if err != nil {
		return err
	}
	return r.system.Apply(ctx, fmt.Sprintf(`{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: content},
  spec: {priority: 10, selector: {matchLabels: {%s: "yes"}}, heartbeat: {intervalSeconds: %d, missed: 12}}}`, wanted, beat))
}

// Publish releases some size bytes of content to the endpoints with that label, and returns how many bytes they are once they are offered.
func (r *Releases) Publish(ctx context.Context, version string, size int) (int, error) {
	document := document(version, size)
	_, release := r.publisher.Release(Tenant, version, document)
	path := "/" + version + ".json"
	r.mu.Lock()
	r.files[path] = document
	r.mu.Unlock()
	release.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "ContentRelease"}
	release.Spec.Source.ConfigMap, release.Spec.Source.HTTPS = nil, &v1alpha1.HTTPSSource{URL: r.url + path}
	release.Spec.Selector = &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{wanted: "yes"}}
	manifest, err := json.Marshal(release)
	if err != nil {
		return 0, err
	}
	if err := r.system.Apply(ctx, string(manifest)); err != nil {
		return 0, err
	}
	_, err = local.Kubectl(ctx, r.system.API.KubectlPath, r.system.Person.Kubeconfig, "", "wait", "ctr/"+release.Name, "--for=condition=Ready", "--timeout=60s")
	return len(document), err
}

// RunBy waits until the person sees that n endpoints run a version.
func (r *Releases) RunBy(ctx context.Context, n int, version string, patience time.Duration) error {
	return Poll(ctx, patience, func() error {
		out, err := local.Kubectl(ctx, r.system.API.KubectlPath, r.system.Person.Kubeconfig, "", "get", "ctr", "content-"+version, "-o", "jsonpath={.status.rollout.applied}")
		if err == nil && out != fmt.Sprint(n) {
			err = fmt.Errorf("%s of %d endpoints run content %s", out, n, version)
		}
		return err
	})
}

// document is a bundle of about size bytes.
func document(version string, size int) []byte {
	digest := `"` + strings.Repeat("ab", 32) + `"`
	return fmt.Appendf(nil, `{"format":%q,"version":%q,"rules":[{"id":"list","severity":"high","sha256":[%s%s]}]}`,
		content.Format, version, strings.Repeat(digest+",", size/(len(digest)+1)), digest)
}
