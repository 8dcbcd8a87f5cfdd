package store

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rollcall-dev/rollcall/internal/identity"
)

const (
	// servingSlots is how many slots are tried: another gateway may be asking in the same one of 256.
	servingSlots = 4
	// servingPoll is how often the answer is looked for. It is asked for once a day, which is not worth a watch.
	servingPoll = 200 * time.Millisecond
)

// ServingCertificate makes a key and has the manager sign a serving certificate with these names (DNS names and IP addresses) for it. It
// waits until ctx ends. Errors are as those of Certify.
func (s *Store) ServingCertificate(ctx context.Context, names []string) (tls.Certificate, error) {
	for range servingSlots {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return tls.Certificate{}, fmt.Errorf("make a serving key: %w", err)
		}
		cert, err := s.certifyServing(ctx, key, names)
		if !errors.Is(err, ErrSlotTaken) {
			return cert, err
		}
	}
	return tls.Certificate{}, ErrSlotTaken
}

func (s *Store) certifyServing(ctx context.Context, key *ecdsa.PrivateKey, names []string) (tls.Certificate, error) {
	ask, err := servingRequest(key, names)
	if err != nil {
		return tls.Certificate{}, err
	}
	for {
		stored, err := s.clients.GetRequest(ctx, ask.Name)
		if apierrors.IsNotFound(err) {
			stored, err = s.clients.CreateRequest(ctx, ask)
		}
		switch {
		case ctx.Err() != nil:
			return tls.Certificate{}, ErrPending
		case apierrors.IsAlreadyExists(err):
			return tls.Certificate{}, ErrSlotTaken
		case err != nil:
			return tls.Certificate{}, fmt.Errorf("ask for a serving certificate: %w", err)
		case questionOf(stored) != questionOf(ask):
			return tls.Certificate{}, ErrSlotTaken
		}
		if denied := denialOf(stored); denied != nil {
			return tls.Certificate{}, denied
		}
		if len(stored.Status.Certificate) > 0 {
			return servingPair(key, stored.Status.Certificate)
		}
		select {
		case <-ctx.Done():
		case <-time.After(servingPoll):
		}
	}
}

func servingRequest(key *ecdsa.PrivateKey, names []string) (*certv1.CertificateSigningRequest, error) {
	template := &x509.CertificateRequest{}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("make a request for the names %q: %w", names, err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encode a serving key: %w", err)
	}
	return request(identity.GatewaySlot(spki), gatewaySigner, certv1.UsageServerAuth, der), nil
}

// servingPair puts key and chain together. The first certificate must be for this key.
func servingPair(key *ecdsa.PrivateKey, chain []byte) (tls.Certificate, error) {
	out := tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		out.Certificate = append(out.Certificate, bytes.Clone(block.Bytes))
	}
	if len(out.Certificate) == 0 {
		return tls.Certificate{}, errors.New("the serving certificate that was issued is not PEM")
	}
	var err error
	if out.Leaf, err = x509.ParseCertificate(out.Certificate[0]); err != nil {
		return tls.Certificate{}, fmt.Errorf("the serving certificate that was issued does not parse: %w", err)
	}
	if !key.PublicKey.Equal(out.Leaf.PublicKey) {
		return tls.Certificate{}, errors.New("the serving certificate that was issued is for another key")
	}
	return out, nil
}
