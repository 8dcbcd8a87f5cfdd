package csr

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func certificate(t *testing.T, issued time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: issued.Add(-Backdate), NotAfter: issued.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestAnsweredTime: a request is kept for its whole retention, counted from the answer and not from an approval long before, though all times
// are cut to seconds.
func TestAnsweredTime(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 999e6, time.UTC)
	condition := func(t certv1.RequestConditionType, at time.Time) certv1.CertificateSigningRequestCondition {
		return certv1.CertificateSigningRequestCondition{Type: t, LastUpdateTime: metav1.NewTime(at.Truncate(time.Second))}
	}
	approved := condition(certv1.CertificateApproved, now.Add(-time.Hour))
	for _, tc := range []struct {
		name     string
		status   certv1.CertificateSigningRequestStatus
		answered bool
	}{
		{name: "new"},
		{name: "approved", status: certv1.CertificateSigningRequestStatus{Conditions: []certv1.CertificateSigningRequestCondition{approved}}},
		{name: "issued", answered: true, status: certv1.CertificateSigningRequestStatus{
			Conditions: []certv1.CertificateSigningRequestCondition{approved}, Certificate: certificate(t, now),
		}},
		{name: "denied", answered: true, status: certv1.CertificateSigningRequestStatus{
			Conditions: []certv1.CertificateSigningRequestCondition{condition(certv1.CertificateDenied, now)},
		}},
		{name: "failed", answered: true, status: certv1.CertificateSigningRequestStatus{
			Conditions: []certv1.CertificateSigningRequestCondition{approved, condition(certv1.CertificateFailed, now)},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			by, answered := AnsweredTime(&certv1.CertificateSigningRequest{Status: tc.status})
			if answered != tc.answered {
				t.Fatalf("answered %v, want %v", answered, tc.answered)
			}
			if late := by.Sub(now); answered && (late < 0 || late > time.Second) {
				t.Errorf("answered by %s after the answer", late)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	good := certv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")}),
		Usages:  []certv1.KeyUsage{certv1.UsageClientAuth, certv1.UsageDigitalSignature},
	}
	for _, tc := range []struct {
		name, wrong string
		change      func(*certv1.CertificateSigningRequestSpec)
	}{
		{"as it should be", "", func(*certv1.CertificateSigningRequestSpec) {}},
		{"one usage more", "usages", func(s *certv1.CertificateSigningRequestSpec) { s.Usages = append(s.Usages, certv1.UsageCertSign) }},
		{"one usage less", "usages", func(s *certv1.CertificateSigningRequestSpec) { s.Usages = s.Usages[:1] }},
		{"one usage twice", "usages", func(s *certv1.CertificateSigningRequestSpec) {
			s.Usages = []certv1.KeyUsage{certv1.UsageClientAuth, certv1.UsageClientAuth}
		}},
		{"a lifetime", "expirationSeconds", func(s *certv1.CertificateSigningRequestSpec) { s.ExpirationSeconds = ptr.To[int32](600) }},
		{"two requests", "PEM", func(s *certv1.CertificateSigningRequestSpec) { s.Request = append(s.Request, s.Request...) }},
		{"no PEM", "PEM", func(s *certv1.CertificateSigningRequestSpec) { s.Request = []byte("x") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &certv1.CertificateSigningRequest{Spec: *good.DeepCopy()}
			tc.change(&r.Spec)
			der, err := Request(r, certv1.UsageDigitalSignature, certv1.UsageClientAuth)
			if tc.wrong == "" {
				if err != nil || string(der) != "x" {
					t.Errorf("got %q, %v", der, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.wrong) {
				t.Errorf("got %v, want an error about %s", err, tc.wrong)
			}
		})
	}
}
