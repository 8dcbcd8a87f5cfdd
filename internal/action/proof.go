package action

import (
	"crypto"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

// Doubt says why what a gateway has written in an agent's name is not what an agent with that identity has signed; nil if nothing speaks against
// it, or if nobody can tell: there is no result, or the action was admitted for another identity, whose keys are not kept. It is the manager's
// judgement of every result. Keys in a cache may be older than the agent's newest: ask again with a live identity before anybody is accused.
func Doubt(a *v1alpha1.EndpointAction, fleetID string, identity *v1alpha1.EndpointIdentity) error {
	s := begin(a)
	result := s.to.Result
	switch {
	case result == nil || identity == nil || !s.bound(identity.ID):
		return nil
	case result.Proof == nil:
		return errors.New("it has no proof")
	}
	says := &agentv1.ActionResult{}
	if err := envelope.Open(order.FromResource(*result.Proof), envelope.Result, says, keysAt(identity, result.ReportedTime.Time)...); err != nil {
		return err
	}
	if says.GetFleetId() != fleetID || says.GetIdentityId() != identity.ID || says.GetActionUid() != string(a.UID) {
		return errors.New("the proof is about something else")
	}
	if !equality.Semantic.DeepEqual(resultOf(says, *result.Proof, result.ReportedTime.Time), result) {
		return errors.New("the agent has signed something else than what is recorded")
	}
	if phase, _ := endOf(says); phase != s.to.Phase && s.agentsOwn() {
		return fmt.Errorf("the agent has signed %s, and %s is recorded", phase, s.to.Phase)
	}
	return nil
}

// Disbelieve is the status of an action whose result is not to be believed, and row 12a; None if it says so already. The phase stays, but nothing
// counts it (see Verified), and whoever looks at the message, or waits for a good end, is told.
func Disbelieve(a *v1alpha1.EndpointAction, doubt error, now time.Time) (*v1alpha1.EndpointActionStatus, Arrow) {
	s := begin(a)
	if !Verified(s.to) {
		return s.to, None
	}
	by := "an unknown gateway"
	if s.to.Delivery != nil {
		by = string(s.to.Delivery.Gateway)
	}
	message := fmt.Sprintf("do not believe this result: %s; the action was sent by %s", doubt, by)
	s.condition(now, v1alpha1.ConditionResultVerified, metav1.ConditionFalse, ReasonBadProof, message)
	s.condition(now, v1alpha1.ConditionStalled, metav1.ConditionTrue, ReasonBadProof, message)
	s.to.Message = cut(message, maxMessage)
	return s.to, "12a"
}

// Verified tells whether an action's result was not found to be false.
func Verified(s *v1alpha1.EndpointActionStatus) bool {
	return !meta.IsStatusConditionFalse(s.Conditions, v1alpha1.ConditionResultVerified)
}

// agentsOwn tells whether nobody but the agent can have ended it so. The other ends may have been there before the result.
func (s *step) agentsOwn() bool {
	switch s.to.Phase {
	case v1alpha1.ActionFailed:
		return true
	case v1alpha1.ActionSucceeded:
		complete := meta.FindStatusCondition(s.to.Conditions, v1alpha1.ConditionComplete)
		return TopicOf(s.Spec.Type) == "" || complete == nil || complete.Reason != ReasonObservedState
	default:
		return false
	}
}

// keysAt are those that an identity could sign with at a time: the newest, and the one before until it expired.
func keysAt(identity *v1alpha1.EndpointIdentity, at time.Time) (keys []crypto.PublicKey) {
	for i, spki := range identity.PublicKeys {
		if until := identity.PreviousKeyExpirationTime; i > 0 && until != nil && at.After(until.Time) {
			break
		}
		if key, err := envelope.ParseKey(spki); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}
