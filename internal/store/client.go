package store

import (
	"context"
	"fmt"
	"net/http"

	certv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// clients reach the API server: one for each group that a gateway needs, over one connection. client-go's typed clients would bring every
// kind of Kubernetes along.
type clients struct {
	rollcall, core, certificates, coordination rest.Interface
}

// Resources by their names in the API.
const (
	endpointsResource  = "endpoints"
	actionsResource    = "endpointactions"
	tokensResource     = "enrollmenttokens"
	policiesResource   = "endpointpolicies"
	releasesResource   = "contentreleases"
	configMapsResource = "configmaps"
	requestsResource   = "certificatesigningrequests"
	leasesResource     = "leases"
)

func newClients(cfg *rest.Config) (*clients, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1 // the pacer bounds writes; client-go's limiter would put the Lease behind them
	if cfg.BearerTokenFile != "" && cfg.BearerToken == "" {
		// client-go makes no client while the file does not exist. A sidecar starts before the manager has written it.
		tokens := transport.NewCachedFileTokenSource(cfg.BearerTokenFile)
		cfg.BearerTokenFile = ""
		cfg.Wrap(transport.ResettableTokenSourceWrapTransport(tokens))
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme, certv1.AddToScheme, coordinationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("make a client of the API server: %w", err)
		}
	}
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	wire, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	c := &clients{}
	for to, group := range map[*rest.Interface]schema.GroupVersion{
		&c.rollcall: v1alpha1.GroupVersion, &c.core: corev1.SchemeGroupVersion,
		&c.certificates: certv1.SchemeGroupVersion, &c.coordination: coordinationv1.SchemeGroupVersion,
	} {
		if *to, err = newClient(cfg, wire, group); err != nil {
			return nil, fmt.Errorf("make a client of %s: %w", group, err)
		}
	}
	return c, nil
}

func newClient(cfg *rest.Config, wire *http.Client, group schema.GroupVersion) (rest.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.GroupVersion, cfg.APIPath = &group, "/apis"
	if group.Group == corev1.GroupName {
		cfg.APIPath = "/api"
	}
	return rest.RESTClientForConfigAndClient(cfg, wire)
}

// PatchStatus applies a JSON Patch to the status of an Endpoint.
func (c *clients) PatchStatus(ctx context.Context, at Ref, patch []byte) (*v1alpha1.Endpoint, error) {
	e := &v1alpha1.Endpoint{}
	err := c.rollcall.Patch(types.JSONPatchType).Namespace(at.Namespace).Resource(endpointsResource).Name(at.Name).SubResource("status").
		Body(patch).Do(ctx).Into(e)
	return e, err
}

// Get reads an Endpoint from the API server.
func (c *clients) Get(ctx context.Context, at Ref) (*v1alpha1.Endpoint, error) {
	e := &v1alpha1.Endpoint{}
	err := c.rollcall.Get().Namespace(at.Namespace).Resource(endpointsResource).Name(at.Name).Do(ctx).Into(e)
	return e, err
}

// PutActionStatus writes the status of an EndpointAction, if it is as it was read.
func (c *clients) PutActionStatus(ctx context.Context, a *v1alpha1.EndpointAction) (*v1alpha1.EndpointAction, error) {
	stored := &v1alpha1.EndpointAction{}
	err := c.rollcall.Put().Namespace(a.Namespace).Resource(actionsResource).Name(a.Name).SubResource("status").Body(a).Do(ctx).Into(stored)
	return stored, err
}

// GetAction reads an EndpointAction.
func (c *clients) GetAction(ctx context.Context, namespace, name string) (*v1alpha1.EndpointAction, error) {
	a := &v1alpha1.EndpointAction{}
	err := c.rollcall.Get().Namespace(namespace).Resource(actionsResource).Name(name).Do(ctx).Into(a)
	return a, err
}

// ListActions reads a page of the EndpointActions for an endpoint.
func (c *clients) ListActions(ctx context.Context, namespace, endpoint, page string) (*v1alpha1.EndpointActionList, error) {
	all := &v1alpha1.EndpointActionList{}
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.endpointName", endpoint).String(), Limit: listPage, Continue: page}
	err := c.rollcall.Get().Namespace(namespace).Resource(actionsResource).VersionedParams(&options, metav1.ParameterCodec).Do(ctx).Into(all)
	return all, err
}

// CreateRequest creates a certificate request.
func (c *clients) CreateRequest(ctx context.Context, r *certv1.CertificateSigningRequest) (*certv1.CertificateSigningRequest, error) {
	stored := &certv1.CertificateSigningRequest{}
	err := c.certificates.Post().Resource(requestsResource).Body(r).Do(ctx).Into(stored)
	return stored, err
}

// GetRequest reads a certificate request.
func (c *clients) GetRequest(ctx context.Context, name string) (*certv1.CertificateSigningRequest, error) {
	stored := &certv1.CertificateSigningRequest{}
	err := c.certificates.Get().Resource(requestsResource).Name(name).Do(ctx).Into(stored)
	return stored, err
}

// leases are the Leases of one namespace.
type leases struct {
	client    rest.Interface
	namespace string
}

func (l leases) get(ctx context.Context, name string) (*coordinationv1.Lease, error) {
	stored := &coordinationv1.Lease{}
	err := l.client.Get().Namespace(l.namespace).Resource(leasesResource).Name(name).Do(ctx).Into(stored)
	return stored, err
}

func (l leases) create(ctx context.Context, o *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	stored := &coordinationv1.Lease{}
	err := l.client.Post().Namespace(l.namespace).Resource(leasesResource).Body(o).Do(ctx).Into(stored)
	return stored, err
}

func (l leases) update(ctx context.Context, o *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	stored := &coordinationv1.Lease{}
	err := l.client.Put().Namespace(l.namespace).Resource(leasesResource).Name(o.Name).Body(o).Do(ctx).Into(stored)
	return stored, err
}

func (l leases) delete(ctx context.Context, o *coordinationv1.Lease) error {
	return l.client.Delete().Namespace(l.namespace).Resource(leasesResource).Name(o.Name).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &o.UID}}).Do(ctx).Error()
}
