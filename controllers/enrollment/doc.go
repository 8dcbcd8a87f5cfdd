// Package enrollment lets machines in: it hands out enrolment tokens, and answers the certificate requests of agents.
//
// A request carries a proof that an agent signed: an enrolment, by the token's key, or a renewal, by the key of the current certificate. All
// that the gateway verified is verified again. An enrolment then goes through the steps
//
//	claim → endpoint → identity → settled → approved → signed
//
// each of which is one write, finds out by itself whether it was done before, and may be the last before the process dies: the next one to
// see the request goes on behind it. The claim, written to the EnrollmentToken together with the raised count under its resourceVersion, is
// what makes it one use and one Endpoint, however often it is tried.
package enrollment

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"time"

	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/internal/identity"
)

// Annotations.
const (
	// ProofAnnotation of a CertificateSigningRequest holds the signed enrolment or renewal as DSSE JSON.
	ProofAnnotation = "rollcall.dev/proof"
	// acceptAnnotation names the true one of two instances that use one identity.
	acceptAnnotation = "rollcall.dev/accept-instance"
	// restoreAnnotation makes Velero restore the status, and with it the identity.
	restoreAnnotation = "velero.io/restore-status"
)

// Fleet is what enrolment needs to know of a fleet's keys.
type Fleet interface {
	// Token is the enrolment token of an EnrollmentToken.
	Token(uid string) identity.Token
	// Trust is the newest trust bundle.
	Trust() *identity.Trust
}

// Issuer signs agents' certificates.
type Issuer interface {
	Issue(template x509.Certificate, key crypto.PublicKey, now time.Time) ([]byte, error)
}

// Options of the package's controllers.
type Options struct {
	// Client reads from the cache and writes to the API server; Live reads from the API server.
	Client client.Client
	Live   client.Reader
	Events events.EventRecorder

	FleetID string
	Fleet   Fleet
	AgentCA Issuer

	// GatewayURL is where an install line sends agents.
	GatewayURL string
	// CertificateLifetime of agents; RenewalGrace is how long after it a certificate still renews; PreviousKeyLifetime how long after a
	// renewal the old key is accepted; CSRRetention how long an answered request is kept for the gateway to see.
	CertificateLifetime, RenewalGrace, PreviousKeyLifetime, CSRRetention time.Duration
	// TokenHour is how long an hour of a token's spec.expiresAfterHours is: an hour, but for tests. 0 means an hour.
	TokenHour time.Duration

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

func (o *Options) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

func (o *Options) hour() time.Duration { return cmp.Or(o.TokenHour, time.Hour) }
