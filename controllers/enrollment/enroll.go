package enrollment

import (
	"bytes"
	"context"
	"fmt"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/csr"
	"github.com/rollcall-dev/rollcall/internal/faults"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// findToken looks the token up that the enrolment says it uses.
func (r *CSRReconciler) findToken(ctx context.Context, s *request) error {
	uid, err := identity.EnrollmentToken(s.proof)
	if err != nil {
		return deny(ProofInvalid, "%v", err)
	}
	var tokens v1alpha1.EnrollmentTokenList
	if err := r.Client.List(ctx, &tokens, client.MatchingFields{byUID: uid}); err != nil {
		return err
	}
	switch {
	case len(tokens.Items) == 1:
		s.token = &tokens.Items[0]
		return nil
	case r.now().Sub(s.CreationTimestamp.Time) < cacheLag:
		return &pause{cacheLag / 10, "its token is not in the cache yet"}
	default:
		return errTokenGone
	}
}

var errTokenGone = deny(TokenUnknown, "no EnrollmentToken has the UID in this token: it was deleted, or is another fleet's. Get a new one")

// verifyEnrollment verifies all that does not change with time.
func (r *CSRReconciler) verifyEnrollment(_ context.Context, s *request) error {
	uid := string(s.token.UID)
	payload, parsed, err := identity.OpenEnrollment(s.proof, r.Fleet.Token(uid).Key().Public(), r.FleetID, uid)
	if err := s.verifyRequest(parsed, err); err != nil {
		return err
	}
	s.enrollment = payload
	return nil
}

func (s *request) applicant() applicant {
	a := applicant{spki: s.csr.SPKI, machineID: s.enrollment.GetMachineId()}
	if s.claim != nil {
		a.identityID = s.claim.IdentityID
	}
	return a
}

// claim finds what an earlier try has reached, or counts a use and writes down which Endpoint and identity it is for.
//
// The token is read before the Endpoint is looked for: a claim goes away only after its Endpoint has the identity, so one or the other is seen.
func (r *CSRReconciler) claim(ctx context.Context, s *request) error {
	defer r.lockToken(s.token.UID)()
	uid := s.token.UID
	err := r.Live.Get(ctx, client.ObjectKeyFromObject(s.token), s.token)
	if apierrors.IsNotFound(err) || err == nil && s.token.UID != uid {
		s.token = nil
		return errTokenGone
	}
	if err != nil {
		return err
	}
	if s.claim = claimOf(s.token, s.key); s.claim != nil {
		return nil
	}
	if err := r.findKey(ctx, s); err != nil || s.endpoint != nil {
		return err
	}
	name, verdict, unnamed := r.chooseName(ctx, s)
	if s.endpoint != nil {
		return unnamed
	}
	if err := r.mayEnroll(ctx, s); err != nil {
		return err
	}
	if unnamed != nil {
		return unnamed
	}
	if verdict == free {
		if err := r.rehearse(ctx, s, name); err != nil {
			return err
		}
	}
	s.token.Status.Uses = ptr.To(ptr.Deref(s.token.Status.Uses, 0) + 1)
	s.token.Status.Claims = append(s.token.Status.Claims, v1alpha1.EnrollmentClaim{
		KeySHA256: v1alpha1.SHA256(s.key), EndpointName: v1alpha1.LocalName(name), IdentityID: uuid.NewString(),
	})
	if err := r.Client.Status().Update(ctx, s.token); err != nil {
		return err
	}
	s.claim = claimOf(s.token, s.key)
	faults.After("claim", "")
	return nil
}

// mayEnroll decides about a new enrolment.
func (r *CSRReconciler) mayEnroll(ctx context.Context, s *request) error {
	if err := admit(s.token, r.hour(), r.now()); err != nil {
		return err
	}
	same, err := r.sameMachine(ctx, s)
	if err != nil {
		return err
	}
	for i := range same {
		if banned(&same[i]) {
			return errBanned(&same[i])
		}
	}
	if s.token.Spec.Approval == v1alpha1.ApprovalManual && !csr.Approved(s.CertificateSigningRequest) {
		r.Events.Eventf(s.token, nil, corev1.EventTypeNormal, "ApprovalNeeded", "Enroll",
			"%s waits for approval: kubectl certificate approve %s", s.enrollment.GetHostname(), s.Name)
		return &pause{0, "a person must approve it"}
	}
	return nil
}

// findKey finds the Endpoint that has the applicant's key, whatever it is called.
func (r *CSRReconciler) findKey(ctx context.Context, s *request) error {
	var known v1alpha1.EndpointList
	if err := r.Client.List(ctx, &known, client.InNamespace(s.token.Namespace), client.MatchingFields{byKey: s.key}); err != nil {
		return err
	}
	for i := range known.Items {
		if _, err := r.try(ctx, s, known.Items[i].Name); err != nil || s.endpoint != nil {
			return err
		}
	}
	return nil
}

// chooseName is the name of the Endpoint for a new claim. Where one of the possible names belongs to the applicant already, it is set as the
// request's Endpoint instead.
func (r *CSRReconciler) chooseName(ctx context.Context, s *request) (string, taking, error) {
	candidates := names(s.enrollment.GetHostname(), s.key)
	if s.token.Spec.EndpointName != "" {
		candidates = []string{string(s.token.Spec.EndpointName)}
	} else if s.token.Spec.Replace != "" {
		same, err := r.sameMachine(ctx, s)
		if err != nil {
			return "", taken, err
		}
		if len(same) == 1 { // with more, the machine ID tells them apart no longer
			candidates = append([]string{same[0].Name}, candidates...)
		}
	}
	for _, name := range candidates {
		verdict, err := r.try(ctx, s, name)
		if err != nil || verdict != taken {
			return name, verdict, err
		}
	}
	return "", taken, deny(EnrollmentDenied, "the names %q are all taken in namespace %s", candidates, s.token.Namespace)
}

// try judges the Endpoint of a name as it is now.
func (r *CSRReconciler) try(ctx context.Context, s *request, name string) (taking, error) {
	ep := &v1alpha1.Endpoint{}
	err := r.Live.Get(ctx, types.NamespacedName{Namespace: s.token.Namespace, Name: name}, ep)
	if apierrors.IsNotFound(err) {
		ep, err = nil, nil
	}
	if err != nil {
		return taken, err
	}
	verdict, err := take(ep, s.token, s.applicant())
	if verdict == own {
		s.endpoint = ep
	}
	return verdict, err
}

func (r *CSRReconciler) sameMachine(ctx context.Context, s *request) ([]v1alpha1.Endpoint, error) {
	if s.enrollment.GetMachineId() == "" {
		return nil, nil
	}
	var same v1alpha1.EndpointList
	err := r.Client.List(ctx, &same, client.InNamespace(s.token.Namespace), client.MatchingFields{byMachineID: s.enrollment.GetMachineId()})
	return same.Items, err
}

// rehearse creates the Endpoint without storing it: what the API server would refuse, for a namespace that is being deleted, a quota or a
// policy of the cluster's owner, costs no use.
func (r *CSRReconciler) rehearse(ctx context.Context, s *request, name string) error {
	err := r.Client.Create(ctx, s.newEndpoint(name, ""), client.DryRunAll)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return deny(EnrollmentDenied, "namespace %s is being deleted: use a token of another one", s.token.Namespace)
	}
	if err != nil {
		return fmt.Errorf("create Endpoint %s/%s: %w", s.token.Namespace, name, err)
	}
	return nil
}

