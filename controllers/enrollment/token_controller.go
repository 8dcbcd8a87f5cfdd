package enrollment

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// The condition of an EnrollmentToken, and its reasons.
const (
	conditionUsable = "Usable"

	reasonUsable       = "Usable"
	reasonExpired      = "Expired"
	reasonUsedUp       = "UsedUp"
	reasonSecretWaits  = "SecretPending"
	reasonSecretExists = "SecretExists"
	reasonKeyReplaced  = "KeyReplaced"
)

const (
	// secretPatience is how long a Secret of the token's name may be in the way of a new token: one of a token of the same name that was
	// deleted goes away within seconds, or when the garbage collector has heard of a new CRD.
	secretPatience = 2 * time.Minute
	secretRetry    = 2 * time.Second
)

// handout is where a token's Secret stands.
type handout int

const (
	handedOut handout = iota
	waits             // for an older Secret of that name to go
	inTheWay          // is one that does not go
)

// TokenReconciler hands out enrolment tokens: it derives a token's key, puts the token into a Secret, and says whether it is still good.
type TokenReconciler struct{ Options }

// SetupWithManager registers the controller.
func (r *TokenReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("enrollmenttoken").
		For(&v1alpha1.EnrollmentToken{}).
		Watches(&v1alpha1.Endpoint{}, handler.EnqueueRequestsFromMapFunc(tokenOf), builder.WithPredicates(identityBound())).
		Complete(r)
}

func tokenOf(_ context.Context, o client.Object) []reconcile.Request {
	ep, ok := o.(*v1alpha1.Endpoint)
	if !ok || ep.Status.Identity == nil || ep.Status.Identity.TokenName == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: ep.Namespace, Name: string(ep.Status.Identity.TokenName)}}}
}

// identityBound passes Endpoints whose claim may be done.
func identityBound() predicate.Predicate {
	id := func(o client.Object) string {
		if ep, ok := o.(*v1alpha1.Endpoint); ok && ep.Status.Identity != nil {
			return ep.Status.Identity.ID
		}
		return ""
	}
	return predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return id(e.Object) != "" },
		UpdateFunc: func(e event.UpdateEvent) bool { return id(e.ObjectNew) != id(e.ObjectOld) },
		DeleteFunc: func(event.DeleteEvent) bool { return false },
	}
}

// Reconcile brings one token's status up to date.
func (r *TokenReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	token := &v1alpha1.EnrollmentToken{}
	if err := r.Client.Get(ctx, req.NamespacedName, token); err != nil || token.DeletionTimestamp != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := token.DeepCopy()
	wait, secret, err := r.ensureSecret(ctx, token)
	if err != nil {
		return ctrl.Result{}, err
	}
	if err := r.dropClaims(ctx, token); err != nil {
		return ctrl.Result{}, err
	}
	status := &token.Status
	status.ObservedGeneration = token.Generation
	status.ExpirationTime = expiration(token, r.hour())
	status.Uses = ptr.To(ptr.Deref(status.Uses, 0))
	replaced := r.setPublicKey(token)
	now := r.now()
	condition := usable(token, r.hour(), now, secret, replaced)
	if meta.SetStatusCondition(&status.Conditions, condition) && condition.Status == metav1.ConditionFalse {
		r.Events.Eventf(token, nil, corev1.EventTypeNormal, condition.Reason, "Judge", "%s", condition.Message)
	}
	if end := status.ExpirationTime; end != nil && end.After(now) {
		wait = shorter(wait, end.Sub(now))
	}
	if equality.Semantic.DeepEqual(before.Status, token.Status) {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	err = r.Client.Status().Patch(ctx, token, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: retryNow}, nil
	}
	return ctrl.Result{RequeueAfter: wait}, client.IgnoreNotFound(err)
}

