package enrollment

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// maxClaims of one token at once: what the API holds.
const maxClaims = 50

// expiration of a token whose hours are as long as hour says; nil is never.
func expiration(t *v1alpha1.EnrollmentToken, hour time.Duration) *metav1.Time {
	if t.Spec.ExpiresAfterHours == 0 {
		return nil
	}
	return ptr.To(metav1.NewTime(t.CreationTimestamp.Add(time.Duration(t.Spec.ExpiresAfterHours) * hour)))
}

func usedUp(t *v1alpha1.EnrollmentToken) bool {
	return t.Spec.MaxUses != nil && ptr.Deref(t.Status.Uses, 0) >= *t.Spec.MaxUses
}

// admit tells why a token is not good for one more enrolment; nil: it is.
func admit(t *v1alpha1.EnrollmentToken, hour time.Duration, now time.Time) error {
	end := expiration(t, hour)
	switch {
	case t.DeletionTimestamp != nil:
		return deny(TokenUnknown, "EnrollmentToken %s is being deleted: use another", fullName(t))
	case end != nil && !now.Before(end.Time):
		return deny(TokenExpired, "EnrollmentToken %s expired %s: create another", fullName(t), end.UTC().Format(time.RFC3339))
	case usedUp(t):
		return deny(TokenExhausted, "EnrollmentToken %s is used up (%d of %d): raise its maxUses, or create another", fullName(t), *t.Status.Uses, *t.Spec.MaxUses)
	}
	for key, value := range t.Spec.Labels {
		if wrong := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(string(value))...); len(wrong) > 0 {
			return deny(EnrollmentDenied, "EnrollmentToken %s has a label that no Endpoint can have, %q: %s", fullName(t), key, wrong[0])
		}
	}
	if len(t.Status.Claims) >= maxClaims {
		return &pause{time.Second, "too many enrolments with this token are under way"}
	}
	return nil
}

// applicant is a machine that asks for an Endpoint.
type applicant struct {
	spki      []byte
	machineID string
	// identityID that its claim promises; "" before there is one.
	identityID string
}

// taking says what an applicant may do with an Endpoint of a certain name.
type taking int

const (
	taken   taking = iota // somebody else's
	free                  // there is none
	own                   // it has this applicant's key as its identity already
	mayBind               // there is one, and it may be bound to this applicant
)

// take judges ep, the Endpoint of a name, or nil.
func take(ep *v1alpha1.Endpoint, t *v1alpha1.EnrollmentToken, a applicant) (taking, error) {
	if ep == nil {
		return free, nil
	}
	id := ep.Status.Identity
	named := string(t.Spec.EndpointName) == ep.Name
	same := id != nil && bytes.Equal(id.PublicKeys[0], a.spki)
	if (named || same) && banned(ep) {
		return taken, errBanned(ep)
	}
	switch {
	case same:
		return own, nil
	case named:
		return mayBind, nil
	case id == nil && a.identityID != "" && ep.Annotations[v1alpha1.AnnotationEnrolling] == a.identityID:
		return mayBind, nil
	case id != nil && replaceable(ep, t, a.machineID):
		return mayBind, nil
	default:
		return taken, nil
	}
}

// replaceable tells whether a token lets a machine with this ID take over an Endpoint that has enrolled.
func replaceable(ep *v1alpha1.Endpoint, t *v1alpha1.EnrollmentToken, machineID string) bool {
	return t.Spec.Replace == v1alpha1.ReplaceSameMachineOffline && machineID != "" && string(ep.Status.Identity.MachineID) == machineID &&
		!meta.IsStatusConditionTrue(ep.Status.Conditions, v1alpha1.EndpointOnline) && !banned(ep)
}

// banned tells whether an Endpoint's machine may not enrol again.
func banned(ep *v1alpha1.Endpoint) bool {
	return ep.Spec.Lifecycle == v1alpha1.LifecycleBlocked || ep.Spec.Lifecycle == v1alpha1.LifecycleDecommissioned
}

func errBanned(ep *v1alpha1.Endpoint) *Denial {
	return deny(EnrollmentDenied, "this machine is Endpoint %s, which is %s: somebody must set its spec.lifecycle to Active first", fullName(ep), ep.Spec.Lifecycle)
}

// renewed is what an identity becomes by a renewal.
type renewed struct {
	publicKeys [][]byte
	// previousUntil is until when the second key is accepted.
	previousUntil *metav1.Time
}

// renew judges a renewal of ep's identity from cert's key to newKey. A renewal that was answered before is answered again.
func (o *Options) renew(ep *v1alpha1.Endpoint, cert *x509.Certificate, newKey []byte, now time.Time) (renewed, error) {
	switch ep.Spec.Lifecycle {
	case v1alpha1.LifecycleSuspended:
		return renewed{}, deny(EndpointSuspended, "Endpoint %s is Suspended: it renews once its spec.lifecycle is Active", fullName(ep))
	case v1alpha1.LifecycleBlocked:
		return renewed{}, deny(EndpointBlocked, "Endpoint %s is Blocked", fullName(ep))
	case v1alpha1.LifecycleDecommissioned:
		return renewed{}, deny(EndpointDecommissioned, "Endpoint %s is Decommissioned: remove the agent", fullName(ep))
	}
	if end := cert.NotAfter.Add(o.RenewalGrace); now.After(end) {
		return renewed{}, deny(CertificateExpired, "the certificate expired %s, and could be renewed until %s: enrol again with a new token",
			cert.NotAfter.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
	}
	keys, until, oldKey := ep.Status.Identity.PublicKeys, ep.Status.Identity.PreviousKeyExpirationTime, cert.RawSubjectPublicKeyInfo
	previous := len(keys) > 1 && bytes.Equal(keys[1], oldKey)
	switch {
	case bytes.Equal(keys[0], newKey) && (previous || bytes.Equal(keys[0], oldKey)):
		return renewed{keys, until}, nil // the reply was lost
	case bytes.Equal(keys[0], oldKey):
		return renewed{[][]byte{newKey, oldKey}, ptr.To(metav1.NewTime(now.Add(o.PreviousKeyLifetime)))}, nil
	case previous && until != nil && now.Before(until.Time):
		return renewed{[][]byte{newKey, oldKey}, until}, nil // a new key again: the one before never came into use
	}
	return renewed{}, deny(CertificateSuperseded, "Endpoint %s has a newer certificate than this one. If this machine was restored from a backup or a "+
		"snapshot, or cloned, enrol it again with a new token", fullName(ep))
}

type named interface {
	GetNamespace() string
	GetName() string
}

func fullName(o named) string { return fmt.Sprintf("%s/%s", o.GetNamespace(), o.GetName()) }

func claimOf(t *v1alpha1.EnrollmentToken, keyHash string) *v1alpha1.EnrollmentClaim {
	i := slices.IndexFunc(t.Status.Claims, func(c v1alpha1.EnrollmentClaim) bool { return string(c.KeySHA256) == keyHash })
	if i < 0 {
		return nil
	}
	return &t.Status.Claims[i]
}
