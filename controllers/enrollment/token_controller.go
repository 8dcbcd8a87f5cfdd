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
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/faults"
)

// Reasons of the conditions of an EnrollmentToken.
const (
	reasonUsable       = "Usable"
	reasonExpired      = "Expired"
	reasonUsedUp       = "UsedUp"
	reasonSecretWaits  = "SecretPending"
	reasonSecretExists = "SecretExists"
	reasonKeyReplaced  = "KeyReplaced"
)

// handout is where a token's Secret stands.
type handout int

const (
	handedOut   handout = iota
	waits               // for an older Secret of that name to go
	inTheWay            // is one that does not go
	keyReplaced         // since it was made: what is in it is worth nothing
)

// TokenReconciler hands out enrolment tokens: it derives a token's key, puts the token into a Secret, and says whether it is still good.
type TokenReconciler struct{ Options }

// SetupWithManager registers the controller.
func (r *TokenReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("enrollmenttoken").
		For(&v1alpha1.EnrollmentToken{}, builder.WithPredicates(more())).
		Watches(&v1alpha1.Endpoint{}, dropSoon(), builder.WithPredicates(identityBound())).
		Complete(r)
}

const (
	// claimPace is how long claims that are done may stay, so that many are dropped with one write. A write for each collides with the next claim.
	claimPace = time.Second
	// manyClaims are half of those that a token has room for: then they are dropped at once.
	manyClaims = 25
)

// dropSoon has the claims of a token looked at in a while.
func dropSoon() handler.EventHandler {
	enqueue := func(o client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		if ep, ok := o.(*v1alpha1.Endpoint); ok && ep.Status.Identity != nil && ep.Status.Identity.TokenName != "" {
			token := types.NamespacedName{Namespace: ep.Namespace, Name: string(ep.Status.Identity.TokenName)}
			q.AddAfter(reconcile.Request{NamespacedName: token}, claimPace)
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(e.Object, q)
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			enqueue(e.ObjectNew, q)
		},
	}
}

// more passes changes of a token that are more than one more claim, or one less.
func more() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.DeepCopyObject().(*v1alpha1.EnrollmentToken)
		after, ok2 := e.ObjectNew.DeepCopyObject().(*v1alpha1.EnrollmentToken)
		if !ok || !ok2 || before.Generation != after.Generation || before.ResourceVersion == after.ResourceVersion || usedUp(before) != usedUp(after) ||
			len(after.Status.Claims) >= manyClaims {
			return true
		}
		for _, t := range []*v1alpha1.EnrollmentToken{before, after} {
			t.Status.Claims, t.Status.Uses = nil, nil
		}
		return !equality.Semantic.DeepEqual(before.Status, after.Status) || !before.DeletionTimestamp.Equal(after.DeletionTimestamp)
	}}
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
	secret, err := r.handOut(ctx, token)
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: retryNow}, nil
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	before := token.DeepCopy()
	if err := r.dropClaims(ctx, token); err != nil {
		return ctrl.Result{}, err
	}
	status, now := &token.Status, r.now()
	status.ObservedGeneration = token.Generation
	status.ExpirationTime = expiration(token, r.hour())
	status.Uses = ptr.To(ptr.Deref(status.Uses, 0))
	switch secret {
	case handedOut:
		status.SecretName = v1alpha1.LocalName(secretName(token))
	case keyReplaced:
		status.PublicKey = nil // gateways refuse it from now on
	}
	r.setConditions(token, usable(token, r.hour(), now, secret))
	wait := r.secretRetry(secret)
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

// secretPatience is how long a Secret of the token's name may be in the way of a new token, 2 minutes: that of a deleted token of the same name
// goes away within seconds, or when the garbage collector has heard of a new CRD. It is a part of a token's hour, which tests make short.
func (r *TokenReconciler) secretPatience() time.Duration { return r.hour() / 30 }

// secretRetry is when to look again whether that Secret has gone: after 2 seconds, and later every minute; 0 is never.
func (r *TokenReconciler) secretRetry(at handout) time.Duration {
	switch at {
	case waits:
		return r.secretPatience() / 60
	case inTheWay:
		return r.secretPatience() / 2
	default:
		return 0
	}
}

func secretName(t *v1alpha1.EnrollmentToken) string { return t.Name + "-token" }