// ensureSecret hands the token out, once: a person may delete the Secret when the token has reached its machines, and it stays away.
//
// The Secret is never read. So one that is there already may be what an earlier, interrupted run made; or that of a deleted token of the same
// name, and about to go; or somebody else's. Creating it is tried until the second must be gone; then the token says that it is in the way.
func (r *TokenReconciler) ensureSecret(ctx context.Context, token *v1alpha1.EnrollmentToken) (wait time.Duration, at handout, err error) {
	name := token.Name + "-token"
	if token.Status.SecretName != "" {
		if c := meta.FindStatusCondition(token.Status.Conditions, conditionUsable); c != nil && c.Reason == reasonSecretExists {
			return 0, inTheWay, nil
		}
		return 0, handedOut, nil
	}
	text := r.Fleet.Token(string(token.UID)).Reveal()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: token.Namespace, Name: name,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "EnrollmentToken", Name: token.Name, UID: token.UID, Controller: ptr.To(true),
			}},
		},
		Type: corev1.SecretTypeOpaque,
		StringData: map[string]string{
			"token":   text,
			"install": fmt.Sprintf("echo '%s' | sudo rollcall-agent install --server %s --token-file -", text, r.GatewayURL),
		},
	}
	err = r.Client.Create(ctx, secret)
	exists := apierrors.IsAlreadyExists(err)
	switch {
	case exists && r.now().Sub(token.CreationTimestamp.Time) < secretPatience:
		return secretRetry, waits, nil
	case exists:
		at = inTheWay
	case err != nil:
		return 0, waits, fmt.Errorf("create Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	token.Status.SecretName = v1alpha1.LocalName(name)
	return 0, at, r.reached("made token")
}

// setPublicKey publishes what a gateway verifies enrolments with; none where the token in the Secret was made with a master key that is lost.
func (r *TokenReconciler) setPublicKey(token *v1alpha1.EnrollmentToken) (replaced bool) {
	der, err := x509.MarshalPKIXPublicKey(r.Fleet.Token(string(token.UID)).Key().Public())
	if err != nil {
		panic(err) // an Ed25519 key always encodes
	}
	was := token.Status.PublicKey
	c := meta.FindStatusCondition(token.Status.Conditions, conditionUsable)
	if replaced = len(was) > 0 && !bytes.Equal(was, der) || c != nil && c.Reason == reasonKeyReplaced; replaced {
		der = nil
	}
	token.Status.PublicKey = der
	return replaced
}

// dropClaims forgets the claims whose Endpoints have their identity, as far as this cache has seen: from now on they are found by it.
func (r *TokenReconciler) dropClaims(ctx context.Context, token *v1alpha1.EnrollmentToken) error {
	var failed error
	token.Status.Claims = slices.DeleteFunc(token.Status.Claims, func(c v1alpha1.EnrollmentClaim) bool {
		ep := &v1alpha1.Endpoint{}
		err := r.Client.Get(ctx, types.NamespacedName{Namespace: token.Namespace, Name: string(c.EndpointName)}, ep)
		if client.IgnoreNotFound(err) != nil {
			failed = err
		}
		return err == nil && ep.Status.Identity != nil && ep.Status.Identity.ID == c.IdentityID
	})
	return failed
}

// usable is the condition Usable. It being False is no failure: people declared the bounds.
func usable(t *v1alpha1.EnrollmentToken, hour time.Duration, now time.Time, secret handout, keyReplaced bool) metav1.Condition {
	c := metav1.Condition{Type: conditionUsable, Status: metav1.ConditionFalse, ObservedGeneration: t.Generation}
	switch end := expiration(t, hour); {
	case keyReplaced:
		c.Reason, c.Message = reasonKeyReplaced, "the fleet's token key was replaced since this token was handed out: create another EnrollmentToken"
	case end != nil && !now.Before(end.Time):
		c.Reason, c.Message = reasonExpired, "expired: create another EnrollmentToken"
	case usedUp(t):
		c.Reason, c.Message = reasonUsedUp, "used up: raise maxUses, or create another EnrollmentToken"
	case secret == waits:
		c.Status, c.Reason = metav1.ConditionTrue, reasonSecretWaits
		c.Message = fmt.Sprintf("waits for an older Secret %s-token to go, and then makes its own", t.Name)
	case secret == inTheWay:
		c.Status, c.Reason = metav1.ConditionTrue, reasonSecretExists
		c.Message = fmt.Sprintf("a Secret %s-token was there before. If its ownerReferences do not name this EnrollmentToken, delete both and create this one again", t.Name)
	default:
		c.Status, c.Reason = metav1.ConditionTrue, reasonUsable
		c.Message = fmt.Sprintf("the token is in Secret %s-token", t.Name)
	}
	return c
}

// shorter is the shorter of two waits; 0 is none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
