package enrollment

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/csr"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

const (
	workers = 8
	// cacheLag is how young a request may be and name a token or identity that the cache has not seen.
	cacheLag = 5 * time.Second
	// retryNow is the pause after a lost race: the cache catches up meanwhile.
	retryNow = 50 * time.Millisecond
	maxRetry = 10 * time.Second
)

var answers = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "rollcall_certificate_requests_total", Help: "Agents' certificate requests by what they asked for and the answer: Issued, or the reason of the denial.",
}, []string{"request", "answer"})

func init() { metrics.Registry.MustRegister(answers) }

// CSRReconciler answers the certificate requests of agents.
type CSRReconciler struct {
	Options
	// claiming serializes claims on one token in this process, where they would only collide on its resourceVersion.
	claiming sync.Map
}

// SetupWithManager registers the controller.
func (r *CSRReconciler) SetupWithManager(mgr ctrl.Manager) error {
	ours := predicate.NewPredicateFuncs(func(o client.Object) bool {
		c, ok := o.(*certv1.CertificateSigningRequest)
		return ok && c.Spec.SignerName == csr.AgentSigner
	})
	return ctrl.NewControllerManagedBy(mgr).Named("enrollment").
		For(&certv1.CertificateSigningRequest{}, builder.WithPredicates(ours)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryNow, maxRetry),
		}).
		Complete(r)
}

// request is one run's knowledge of a certificate request.
type request struct {
	*certv1.CertificateSigningRequest
	kind  string // Enrollment or Renewal
	proof *agentv1.Envelope
	csr   identity.CSR
	key   string // hash of the public key

	enrollment *agentv1.Enrollment
	renewal    identity.RenewalProof

	token    *v1alpha1.EnrollmentToken
	claim    *v1alpha1.EnrollmentClaim
	endpoint *v1alpha1.Endpoint
}

// step is one of the steps that answer a request. Its error ends the run: a *Denial, a *pause, or a failure that is tried again.
type step func(context.Context, *request) error

// Reconcile answers one request, and forgets it a while after it was answered.
func (r *CSRReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	s := &request{CertificateSigningRequest: &certv1.CertificateSigningRequest{}}
	if err := r.Client.Get(ctx, req.NamespacedName, s.CertificateSigningRequest); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if at, answered := csr.AnsweredTime(s.CertificateSigningRequest); answered {
		wait, err := csr.Expire(ctx, r.Client, s.CertificateSigningRequest, at, r.CSRRetention, r.now())
		return ctrl.Result{RequeueAfter: wait}, err
	}
	for _, step := range r.steps(s) {
		if err := step(ctx, s); err != nil {
			return r.unanswered(ctx, s, err)
		}
	}
	answers.WithLabelValues(s.kind, "Issued").Inc()
	log.FromContext(ctx).Info("Issued a certificate.", "request", s.kind, "namespace", s.endpoint.Namespace, "endpoint", s.endpoint.Name,
		"identity", s.endpoint.Status.Identity.ID)
	return ctrl.Result{}, nil
}

func (r *CSRReconciler) steps(s *request) []step {
	e, err := envelope.UnmarshalJSON([]byte(s.Annotations[ProofAnnotation]))
	if err != nil {
		return []step{refuse(deny(ProofInvalid, "the request carries no proof in the annotation %s", ProofAnnotation))}
	}
	s.proof = e
	switch envelope.Type(e.GetPayloadType()) {
	case envelope.Enrollment:
		s.kind = "Enrollment"
		return []step{r.findToken, r.verifyEnrollment, r.claim, r.ensureEndpoint, r.bindIdentity, r.settle, r.approve, r.sign, r.announce}
	case envelope.Renewal:
		s.kind = "Renewal"
		return []step{r.verifyRenewal, r.findEndpoint, r.bindKey, r.approve, r.sign}
	default:
		return []step{refuse(deny(ProofInvalid, "the proof is neither an enrolment nor a renewal"))}
	}
}

func refuse(d *Denial) step { return func(context.Context, *request) error { return d } }

// unanswered ends a run that issued nothing.
func (r *CSRReconciler) unanswered(ctx context.Context, s *request, err error) (ctrl.Result, error) {
	var (
		denial *Denial
		wait   *pause
	)
	switch {
	case errors.As(err, &denial):
		return ctrl.Result{}, r.deny(ctx, s, denial)
	case errors.As(err, &wait):
		log.FromContext(ctx).V(1).Info("The request waits.", "reason", wait.why)
		return ctrl.Result{RequeueAfter: wait.after}, nil
	case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		return ctrl.Result{RequeueAfter: retryNow}, nil
	default:
		if s.token != nil {
			r.Events.Eventf(s.token, nil, corev1.EventTypeWarning, "EnrollmentDelayed", "Enroll", "%s: it is tried again: %v", s.enrollment.GetHostname(), err)
		}
		return ctrl.Result{}, err
	}
}

// deny refuses a request for good, and tells the tenant, who cannot see CertificateSigningRequests.
func (r *CSRReconciler) deny(ctx context.Context, s *request, d *Denial) error {
	if err := csr.Refuse(ctx, r.Client, s.CertificateSigningRequest, string(d.Reason), d.Detail); err != nil {
		return client.IgnoreNotFound(err)
	}
	answers.WithLabelValues(s.kind, string(d.Reason)).Inc()
	log.FromContext(ctx).Info("Denied a certificate.", "request", s.kind, "reason", d.Reason, "detail", d.Detail)
	if s.token == nil {
		return nil
	}
	who := s.enrollment.GetHostname()
	if who == "" {
		who = "a machine that did not prove its token"
	}
	patch := client.MergeFrom(s.token.DeepCopy())
	s.token.Status.LastDenial = cut(fmt.Sprintf("%s: %s", who, d.Detail), 256)
	s.token.Status.LastDenialTime = &metav1.Time{Time: r.now()}
	r.Events.Eventf(s.token, nil, corev1.EventTypeWarning, "EnrollmentDenied", "Enroll", "%s: %s", who, d.Error())
	return client.IgnoreNotFound(r.Client.Status().Patch(ctx, s.token, patch))
}

// verifyRequest checks what enrolment and renewal have alike: the request carries exactly the key that the proof speaks of, in its slot,
// and asks for nothing else than it may have.
func (s *request) verifyRequest(parsed identity.CSR, err error) error {
	switch {
	case errors.Is(err, identity.ErrCSR):
		return deny(CSRInvalid, "%v", err)
	case errors.Is(err, identity.ErrProof):
		return deny(ProofInvalid, "%v", err)
	case err != nil:
		return err
	}
	s.csr, s.key = parsed, identity.KeyHash(parsed.SPKI)
	der, err := csr.Request(s.CertificateSigningRequest, certv1.UsageDigitalSignature, certv1.UsageClientAuth)
	switch {
	case err != nil:
		return deny(CSRInvalid, "%v", err)
	case string(der) != string(parsed.DER):
		return deny(CSRInvalid, "the request is not the one that the agent signed")
	case s.Name != identity.AgentSlot(parsed.SPKI):
		return deny(CSRInvalid, "a request for this key is named %s", identity.AgentSlot(parsed.SPKI))
	}
	return nil
}

// lockToken keeps other workers from claiming on the same token.
func (r *CSRReconciler) lockToken(uid types.UID) (unlock func()) {
	l, _ := r.claiming.LoadOrStore(uid, &sync.Mutex{})
	mu, ok := l.(*sync.Mutex)
	if !ok {
		panic("claiming holds mutexes only")
	}
	mu.Lock()
	return mu.Unlock
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n-3] + "..."
}
