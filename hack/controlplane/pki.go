package controlplane

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// leafValidity of serving and client certificates. They are issued again at
// each start, so only a kubeconfig that left the state directory can outlive it.
const leafValidity = 365 * 24 * time.Hour

// authority is the certificate authority of one cluster, for its serving
// certificate and for its people. It implements envtest's authentication.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
	file string
}

var _ envtest.Authn = (*authority)(nil)

// loadPKI reads the authority from dir, and makes it and the key that signs
// service account tokens when dir has none.
func loadPKI(dir string) (*authority, error) {
	a := &authority{file: filepath.Join(dir, "ca.crt")}
	if _, err := keyFile(filepath.Join(dir, saKey)); err != nil {
		return nil, err
	}
	var err error
	if a.key, err = keyFile(filepath.Join(dir, "ca.key")); err != nil {
		return nil, err
	}
	a.pem, err = os.ReadFile(a.file)
	if errors.Is(err, fs.ErrNotExist) {
		made, makeErr := cert.NewSelfSignedCACert(cert.Config{CommonName: "rollcall-development"}, a.key)
		if makeErr != nil {
			return nil, makeErr
		}
		if a.pem, err = cert.EncodeCertificates(made); err != nil {
			return nil, err
		}
		err = os.WriteFile(a.file, a.pem, 0o600)
	}
	if err != nil {
		return nil, err
	}
	certs, err := cert.ParseCertsPEM(a.pem)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.file, err)
	}
	a.cert = certs[0]
	return a, nil
}

// keyFile returns the private key at path, which it makes when there is none.
func keyFile(path string) (crypto.Signer, error) {
	text, _, err := keyutil.LoadOrGenerateKeyFile(path)
	if err != nil {
		return nil, err
	}
	key, err := keyutil.ParsePrivateKeyPEM(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a key of type %T cannot sign", path, key)
	}
	return signer, nil
}

// serve writes the API server's certificate and key into dir.
func (a *authority) serve(dir string) error {
	crt, key, err := a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "kube-apiserver"},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("issue the API server's certificate: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "apiserver.crt"), crt, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "apiserver.key"), key, 0o600)
}

// AddUser implements [envtest.Authn].
func (a *authority) AddUser(user envtest.User, base *rest.Config) (*rest.Config, error) {
	crt, key, err := a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: user.Name, Organization: user.Groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("issue the certificate of user %s: %w", user.Name, err)
	}
	cfg := rest.CopyConfig(base)
	cfg.CertData, cfg.KeyData = crt, key
	return cfg, nil
}

// Configure implements [envtest.Authn].
func (a *authority) Configure(_ string, args *envtest.Arguments) error {
	args.Set("client-ca-file", a.file)
	return nil
}

// Start implements [envtest.Authn].
func (*authority) Start() error { return nil }

// Stop implements [envtest.Authn].
func (*authority) Stop() error { return nil }

func (a *authority) issue(template *x509.Certificate) (crt, key []byte, err error) {
	key, err = keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return nil, nil, err
	}
	private, err := keyutil.ParsePrivateKeyPEM(key)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	template.SerialNumber = serial
	template.NotBefore = now.Add(-5 * time.Minute)
	template.NotAfter = now.Add(leafValidity)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.(crypto.Signer).Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	crt, err = cert.EncodeCertificates(leaf)
	return crt, key, err
}
