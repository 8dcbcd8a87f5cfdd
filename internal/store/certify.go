package store

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"

	certv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// What manager and gateways agree on about certificate requests.
const (
	agentSigner   = "rollcall.dev/agent"
	gatewaySigner = "rollcall.dev/gateway"
	// proofAnnotation holds the enrolment or renewal as DSSE JSON.
	proofAnnotation = "rollcall.dev/proof"
)

// Errors of Certify and ServingCertificate; both may fail with others while the API server is away.
var (
	// ErrPending: ctx ended before the request was answered. Asking again joins it.
	ErrPending = errors.New("the certificate request is not answered yet")
	// ErrSlotTaken: another request is in this one's place, for some seconds.
	ErrSlotTaken = errors.New("another certificate request is in the way")
)

// Denied is the manager's refusal, for good, of a certificate request.
type Denied struct {
	// Reason is the name of a problem in CamelCase, such as TokenExpired; something else if a person denied it.
	Reason string
	// Message says why, for people.
	Message string
}

func (d *Denied) Error() string { return d.Reason + ": " + d.Message }

// Certify has the manager sign an agent's certificate request (DER; spki is its key) that proof vouches for, and returns the certificate
// (DER). It joins a request that is under way with the same key and proof. It waits until ctx ends: ErrPending, ErrSlotTaken or *Denied.
func (s *Store) Certify(ctx context.Context, spki, csrDER []byte, proof *agentv1.Envelope) (certDER []byte, err error) {
	text, err := envelope.MarshalJSON(proof)
	if err != nil {
		return nil, err
	}
	ask := request(identity.AgentSlot(spki), agentSigner, certv1.UsageClientAuth, csrDER)
	ask.Annotations = map[string]string{proofAnnotation: string(text)}
	for {
		held, occupied, changed := s.slots.look(ask.Name)
		if !occupied {
			if held, err = s.occupy(ctx, ask); err != nil {
				return nil, err
			}
		}
		switch {
		case held.question != questionOf(ask):
			return nil, ErrSlotTaken
		case held.denied != nil:
			return nil, held.denied
		case held.certificate != nil:
			return held.certificate, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ErrPending
		}
	}
}

// occupy creates a request, and returns what then is in its slot.
func (s *Store) occupy(ctx context.Context, ask *certv1.CertificateSigningRequest) (slot, error) {
	stored, err := s.clients.CreateRequest(ctx, ask)
	if apierrors.IsAlreadyExists(err) { // the watch does not show it yet
		stored, err = s.clients.GetRequest(ctx, ask.Name)
	}
	switch {
	case ctx.Err() != nil:
		return slot{}, ErrPending
	case apierrors.IsNotFound(err): // gone again: what was there was not ours
		return slot{}, ErrSlotTaken
	case err != nil:
		return slot{}, fmt.Errorf("ask for a certificate: %w", err)
	}
	return slotOf(stored), nil
}

func request(name, signer string, usage certv1.KeyUsage, csrDER []byte) *certv1.CertificateSigningRequest {
	return &certv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certv1.CertificateSigningRequestSpec{
			SignerName: signer, Usages: []certv1.KeyUsage{certv1.UsageDigitalSignature, usage},
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csrDER}),
		},
	}
}
