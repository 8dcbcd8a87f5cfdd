package relay

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"time"
)

// keyring finds agents' keys in their state directories.
type keyring struct {
	patterns []string

	mu    sync.Mutex
	where map[string]string // directory by the certificate
}

// find returns the certificate with its key. Agents renew theirs at any time, so that nothing but the place is remembered.
func (k *keyring) find(certificate []byte) (tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c, err := load(k.where[string(certificate)]); err == nil && bytes.Equal(c.Certificate[0], certificate) {
		return c, nil
	}
	k.where = map[string]string{}
	for _, pattern := range k.patterns {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return tls.Certificate{}, fmt.Errorf("agents' directories %q: %w", pattern, err)
		}
		for _, dir := range dirs {
			if c, err := load(dir); err == nil {
				k.where[string(c.Certificate[0])] = dir
			}
		}
	}
	dir, ok := k.where[string(certificate)]
	if !ok {
		return tls.Certificate{}, fmt.Errorf("no agent in %v has the certificate that was shown: TLS cannot be ended for it", k.patterns)
	}
	return load(dir)
}

// load reads an agent's identity; where a renewal is just being written, there is none that fits for a moment.
func load(dir string) (tls.Certificate, error) {
	if dir == "" {
		return tls.Certificate{}, errors.New("no directory")
	}
	return tls.LoadX509KeyPair(filepath.Join(dir, "identity", "agent.crt"), filepath.Join(dir, "identity", "agent.key"))
}

// certificateLife of what Sign makes: longer than a demo runs.
const certificateLife = 90 * 24 * time.Hour

// Sign makes the certificate that a relay presents: of the fleet's server CA, for the names and addresses by which agents dial it.
func Sign(ca tls.Certificate, names ...string) (tls.Certificate, error) {
	none := tls.Certificate{}
	if len(ca.Certificate) == 0 {
		return none, errors.New("sign the relay's certificate: the server CA has none itself")
	}
	issuer, err := x509.ParseCertificate(ca.Certificate[0])
	if err != nil {
		return none, fmt.Errorf("the server CA's certificate: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return none, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return none, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "relay"}, NotBefore: now.Add(-5 * time.Minute), NotAfter: now.Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), ca.PrivateKey)
	if err != nil {
		return none, fmt.Errorf("sign the relay's certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf, issuer.Raw}, PrivateKey: key}, nil
}
