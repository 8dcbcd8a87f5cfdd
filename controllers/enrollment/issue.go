package enrollment

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/csr"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// date sets until when the identity's next certificate is good. A repeated try a little later keeps the date of the first.
func (r *CSRReconciler) date(id *v1alpha1.EndpointIdentity) {
	end := r.now().Add(r.CertificateLifetime)
	if id.CertificateExpirationTime == nil || end.Sub(id.CertificateExpirationTime.Time) > r.CertificateLifetime/50 {
		id.CertificateExpirationTime = &metav1.Time{Time: end}
	}
}

// patchStatus writes a status if it changed, unless anybody else has changed the Endpoint meanwhile.
func (r *CSRReconciler) patchStatus(ctx context.Context, before, ep *v1alpha1.Endpoint, point string) error {
	if equality.Semantic.DeepEqual(before.Status, ep.Status) {
		return nil
	}
	if err := r.Client.Status().Patch(ctx, ep, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return err
	}
	faults.After(point, "")
	return nil
}

func (r *CSRReconciler) approve(ctx context.Context, s *request) error {
	if csr.Approved(s.CertificateSigningRequest) {
		return nil
	}
	message := fmt.Sprintf("Endpoint %s, identity %s", fullName(s.endpoint), s.endpoint.Status.Identity.ID)
	if err := csr.Approve(ctx, r.Client, s.CertificateSigningRequest, s.kind, message); err != nil {
		return err
	}
	faults.After("approval", "")
	return nil
}

// sign issues the certificate: it names the identity and nothing else, because TLS 1.2 shows it to the network.
func (r *CSRReconciler) sign(ctx context.Context, s *request) error {
	id := s.endpoint.Status.Identity
	template := x509.Certificate{
		Subject:     pkix.Name{CommonName: id.ID},
		URIs:        []*url.URL{identity.URI(r.FleetID, id.ID)},
		NotAfter:    id.CertificateExpirationTime.Time,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := r.AgentCA.Issue(template, s.csr.Key, r.now())
	if err != nil {
		return err
	}
	if err := csr.Issue(ctx, r.Client, s.CertificateSigningRequest, der); err != nil {
		return err
	}
	faults.After("signature", "")
	return nil
}
