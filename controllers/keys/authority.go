package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/rollcall-dev/rollcall/internal/csr"
)

const (
	tokenKeyBytes = 32
	// caLifetime is long because agents learn a new CA only while they are in contact.
	caLifetime = 10 * 365 * 24 * time.Hour
)

// Authority is a certificate authority: ECDSA P-256, self-signed, for ten years.
type Authority struct {
	Certificate *x509.Certificate
	signer      crypto.Signer
}

// Issue signs a certificate for key. It fills in of template what every certificate has alike: a random 128-bit serial number, NotBefore
// five minutes ago, and nothing that lets it sign others. NotAfter is cut to the authority's own. The result is DER.
func (a *Authority) Issue(template x509.Certificate, key crypto.PublicKey, now time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template.SerialNumber, template.NotBefore = serial, now.Add(-csr.Backdate)
	template.BasicConstraintsValid, template.IsCA = true, false
	if template.NotAfter.After(a.Certificate.NotAfter) {
		template.NotAfter = a.Certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, a.Certificate, key, a.signer)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	return der, nil
}

func newAuthority(commonName string, now time.Time) (map[string][]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    now.Add(-csr.Backdate), NotAfter: now.Add(caLifetime),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := encodeKey(key)
	return map[string][]byte{
		corev1.TLSPrivateKeyKey: private,
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, err
}

func parseAuthority(secret *corev1.Secret) (*Authority, error) {
	signer, err := parseSigner(secret)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(secret.Data[corev1.TLSCertKey])
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%q holds no certificate in PEM", corev1.TLSCertKey)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", corev1.TLSCertKey, err)
	}
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || !public.Equal(signer.Public()) || !cert.IsCA {
		return nil, fmt.Errorf("%q is not the CA certificate of the key in %q", corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return &Authority{Certificate: cert, signer: signer}, nil
}

func parseSigner(secret *corev1.Secret) (crypto.Signer, error) {
	block, _ := pem.Decode(secret.Data[corev1.TLSPrivateKeyKey])
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%q holds no PKCS#8 private key in PEM", corev1.TLSPrivateKeyKey)
	}
	// The parser's error is dropped: it may tell of the key.
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%q does not parse as a PKCS#8 private key", corev1.TLSPrivateKeyKey)
	}
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	}
	return nil, errors.New("the key must be Ed25519 or ECDSA P-256")
}

func newEd25519() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return encodeKey(key)
}

func newTokenKey() (map[string][]byte, error) {
	key := make([]byte, tokenKeyBytes)
	_, err := rand.Read(key)
	return map[string][]byte{"key": key}, err
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
}

// spki is the SubjectPublicKeyInfo of a key that this package has parsed or made, which always encodes.
func spki(key crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(err)
	}
	return der
}
