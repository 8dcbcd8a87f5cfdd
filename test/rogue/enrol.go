package rogue

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	certv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/csr"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

const (
	// answerTime is how long a certificate request waits for the manager's answer.
	answerTime = 10 * time.Second
	answerPoll = 50 * time.Millisecond
)

// proofAnnotation of a certificate request holds the enrolment or renewal.
const proofAnnotation = "rollcall.dev/proof"

// enrol asks for certificates for its own key: without a proof; with one that its own key has signed; with one that an agent has signed for another
// key; and in an agent's name, whose certificate it has seen and whose key it has not.
func (r *Rogue) enrol(ctx context.Context, a Ask) (done []Attempt, err error) {
	token, err := read[v1alpha1.EnrollmentToken](ctx, r, a.Namespace, a.Token)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, r.keys.agent)
	if err != nil {
		return nil, err
	}
	trust, _ := r.liar.Trust()
	enrolment, err := envelope.Seal(r.keys.orders, envelope.Enrollment, &agentv1.Enrollment{
		FleetId: trust.FleetID, TokenUid: string(token.UID), Csr: der, Hostname: "rogue", AgentVersion: "8.0.0", CreatedAt: timestamppb.Now(),
	})
	if err != nil {
		return nil, err
	}
	var seen []proof
	if r.liar.say(func() { seen = r.liar.proofs }); len(seen) == 0 {
		return nil, errors.New("no enrolment has passed yet")
	}
	cert, err := x509.ParseCertificate(seen[0].certificate)
	if err != nil {
		return nil, err
	}
	renewal, err := envelope.Seal(r.keys.agent, envelope.Renewal, &agentv1.Renewal{
		FleetId: trust.FleetID, IdentityId: cert.Subject.CommonName, Certificate: cert.Raw, Csr: der, CreatedAt: timestamppb.Now(),
	})
	if err != nil {
		return nil, err
	}
	for _, try := range []struct {
		what  string
		proof *agentv1.Envelope
	}{
		{"without a proof", nil},
		{"with an enrolment that another key than the token's has signed", enrolment},
		{"with the enrolment of an agent that has another key", seen[0].envelope},
		{"with a renewal that another key than the agent's has signed", renewal},
	} {
		ask, err := request(identity.AgentSlot, csr.AgentSigner, certv1.UsageClientAuth, der)
		if err != nil {
			return nil, err
		}
		if try.proof != nil {
			text, err := envelope.MarshalJSON(try.proof)
			if err != nil {
				return nil, err
			}
			ask.Annotations = map[string]string{proofAnnotation: string(text)}
		}
		done = append(done, attempt(try.what, r.certify(ctx, ask)))
	}
	return done, nil
}

// pose asks for a serving certificate by which it could pass for somebody else.
func (r *Rogue) pose(ctx context.Context, _ Ask) ([]Attempt, error) {
	const name = "kubernetes.default.svc"
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, r.keys.agent)
	if err != nil {
		return nil, err
	}
	ask, err := request(identity.GatewaySlot, csr.GatewaySigner, certv1.UsageServerAuth, der)
	if err != nil {
		return nil, err
	}
	foreign := ask.DeepCopy()
	foreign.Spec.SignerName = certv1.KubeAPIServerClientSignerName
	return []Attempt{attempt("a certificate for "+name, r.certify(ctx, ask)), attempt("a certificate of Kubernetes' own signer", r.certify(ctx, foreign))}, nil
}

func request(slot func(spki []byte) string, signer string, usage certv1.KeyUsage, der []byte) (*certv1.CertificateSigningRequest, error) {
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	return &certv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: slot(parsed.RawSubjectPublicKeyInfo)},
		Spec: certv1.CertificateSigningRequestSpec{
			SignerName: signer, Usages: []certv1.KeyUsage{certv1.UsageDigitalSignature, usage},
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		},
	}, nil
}

// certify has a request answered; nil means that there is a certificate now. Until the request before it is gone, it waits for its place.
func (r *Rogue) certify(ctx context.Context, ask *certv1.CertificateSigningRequest) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err := wait.PollUntilContextCancel(ctx, answerPoll, true, func(ctx context.Context) (bool, error) {
		err := r.api.Get(ctx, client.ObjectKeyFromObject(ask), &certv1.CertificateSigningRequest{})
		return client.IgnoreNotFound(err) == nil && err != nil, client.IgnoreNotFound(err)
	})
	if err != nil {
		return fmt.Errorf("wait for a place: %w", err)
	}
	if err := r.api.Create(ctx, ask); err != nil {
		return err
	}
	return wait.PollUntilContextCancel(ctx, answerPoll, true, func(ctx context.Context) (bool, error) {
		if err := r.api.Get(ctx, client.ObjectKeyFromObject(ask), ask); err != nil {
			return false, err
		}
		for _, c := range ask.Status.Conditions {
			if c.Type == certv1.CertificateDenied || c.Type == certv1.CertificateFailed {
				return false, errors.New("denied by the manager: " + c.Reason + ": " + c.Message)
			}
		}
		return len(ask.Status.Certificate) > 0, nil
	})
}
