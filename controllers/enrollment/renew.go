package enrollment

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// verifyRenewal verifies that the key of a certificate that this fleet issued asks for its successor.
func (r *CSRReconciler) verifyRenewal(_ context.Context, s *request) error {
	var err error
	s.renewal, err = identity.OpenRenewal(s.proof, r.FleetID)
	if err := s.verifyRequest(s.renewal.CSR, err); err != nil {
		return err
	}
	if !r.Fleet.Trust().IssuedByAgentCA(s.renewal.Certificate) {
		return deny(CertificateUnknown, "no agent CA of this fleet issued the certificate")
	}
	return nil
}

// findEndpoint looks up whose certificate it is.
func (r *CSRReconciler) findEndpoint(ctx context.Context, s *request) error {
	var found v1alpha1.EndpointList
	if err := r.Client.List(ctx, &found, client.MatchingFields{byIdentityID: s.renewal.Renewal.GetIdentityId()}); err != nil {
		return err
	}
	switch {
	case len(found.Items) == 1:
		s.endpoint = &found.Items[0]
		return nil
	case r.now().Sub(s.CreationTimestamp.Time) < cacheLag:
		return &pause{cacheLag / 10, "its Endpoint is not in the cache yet"}
	default:
		return deny(EndpointUnknown, "no Endpoint has this identity: it was deleted, or its machine has enrolled again. Enrol with a new token")
	}
}

// bindKey writes the new key to the identity.
func (r *CSRReconciler) bindKey(ctx context.Context, s *request) error {
	after, err := r.renew(s.endpoint, s.renewal.Certificate, s.csr.SPKI, r.now())
	var denial *Denial
	if errors.As(err, &denial) && denial.Reason == CertificateSuperseded {
		if err := r.reportConflict(ctx, s); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	before := s.endpoint.DeepCopy()
	id := s.endpoint.Status.Identity
	id.PublicKeys, id.PreviousKeyExpirationTime = after.publicKeys, after.previousUntil
	r.date(id)
	return r.patchStatus(ctx, before, s.endpoint, "key")
}

// reportConflict says that a machine uses a certificate of this identity that was superseded, unless a person has said which one is true.
func (r *CSRReconciler) reportConflict(ctx context.Context, s *request) error {
	c := s.endpoint.Status.Connection
	if accepted := s.endpoint.Annotations[acceptAnnotation]; accepted != "" && c != nil && accepted == c.InstanceID {
		return nil
	}
	before := s.endpoint.DeepCopy()
	changed := meta.SetStatusCondition(&s.endpoint.Status.Conditions, metav1.Condition{
		Type: v1alpha1.EndpointIdentityConflict, Status: metav1.ConditionTrue, Reason: string(CertificateSuperseded), ObservedGeneration: s.endpoint.Generation,
		Message: "a machine tried to renew a certificate that was superseded: a clone of this one, or this one restored from a backup. Enrol one of them " +
			"again, or annotate the Endpoint with " + acceptAnnotation + "=<status.connection.instanceID> if the connected one is the true one",
	})
	if !changed {
		return nil
	}
	r.Events.Eventf(s.endpoint, nil, corev1.EventTypeWarning, "IdentityConflict", "Renew", "a machine tried to renew a certificate that was superseded")
	return r.patchStatus(ctx, before, s.endpoint, "conflict")
}
