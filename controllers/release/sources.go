package release

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
)

// maxRedirects that are followed.
const maxRedirects = 5

// Sources fetches artifacts.
type Sources struct {
	// Live reads ConfigMaps from the API server itself: none is watched.
	Live client.Reader
	// HTTP fetches files.
	HTTP *http.Client
}

// NewHTTPClient makes a client for Sources that believes the system's certificate authorities, and more, in PEM. It obeys HTTPS_PROXY, and follows
// redirects to https alone.
func NewHTTPClient(more []byte) (*http.Client, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's certificate authorities: %w", err)
	}
	if len(more) > 0 && !roots.AppendCertsFromPEM(more) {
		return nil, errors.New("there is no certificate in PEM in it")
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second, DisableCompression: true,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Scheme != "https" || len(via) > maxRedirects {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}, nil
}

// where names a source for people.
func where(s v1alpha1.ReleaseSource) string {
	switch {
	case s.ConfigMap != nil:
		return fmt.Sprintf("ConfigMap %s", s.ConfigMap.Name)
	case s.HTTPS != nil:
		return s.HTTPS.URL
	default:
		return "nothing"
	}
}

// fetch has the bytes that a source holds now: at most content.MaxBytes. Nothing is verified. The error is a *problem.
func (s Sources) fetch(ctx context.Context, namespace string, from v1alpha1.ReleaseSource) ([]byte, error) {
	var file []byte
	var err error
	switch {
	case from.ConfigMap != nil:
		file, err = s.configMap(ctx, namespace, *from.ConfigMap)
	case from.HTTPS != nil:
		file, err = s.https(ctx, from.HTTPS.URL)
	default:
		return nil, &problem{reason: reasonSourceUnknown, message: "its source is of a kind that this manager does not know"}
	}
	if err == nil && len(file) > content.MaxBytes {
		return nil, &problem{reason: content.ReasonTooLarge, message: fmt.Sprintf("%s has more than the %d bytes that content may have", where(from), content.MaxBytes)}
	}
	return file, err
}

func (s Sources) configMap(ctx context.Context, namespace string, from v1alpha1.ConfigMapSource) ([]byte, error) {
	cm := &corev1.ConfigMap{}
	err := s.Live.Get(ctx, types.NamespacedName{Namespace: namespace, Name: string(from.Name)}, cm)
	if err != nil {
		p := &problem{reason: reasonFetchFailed, message: fmt.Sprintf("ConfigMap %s cannot be read: %s", from.Name, err), passes: true}
		if apierrors.IsNotFound(err) {
			p.reason, p.message = reasonSourceNotFound, fmt.Sprintf("ConfigMap %s does not exist", from.Name)
		}
		return nil, p
	}
	if file, ok := cm.BinaryData[from.Key]; ok {
		return file, nil
	}
	if file, ok := cm.Data[from.Key]; ok {
		return []byte(file), nil
	}
	return nil, &problem{reason: reasonSourceNotFound, message: fmt.Sprintf("ConfigMap %s has no key %s", from.Name, from.Key), passes: true}
}

func (s Sources) https(ctx context.Context, url string) ([]byte, error) {
	failed := func(format string, args ...any) error {
		return &problem{reason: reasonFetchFailed, message: fmt.Sprintf("%s: ", url) + fmt.Sprintf(format, args...), passes: true}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, &problem{reason: reasonSourceUnknown, message: fmt.Sprintf("%s is no URL", url)}
	}
	req.Header.Set("User-Agent", "rollcall-manager")
	resp, err := s.HTTP.Do(req)
	if err != nil {
		return nil, failed("%s", errors.Unwrap(err)) // without the URL once more
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode != http.StatusOK {
		return nil, failed("the server answered with %s", resp.Status)
	}
	file, err := io.ReadAll(io.LimitReader(resp.Body, content.MaxBytes+1))
	if err != nil {
		return nil, failed("%s", err)
	}
	return file, nil
}
