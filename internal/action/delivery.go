package action

import (
	"fmt"
	"time"

	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// send is row 8: from here on the agent may have it.
func (s *step) send(e Send) (Arrow, error) {
	if err := s.sendable(e); err != nil {
		return None, err
	}
	s.to.Phase = v1alpha1.ActionSent
	s.to.Delivery = &v1alpha1.ActionDelivery{
		Channel: e.Channel, Gateway: v1alpha1.LocalName(e.Gateway), SentTime: micro(e.Now), JournalID: e.JournalID,
	}
	s.wait(e.Now, ReasonSent, sentMessage(e.Channel, e.Now))
	return "8", nil
}

// sendable tells why an action is not sent for the first time.
func (s *step) sendable(e Send) error {
	admission := s.to.Admission
	switch {
	case !s.in(v1alpha1.ActionPending):
		return unfit("it is %s", s.to.Phase)
	case admission == nil:
		return unfit("it was not admitted")
	case s.Spec.Cancel:
		return unfit("it was cancelled")
	case !s.addressed(e):
		return unfit("it is not for this agent, or not now")
	case e.JournalID == "" || !s.laterThan(e.Endpoint):
		return unfit("the agent's journal is newer than the order: it would refuse it")
	case !e.Now.Before(admission.StartingDeadline.Add(-sendMargin)):
		return unfit("it could not arrive before %s", stamp(admission.StartingDeadline.Time))
	case e.Gateway == "" || e.Channel != v1alpha1.ChannelWebSocket && e.Channel != v1alpha1.ChannelHeartbeat:
		return unfit("there is no way to the agent")
	case needsSession(s.Spec.Type) && e.Channel != v1alpha1.ChannelWebSocket:
		return unfit("it needs a websocket")
	}
	return nil
}

// addressed tells whether anything of this action goes to the agent that is there: it was admitted for its identity, is not being deleted, and
// the endpoint takes part and is one machine.
func (s *step) addressed(e Send) bool {
	return e.Endpoint != nil && s.bound(e.Endpoint.IdentityID) && s.DeletionTimestamp == nil && active(e.Endpoint) && !e.Endpoint.Conflict
}

// Repeats tells what of an action that was sent goes to the agent again, with the next contact: the order as it was (row 9) until the agent has
// it, and the cancellation (row 17) until it has ended. Neither goes into another journal, which cannot tell what the lost one knew; and after
// somebody has asked to cancel, the order goes to nobody who might not have it yet. Once what to repeat and when is known, nothing is written.
func Repeats(a *v1alpha1.EndpointAction, e Send) (order, cancellation bool) {
	s := begin(a)
	d, underWay := s.to.Delivery, s.in(v1alpha1.ActionSent, v1alpha1.ActionRunning)
	if !underWay || d == nil || !s.addressed(e) || d.JournalID != e.JournalID || !e.Now.Before(s.to.Admission.ReportDeadline.Time) {
		return false, false
	}
	cancellation = s.to.Cancellation != nil
	return d.AcknowledgedTime == nil && !cancellation && !s.Spec.Cancel, cancellation
}

// progress is rows 10 and 11.
func (s *step) progress(e Progress) (row Arrow, err error) {
	before := s.to.Progress
	switch {
	case !s.bound(e.IdentityID) || s.to.Delivery == nil:
		return None, unfit("%s says that it runs, and was not sent it", e.IdentityID)
	case s.in(v1alpha1.ActionSent):
		row = "10"
		s.acknowledged(e.Now)
		s.to.Phase, s.to.Delivery.StartedTime = v1alpha1.ActionRunning, ptr.To(micro(e.Now))
	case !s.in(v1alpha1.ActionRunning):
		return None, unfit("it is %s, and the agent says that it runs", s.to.Phase)
	case freshly(s.to, e.Now, runPace):
		return None, nil
	default:
		row = "11"
	}
	s.to.Progress = ""
	if e.Percent > 0 {
		s.to.Progress = fmt.Sprintf("%d%%", min(e.Percent, 100))
	}
	reason, message := ReasonRunning, e.Message
	if message == "" {
		message = fmt.Sprintf("%s began it %s", s.Spec.EndpointName, stamp(s.to.Delivery.StartedTime.Time))
	}
	if s.to.Cancellation != nil {
		reason = ReasonCancelRequested
	}
	if row == "11" && s.to.Progress == before && s.saysAlready(reason, message) {
		return None, nil
	}
	s.wait(e.Now, reason, message)
	return row, nil
}

func (s *step) saysAlready(reason, message string) bool {
	return waitsFor(s.to, reason) && s.to.Message == cut(message, maxMessage)
}

// acknowledged notes that the agent has it on disk: it is not sent again.
func (s *step) acknowledged(now time.Time) {
	if s.to.Delivery != nil && s.to.Delivery.AcknowledgedTime == nil {
		s.to.Delivery.AcknowledgedTime = ptr.To(micro(now))
	}
}

// missing is row 19a: what the agent had said to have it does not list any more. The manager ends it.
func (s *step) missing(e Missing) (Arrow, error) {
	switch d := s.to.Delivery; {
	case !s.bound(e.IdentityID) || !s.in(v1alpha1.ActionSent, v1alpha1.ActionRunning) || d == nil || d.AcknowledgedTime == nil:
		return None, unfit("it is %s, and none that the agent must know of", s.to.Phase)
	case d.MissingTime != nil:
		return None, nil
	default:
		d.MissingTime = ptr.To(micro(e.Now))
		return "19a", nil
	}
}
