package controllers_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/csr"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// servingRequest is what a gateway asks for.
func servingRequest(t *testing.T, key *ecdsa.PrivateKey, names *x509.CertificateRequest) *certv1.CertificateSigningRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, names, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: identity.GatewaySlot(spkiOf(t, key.Public()))},
		Spec: certv1.CertificateSigningRequestSpec{
			SignerName: csr.GatewaySigner, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			Usages: []certv1.KeyUsage{certv1.UsageDigitalSignature, certv1.UsageServerAuth},
		},
	}
}

func TestServingCertificates(t *testing.T) {
	startManager(t) // its gateways may be localhost, 127.0.0.1 and gateway.test
	c, gateway := admin(t), as(t, local.GatewayAccount)
	_, token := newToken(t, c, world.api.Namespace(t), "token", v1alpha1.EnrollmentTokenSpec{})
	trust, _ := published(t, c, token)

	t.Run("for the names that it may have", func(t *testing.T) {
		key := newKey(t)
		r := servingRequest(t, key, &x509.CertificateRequest{DNSNames: []string{"localhost", "Gateway.test"}, IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}})
		cert, denial := ask(t, gateway, r)
		if denial != nil {
			t.Fatal(denial.Reason, denial.Message)
		}
		opts := x509.VerifyOptions{Roots: trust.ServerPool(), DNSName: "gateway.test", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if _, err := cert.Verify(opts); err != nil {
			t.Error(err)
		}
		if left := time.Until(cert.NotAfter); left > 72*time.Hour || left < 71*time.Hour || !key.PublicKey.Equal(cert.PublicKey) || cert.IsCA {
			t.Errorf("good for %s, CA %v", left, cert.IsCA)
		}
		gone(t, c, r)
	})
	for _, tc := range []struct {
		name, reason, says string
		as                 client.Client
		change             func(*certv1.CertificateSigningRequest)
		names              x509.CertificateRequest
	}{
		{name: "another name", as: gateway, reason: "NameNotAllowed", says: `"example.com" is not among the manager's --gateway-names`, names: x509.CertificateRequest{DNSNames: []string{"localhost", "example.com"}}},
		{name: "another address", as: gateway, reason: "NameNotAllowed", says: "127.0.0.2", names: x509.CertificateRequest{IPAddresses: []net.IP{net.ParseIP("127.0.0.2")}}},
		{name: "no name", as: gateway, reason: "NameNotAllowed", says: "must have DNS names"},
		{name: "an agent's name beside", as: gateway, reason: "NameNotAllowed", says: "nothing else", names: x509.CertificateRequest{
			DNSNames: []string{"localhost"}, URIs: []*url.URL{identity.URI(trust.FleetID, trust.FleetID)},
		}},
		{name: "somebody else", as: c, reason: "RequesterNotAllowed", says: "rollcall-gateway", names: x509.CertificateRequest{DNSNames: []string{"localhost"}}},
		{name: "a client's usage", as: gateway, reason: "CsrInvalid", says: "usages", names: x509.CertificateRequest{DNSNames: []string{"localhost"}}, change: func(r *certv1.CertificateSigningRequest) {
			r.Spec.Usages = append(r.Spec.Usages, certv1.UsageClientAuth)
		}},
		{name: "a lifetime of its own", as: gateway, reason: "CsrInvalid", says: "expirationSeconds", names: x509.CertificateRequest{DNSNames: []string{"localhost"}}, change: func(r *certv1.CertificateSigningRequest) {
			seconds := int32(3600 * 24 * 365)
			r.Spec.ExpirationSeconds = &seconds
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := servingRequest(t, newKey(t), &tc.names)
			if tc.change != nil {
				tc.change(r)
			}
			cert, denial := ask(t, tc.as, r)
			if cert != nil || denial.Reason != tc.reason || !strings.Contains(denial.Message, tc.says) {
				t.Errorf("got %+v, want the reason %s and %q", denial, tc.reason, tc.says)
			}
		})
	}
}

func TestGatewayToken(t *testing.T) {
	setup(t)
	c, s := admin(t), system(t, "--gateway-token-refresh=1s")
	p, err := s.StartManager(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, p) })
	file := filepath.Join(s.Dir, "gateway.token")
	read := func() string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	whoami := func(token string) (string, error) {
		cfg := rest.AnonymousClientConfig(world.api.Admin)
		cfg.BearerToken = token
		review, err := kubernetes.NewForConfigOrDie(cfg).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return review.Status.UserInfo.Username, nil
	}
	eventually(t, func() error { _, err := os.Stat(file); return err })
	first := read()
	if who, err := whoami(first); err != nil || who != "system:serviceaccount:rollcall-system:rollcall-gateway" {
		t.Errorf("the token is %q's, %v", who, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("everybody may read the token: %v, %v", info.Mode(), err)
	}
	// Deleting the Secret that it is bound to revokes it; the next one is bound to a new Secret.
	deleteNow(t, c, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: "rollcall-gateway-token-binding"}})
	eventually(t, func() error {
		if _, err := whoami(first); err == nil {
			return errors.New("the token of the deleted Secret is still good")
		}
		if second := read(); second == first {
			return errors.New("there is no new token yet")
		}
		if who, err := whoami(read()); err != nil {
			return fmt.Errorf("the new token is not good: %q, %w", who, err)
		}
		return nil
	})
	if b, err := os.ReadFile(p.Log); err != nil || strings.Contains(string(b), first) || strings.Contains(string(b), read()) {
		t.Error("the log has the token")
	}
}
