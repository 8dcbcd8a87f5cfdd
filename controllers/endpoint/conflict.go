package endpoint

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Reasons of the conditions IdentityConflict and Stalled.
const (
	reasonTwoInstances = "TwoInstances"
	// reasonSuperseded is set where a renewal is refused, by controllers/enrollment.
	reasonSuperseded       = "CertificateSuperseded"
	reasonIdentityConflict = "IdentityConflict"
)

// conflict says that two machines use one identity; nil if none does.
//
// That a certificate was used after it was renewed cannot be seen here. Who sees it sets the condition, and it stays until the machine enrols
// again, which takes the condition away, or a person says that the connected instance is the true one.
func conflict(f *facts) *metav1.Condition {
	connection := f.Status.Connection
	accepted := f.Annotations[v1alpha1.AnnotationAcceptInstance]
	resolved := connection != nil && accepted != "" && accepted == connection.InstanceID
	if was := meta.FindStatusCondition(f.Status.Conditions, v1alpha1.EndpointIdentityConflict); was != nil && was.Reason == reasonSuperseded && !resolved {
		return was
	}
	if connection == nil || connection.ConflictInstanceID == "" {
		return nil
	}
	return &metav1.Condition{
		Type: v1alpha1.EndpointIdentityConflict, Status: metav1.ConditionTrue, Reason: reasonTwoInstances,
		Message: fmt.Sprintf("the agents %s and %s both use this identity: one is a clone of the other, or was restored from a backup. Enrol one of them again, "+
			"or annotate the Endpoint with %s=<the true one>", connection.InstanceID, connection.ConflictInstanceID, v1alpha1.AnnotationAcceptInstance),
	}
}

// stalled says that a person must do something; nil if not.
func stalled(f *facts) *metav1.Condition {
	c := &metav1.Condition{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionTrue}
	if conflict := conflict(f); conflict != nil {
		c.Reason, c.Message = reasonIdentityConflict, conflict.Message
		return c
	}
	if f.expiredForGood() {
		c.Reason, c.Message = certificateProblem(f)
		return c
	}
	return nil
}