// newEndpoint is what an enrolment with the request's token creates.
func (s *request) newEndpoint(name, identityID string) *v1alpha1.Endpoint {
	ep := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{
		Namespace: s.token.Namespace, Name: name, Annotations: map[string]string{restoreAnnotation: "true", v1alpha1.AnnotationEnrolling: identityID},
	}}
	for key, value := range s.token.Spec.Labels {
		metav1.SetMetaDataLabel(&ep.ObjectMeta, key, string(value))
	}
	return ep
}

// ensureEndpoint creates the claimed Endpoint, or takes the one that the token lets it take.
func (r *CSRReconciler) ensureEndpoint(ctx context.Context, s *request) error {
	if s.endpoint != nil {
		return nil
	}
	ep := s.newEndpoint(string(s.claim.EndpointName), s.claim.IdentityID)
	err := r.Client.Create(ctx, ep)
	if err == nil {
		s.endpoint = ep
		faults.After("endpoint", "")
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create Endpoint %s: %w", fullName(ep), err)
	}
	if err := r.Live.Get(ctx, client.ObjectKeyFromObject(ep), ep); err != nil {
		return err
	}
	verdict, err := take(ep, s.token, s.applicant())
	if err != nil {
		return err
	}
	if verdict == taken {
		return r.rename(ctx, s)
	}
	s.endpoint = ep
	return nil
}

// rename gives a claim another name: somebody has taken the first one since.
func (r *CSRReconciler) rename(ctx context.Context, s *request) error {
	name, _, err := r.chooseName(ctx, s)
	if err != nil {
		return err
	}
	s.claim.EndpointName = v1alpha1.LocalName(name)
	if err := r.Client.Status().Update(ctx, s.token); err != nil {
		return err
	}
	return &pause{retryNow, "its Endpoint's name was taken, it gets another"}
}

// bindIdentity writes who the Endpoint is. What is known of a machine that had the Endpoint before goes.
func (r *CSRReconciler) bindIdentity(ctx context.Context, s *request) error {
	before := s.endpoint.DeepCopy()
	status, now := &s.endpoint.Status, metav1.NewTime(r.now())
	if status.Identity == nil || !bytes.Equal(status.Identity.PublicKeys[0], s.csr.SPKI) {
		status.Identity = &v1alpha1.EndpointIdentity{
			ID: s.claim.IdentityID, PublicKeys: [][]byte{s.csr.SPKI}, MachineID: v1alpha1.Text(s.enrollment.GetMachineId()),
			EnrolledTime: now, TokenName: v1alpha1.LocalName(s.token.Name),
		}
		status.Policy, status.Connection, status.LastSeenTime, status.Agent, status.Inventory = nil, nil, nil, nil, nil
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.EndpointIdentityConflict)
	}
	r.date(status.Identity)
	return r.patchStatus(ctx, before, s.endpoint, "identity")
}

// settle takes the marks of an unfinished enrolment off an Endpoint that it created, and the managedFields, which cost more than the status.
func (r *CSRReconciler) settle(ctx context.Context, s *request) error {
	if s.endpoint.Annotations[v1alpha1.AnnotationEnrolling] == "" {
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"managedFields":[{}],"annotations":{%q:null}}}`, v1alpha1.AnnotationEnrolling)
	if err := r.Client.Patch(ctx, s.endpoint, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("settle Endpoint %s: %w", fullName(s.endpoint), err)
	}
	faults.After("settlement", "")
	return nil
}

func (r *CSRReconciler) announce(_ context.Context, s *request) error {
	if s.claim != nil {
		r.Events.Eventf(s.endpoint, s.token, corev1.EventTypeNormal, "Enrolled", "Enroll", "enrolled with EnrollmentToken %s from %s",
			s.token.Name, s.enrollment.GetHostname())
	}
	return nil
}