// handOut puts the token into its Secret, once: a person may delete that when the token has reached its machines, and it stays away.
//
// Secrets are never read. So whether the name is free is tried without effect, and that it was is remembered by publishing the public key: a
// Secret that is there afterwards is the token's own, made by a run that was interrupted. One that is there before is that of a deleted token
// and about to go, or somebody else's. Besides, gateways know a token before anybody has it.
func (r *TokenReconciler) handOut(ctx context.Context, token *v1alpha1.EnrollmentToken) (handout, error) {
	secret, key := r.secret(token)
	published := bytes.Equal(token.Status.PublicKey, key)
	switch {
	case token.Status.SecretName != "" && published:
		return handedOut, nil
	case token.Status.SecretName != "":
		return keyReplaced, nil
	case !published:
		err := r.Client.Create(ctx, secret.DeepCopy(), client.DryRunAll)
		switch age := r.now().Sub(token.CreationTimestamp.Time); {
		case apierrors.IsAlreadyExists(err) && age < r.secretPatience():
			return waits, nil
		case apierrors.IsAlreadyExists(err):
			return inTheWay, nil
		case err != nil:
			return waits, fmt.Errorf("try to create Secret %s/%s: %w", secret.Namespace, secret.Name, err)
		}
		before := token.DeepCopy()
		token.Status.PublicKey = key
		if err := r.Client.Status().Patch(ctx, token, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
			return waits, fmt.Errorf("publish the key of EnrollmentToken %s/%s: %w", token.Namespace, token.Name, err)
		}
	}
	if err := r.Client.Create(ctx, secret); err != nil && !apierrors.IsAlreadyExists(err) {
		return waits, fmt.Errorf("create Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	faults.After("token", "")
	return handedOut, nil
}

// secret is what the token is handed out in, and key what a gateway verifies enrolments with.
func (r *TokenReconciler) secret(token *v1alpha1.EnrollmentToken) (secret *corev1.Secret, key []byte) {
	made := r.Fleet.Token(string(token.UID))
	key, err := x509.MarshalPKIXPublicKey(made.Key().Public())
	if err != nil {
		panic(err) // an Ed25519 key always encodes
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: token.Namespace, Name: secretName(token),
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "EnrollmentToken", Name: token.Name, UID: token.UID, Controller: ptr.To(true),
			}},
		},
		Type: corev1.SecretTypeOpaque,
		StringData: map[string]string{
			"token":   made.Reveal(),
			"install": fmt.Sprintf("echo '%s' | sudo rollcall-agent install --server %s --token-file -", made.Reveal(), r.GatewayURL),
		},
	}, key
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

// usable is the condition Usable.
func usable(t *v1alpha1.EnrollmentToken, hour time.Duration, now time.Time, secret handout) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.TokenUsable, Status: metav1.ConditionFalse, ObservedGeneration: t.Generation}
	switch end := expiration(t, hour); {
	case end != nil && !now.Before(end.Time):
		c.Reason, c.Message = reasonExpired, "expired: create another EnrollmentToken"
	case usedUp(t):
		c.Reason, c.Message = reasonUsedUp, "used up: raise maxUses, or create another EnrollmentToken"
	case secret == keyReplaced:
		c.Reason = reasonKeyReplaced
		c.Message = "the fleet's token key was made anew since this token was handed out, so gateways refuse it: " +
			"delete this EnrollmentToken, create it again, and use what its new Secret has"
	case secret == waits:
		c.Reason = reasonSecretWaits
		c.Message = fmt.Sprintf("a Secret %s was here before this token, probably that of a deleted one: waits for it to go", secretName(t))
	case secret == inTheWay:
		c.Reason = reasonSecretExists
		c.Message = fmt.Sprintf("a Secret %s was here before this token and does not go: delete it, and the manager makes the token's within a minute; "+
			"or, if something else needs it, delete this EnrollmentToken and create one of another name", secretName(t))
	default:
		c.Status, c.Reason = metav1.ConditionTrue, reasonUsable
		c.Message = fmt.Sprintf("the token is in Secret %s", secretName(t))
	}
	return c
}

// setConditions sets Usable, and what kstatus makes of it: Reconciling while it waits, Stalled when a person must do something. A token at the
// end of its time or its uses is neither: people declared the bounds.
func (r *TokenReconciler) setConditions(token *v1alpha1.EnrollmentToken, usable metav1.Condition) {
	conditions := &token.Status.Conditions
	changed := meta.SetStatusCondition(conditions, usable)
	stalled := usable.Reason == reasonKeyReplaced || usable.Reason == reasonSecretExists
	for condition, holds := range map[string]bool{v1alpha1.ConditionStalled: stalled, v1alpha1.ConditionReconciling: usable.Reason == reasonSecretWaits} {
		if !holds {
			meta.RemoveStatusCondition(conditions, condition)
			continue
		}
		abnormal := usable
		abnormal.Type, abnormal.Status = condition, metav1.ConditionTrue
		meta.SetStatusCondition(conditions, abnormal)
	}
	if changed && usable.Status == metav1.ConditionFalse {
		kind := corev1.EventTypeNormal
		if stalled {
			kind = corev1.EventTypeWarning
		}
		r.Events.Eventf(token, nil, kind, usable.Reason, "Judge", "%s", usable.Message)
	}
}

// shorter is the shorter of two waits; 0 is none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
