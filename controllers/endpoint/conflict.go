package endpoint

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Reasons of the conditions IdentityConflict and Stalled.
const (
	reasonCloned      = "Cloned"
	reasonRolledBack  = "RolledBack"
	reasonJournalLost = "JournalLost"
	// reasonSuperseded is set where a renewal is refused, by controllers/enrollment.
	reasonSuperseded       = "CertificateSuperseded"
	reasonIdentityConflict = "IdentityConflict"
)

// conflict says that it is not certain which machine has an identity, or what it has done; nil if it is.
//
// That a certificate was used after it was renewed cannot be seen here. Who sees it sets the condition, and it stays until the machine enrols
// again, which takes the condition away, or a person says that the connected instance is the true one.
func conflict(f *facts) *metav1.Condition {
	was := meta.FindStatusCondition(f.Status.Conditions, v1alpha1.EndpointIdentityConflict)
	if was != nil && was.Reason == reasonSuperseded && !accepted(f.Endpoint) {
		return was
	}
	c := &metav1.Condition{Type: v1alpha1.EndpointIdentityConflict, Status: metav1.ConditionTrue}
	switch connection := f.Status.Connection; {
	case connection == nil:
		return nil
	case connection.ConflictInstanceID != "":
		c.Reason, c.Message = instances(f.Endpoint)
	case journalLost(f.Endpoint):
		c.Reason, c.Message = reasonJournalLost, fmt.Sprintf("its agent has lost its journal, and knows no longer what it has done and what it still had to: its state was deleted or "+
			"damaged. Actions that it was given before may have happened or not. If the machine is all right, say so: %s. Or enrol it again. Until then it is given no action",
			accept(f.Endpoint, connection.InstanceID))
	default:
		return nil
	}
	return c
}

// instances says how two instances that use one identity came about, and what to do.
func instances(ep *v1alpha1.Endpoint) (reason, message string) {
	c := ep.Status.Connection
	const whose = "Or enrol one of them again. Until then neither is given an action; `cytool status -o json` on a machine tells its instance"
	if c.ConflictReason == v1alpha1.ConflictRolledBack {
		return reasonRolledBack, fmt.Sprintf("the agent %[1]s counts fewer starts than %[2]s, or was replaced by it before: a machine was restored from a backup or a snapshot. "+
			"If only the restored one is left, say so: %[3]s. If %[2]s is the true one, name that. %[4]s",
			c.ConflictInstanceID, c.InstanceID, accept(ep, c.ConflictInstanceID), whose)
	}
	return reasonCloned, fmt.Sprintf("the agents %s and %s started from the same state: one machine is a copy of the other. Say which one is the true one: %s. %s",
		c.InstanceID, c.ConflictInstanceID, accept(ep, "<its instance>"), whose)
}

// accept is how a person says which instance is the true one.
func accept(ep *v1alpha1.Endpoint, instance string) string {
	return fmt.Sprintf("kubectl annotate --overwrite -n %s fep/%s %s=%s", ep.Namespace, ep.Name, v1alpha1.AnnotationAcceptInstance, instance)
}

// accepted tells whether a person has said that the connected instance is the true one.
func accepted(ep *v1alpha1.Endpoint) bool {
	instance := ep.Annotations[v1alpha1.AnnotationAcceptInstance]
	return instance != "" && ep.Status.Connection != nil && ep.Status.Connection.InstanceID == instance
}

// journalLost tells whether the agent has another journal than this identity had. One that names none is not asked for it.
func journalLost(ep *v1alpha1.Endpoint) bool {
	id, agent := ep.Status.Identity, ep.Status.Agent
	return id != nil && agent != nil && id.JournalID != "" && agent.JournalID != "" && id.JournalID != agent.JournalID
}

// keepJournal remembers the journal that an identity has: the first that its agent names, and later one of an instance that a person has
// accepted. What an agent says goes when another machine enrols as the endpoint, so it is always said by this identity.
func keepJournal(ep *v1alpha1.Endpoint) {
	id, agent := ep.Status.Identity, ep.Status.Agent
	if id == nil || agent == nil || agent.JournalID == "" {
		return
	}
	if id.JournalID == "" || accepted(ep) {
		id.JournalID = agent.JournalID
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
