// Package csr answers CertificateSigningRequests, for signers that are strict about what they were asked.
//
// The API server lets whoever may create one ask for any usage of a signer that is not Kubernetes' own, and stores a certificate even in a
// request that nobody approved: all checks are the signer's.
package csr

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Signers of Rollcall.
const (
	AgentSigner   = "rollcall.dev/agent"
	GatewaySigner = "rollcall.dev/gateway"
)

// Backdate is how long before it is issued a certificate becomes valid, for peers whose clocks are behind.
const Backdate = 5 * time.Minute

// AnsweredTime tells by when a request was denied, failed or issued, to the second after; ok is false while it was not.
func AnsweredTime(r *certv1.CertificateSigningRequest) (by time.Time, ok bool) {
	const cut = time.Second // what the API and certificates leave of a time
	for _, c := range r.Status.Conditions {
		if c.Type == certv1.CertificateDenied || c.Type == certv1.CertificateFailed {
			return c.LastUpdateTime.Add(cut), true
		}
	}
	if len(r.Status.Certificate) == 0 {
		return time.Time{}, false
	}
	// Nothing but the certificate itself tells: approval may have been long before.
	if block, _ := pem.Decode(r.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			by = cert.NotBefore.Add(Backdate + cut)
		}
	}
	return by, true
}

// Approved tells whether somebody approved a request.
func Approved(r *certv1.CertificateSigningRequest) bool { return has(r, certv1.CertificateApproved) }

func has(r *certv1.CertificateSigningRequest, t certv1.RequestConditionType) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certv1.CertificateSigningRequestCondition) bool { return c.Type == t })
}

// Request is the PKCS#10 request inside (DER). It must be for exactly these usages, and for no lifetime of the requester's choice.
func Request(r *certv1.CertificateSigningRequest, usages ...certv1.KeyUsage) ([]byte, error) {
	if len(r.Spec.Usages) != len(usages) || slices.ContainsFunc(usages, func(u certv1.KeyUsage) bool { return !slices.Contains(r.Spec.Usages, u) }) {
		return nil, fmt.Errorf("usages must be %q, not %q", usages, r.Spec.Usages)
	}
	if r.Spec.ExpirationSeconds != nil {
		return nil, errors.New("expirationSeconds must be unset: the signer decides how long a certificate is good")
	}
	block, rest := pem.Decode(r.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, errors.New("request must be one CERTIFICATE REQUEST in PEM")
	}
	return block.Bytes, nil
}

// Approve approves a request. It changes r to what was stored.
func Approve(ctx context.Context, c client.Client, r *certv1.CertificateSigningRequest, reason, message string) error {
	if Approved(r) {
		return nil
	}
	setCondition(r, certv1.CertificateApproved, reason, message)
	if err := c.SubResource("approval").Update(ctx, r); err != nil {
		return fmt.Errorf("approve CertificateSigningRequest %s: %w", r.Name, err)
	}
	return nil
}

// Refuse denies a request; one that somebody has approved already, which then cannot be denied, it marks as failed.
func Refuse(ctx context.Context, c client.Client, r *certv1.CertificateSigningRequest, reason, message string) error {
	condition, subresource := certv1.CertificateDenied, "approval"
	if Approved(r) {
		condition, subresource = certv1.CertificateFailed, "status"
	}
	setCondition(r, condition, reason, message)
	if err := c.SubResource(subresource).Update(ctx, r); err != nil {
		return fmt.Errorf("refuse CertificateSigningRequest %s: %w", r.Name, err)
	}
	return nil
}

// Issue stores a certificate (DER) in a request.
func Issue(ctx context.Context, c client.Client, r *certv1.CertificateSigningRequest, der []byte) error {
	r.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := c.Status().Update(ctx, r); err != nil {
		return fmt.Errorf("store the certificate in CertificateSigningRequest %s: %w", r.Name, err)
	}
	return nil
}

// Expire deletes an answered request once it is older than retention, and tells how long that takes.
func Expire(ctx context.Context, c client.Client, r *certv1.CertificateSigningRequest, answered time.Time, retention time.Duration, now time.Time) (time.Duration, error) {
	if wait := answered.Add(retention).Sub(now); wait > 0 {
		return wait, nil
	}
	err := c.Delete(ctx, r, client.Preconditions{UID: &r.UID})
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("delete CertificateSigningRequest %s: %w", r.Name, err)
	}
	return 0, nil
}

func setCondition(r *certv1.CertificateSigningRequest, t certv1.RequestConditionType, reason, message string) {
	r.Status.Conditions = append(r.Status.Conditions, certv1.CertificateSigningRequestCondition{
		Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastUpdateTime: metav1.Now(),
	})
}
