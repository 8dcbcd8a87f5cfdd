// Package serving signs the serving certificates of gateways, through CertificateSigningRequests of the signer rollcall.dev/gateway: for the
// gateway's own service account, and for the names that agents are told to dial, alone.
package serving

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/rollcall-dev/rollcall/internal/csr"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// retryNow is the pause after a lost race.
const retryNow = 50 * time.Millisecond

// Reasons of a denial.
const (
	reasonRequester = "RequesterNotAllowed"
	reasonInvalid   = "CsrInvalid"
	reasonName      = "NameNotAllowed"
)

// Issuer signs serving certificates.
type Issuer interface {
	Issue(template x509.Certificate, key crypto.PublicKey, now time.Time) ([]byte, error)
}

// Reconciler answers the certificate requests of gateways.
type Reconciler struct {
	// Client writes. Cache has the requests of this signer and no others.
	Client   client.Client
	Cache    cache.Cache
	ServerCA Issuer
	// Account is the user name that gateways have.
	Account string
	// Names are the DNS names and IP addresses that a certificate may have.
	Names []string
	// Lifetime of a certificate. Retention is how long an answered request is kept for the gateway to see.
	Lifetime, Retention time.Duration
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	c, err := controller.New("serving", mgr, controller.Options{Reconciler: r})
	if err != nil {
		return err
	}
	return c.Watch(source.Kind(r.Cache, &certv1.CertificateSigningRequest{}, &handler.TypedEnqueueRequestForObject[*certv1.CertificateSigningRequest]{}))
}

// Reconcile answers one request, and forgets it a while after it was answered.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	request := &certv1.CertificateSigningRequest{}
	if err := r.Cache.Get(ctx, req.NamespacedName, request); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	now := time.Now()
	if at, answered := csr.AnsweredTime(request); answered {
		wait, err := csr.Expire(ctx, r.Client, request, at, r.Retention, now)
		return ctrl.Result{RequeueAfter: wait}, err
	}
	err := r.answer(ctx, request, now)
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: retryNow}, nil
	}
	return ctrl.Result{}, client.IgnoreNotFound(err)
}

func (r *Reconciler) answer(ctx context.Context, request *certv1.CertificateSigningRequest, now time.Time) error {
	logger := log.FromContext(ctx)
	parsed, reason, err := r.judge(request)
	if err != nil {
		logger.Info("Denied a serving certificate.", "reason", reason, "detail", err.Error(), "user", request.Spec.Username)
		return csr.Refuse(ctx, r.Client, request, reason, err.Error())
	}
	if err := csr.Approve(ctx, r.Client, request, "Serving", "asked by "+r.Account+" for names that it may have"); err != nil {
		return err
	}
	der, err := r.ServerCA.Issue(x509.Certificate{
		NotAfter: now.Add(r.Lifetime),
		DNSNames: parsed.DNSNames, IPAddresses: parsed.IPAddresses,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, parsed.PublicKey, now)
	if err != nil {
		return err
	}
	if err := csr.Issue(ctx, r.Client, request, der); err != nil {
		return err
	}
	logger.Info("Issued a serving certificate.", "names", namesOf(parsed))
	return nil
}

// judge decides whether a request is granted; an error says why not, and what to do.
func (r *Reconciler) judge(request *certv1.CertificateSigningRequest) (*x509.CertificateRequest, string, error) {
	if request.Spec.Username != r.Account {
		return nil, reasonRequester, fmt.Errorf("only %s may have a certificate of this signer", r.Account)
	}
	der, err := csr.Request(request, certv1.UsageDigitalSignature, certv1.UsageServerAuth)
	if err != nil {
		return nil, reasonInvalid, err
	}
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, reasonInvalid, fmt.Errorf("the request does not parse: %w", err)
	}
	key, ok := parsed.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok || key.Curve != elliptic.P256():
		return nil, reasonInvalid, errors.New("the key must be ECDSA P-256")
	case parsed.CheckSignature() != nil:
		return nil, reasonInvalid, errors.New("the request is not signed by its own key")
	case request.Name != identity.GatewaySlot(parsed.RawSubjectPublicKeyInfo):
		return nil, reasonInvalid, fmt.Errorf("a request for this key is named %s", identity.GatewaySlot(parsed.RawSubjectPublicKeyInfo))
	case len(parsed.URIs)+len(parsed.EmailAddresses) > 0 || len(namesOf(parsed)) == 0:
		return nil, reasonName, errors.New("the certificate must have DNS names or IP addresses, and nothing else")
	}
	for _, name := range namesOf(parsed) {
		if !slices.ContainsFunc(r.Names, func(allowed string) bool { return sameName(allowed, name) }) {
			return nil, reasonName, fmt.Errorf("%q is not among the manager's --gateway-names (%s): add it there, or take it out of the gateway's --names",
				name, strings.Join(r.Names, ","))
		}
	}
	return parsed, "", nil
}

func namesOf(parsed *x509.CertificateRequest) []string {
	names := slices.Clone(parsed.DNSNames)
	for _, ip := range parsed.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

func sameName(a, b string) bool {
	x, y := net.ParseIP(a), net.ParseIP(b)
	if x != nil || y != nil {
		return x.Equal(y)
	}
	return strings.EqualFold(a, b)
}
