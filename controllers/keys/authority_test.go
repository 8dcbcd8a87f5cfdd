package keys

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rollcall-dev/rollcall/internal/csr"
)

func secretOf(t *testing.T, data map[string][]byte, err error) *corev1.Secret {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{Data: data}
}

func TestAuthorityIssuesWhatVerifies(t *testing.T) {
	data, err := newAuthority("test CA", noon)
	ca, err := parseAuthority(secretOf(t, data, err))
	if err != nil {
		t.Fatal(err)
	}
	if years := ca.Certificate.NotAfter.Sub(noon).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("the CA is good for %.1f years, want 10", years)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(x509.Certificate{
		NotAfter: noon.Add(20 * 365 * 24 * time.Hour), IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key.Public(), noon)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: noon, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if cert.IsCA || cert.NotAfter.After(ca.Certificate.NotAfter) || !cert.NotBefore.Equal(noon.Add(-csr.Backdate)) || cert.SerialNumber.BitLen() < 64 {
		t.Errorf("CA %v, from %s to %s, serial number %d", cert.IsCA, cert.NotBefore, cert.NotAfter, cert.SerialNumber)
	}
}

func TestDamagedSecretsAreNamed(t *testing.T) {
	a, errA := newAuthority("a", noon)
	b, errB := newAuthority("b", noon)
	one, two := secretOf(t, a, errA), secretOf(t, b, errB)
	one.Data["tls.crt"] = two.Data["tls.crt"]
	if _, err := parseAuthority(one); err == nil || !strings.Contains(err.Error(), `"tls.crt" is not the CA certificate of the key in "tls.key"`) {
		t.Errorf("a certificate of another key: %v", err)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "no PEM": []byte("key"), "no PKCS#8": []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
	} {
		if _, err := parseSigner(&corev1.Secret{Data: map[string][]byte{"tls.key": data}}); err == nil || !strings.Contains(err.Error(), `"tls.key"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
