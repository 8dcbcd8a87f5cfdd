package action

import (
	"errors"
	"fmt"
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// look is what the manager decides about an action on one endpoint.
func (s *step) look(l Look) (row Arrow, err error) {
	switch {
	case !s.single():
		return None, unfit("it has a selector")
	case Ended(s.to) || s.DeletionTimestamp != nil:
	case s.in(v1alpha1.ActionPending):
		row, err = s.lookPending(l)
	case s.in(v1alpha1.ActionSent, v1alpha1.ActionRunning):
		row, err = s.lookSent(l)
	default:
		return None, unfit("its phase is %s, and it has no finishTime", s.to.Phase)
	}
	return s.observed(row), err
}

// observed is row 27: the generation was seen, whatever came of it. Where nothing is said yet that would say too much: an object without
// conditions is as it should be, by kstatus.
func (s *step) observed(row Arrow) Arrow {
	if row == None && (s.to.ObservedGeneration == s.Generation || len(s.to.Conditions) == 0) {
		return None
	}
	s.to.ObservedGeneration = s.Generation
	if row == None {
		return "27"
	}
	return row
}

// lookPending decides about an action that never left the server: what is said of it here is certain.
func (s *step) lookPending(l Look) (Arrow, error) {
	if isChild(s.EndpointAction) && l.Parent == nil {
		return None, nil
	}
	if reason, message := s.withdrawn(l); reason != "" {
		s.end(l.Now, v1alpha1.ActionCancelled, reason, message)
		return "5", nil
	}
	if !s.hasTurn(l) {
		return s.hold(l, ReasonWaitingForTurn, "waits for its turn"), nil
	}
	if reason, message := s.unsupported(l.Endpoint); reason != "" {
		s.end(l.Now, v1alpha1.ActionUnsupported, reason, message)
		return "4", nil
	}
	deadline := startingDeadline(s.EndpointAction, l.Now)
	if !l.Now.Before(deadline) {
		s.end(l.Now, v1alpha1.ActionExpired, ReasonDeadlineExceeded, s.expiredMessage(deadline, l.Endpoint))
		return "6", nil
	}
	reason, message, mayBeSent := s.prospect(l, deadline)
	switch {
	case s.to.Admission == nil && mayBeSent:
		return s.admit(l, deadline, reason, message)
	case s.to.Admission != nil && mayBeSent && s.outdated(l):
		return "7", s.sign(l, s.reissued(l.Endpoint, l.Now))
	case s.to.Admission != nil && (l.Endpoint == nil || s.soonSent(l.Endpoint, reason)):
		return None, nil
	default:
		return s.hold(l, reason, message), nil
	}
}

// withdrawn is why an action that never left the server never will; empty if it may.
func (s *step) withdrawn(l Look) (reason, message string) {
	ep, name := l.Endpoint, s.Spec.EndpointName
	switch {
	case s.Spec.Cancel:
		return ReasonCancelledByUser, "cancelled before it was sent"
	case l.Parent != nil && l.Parent.Spec.Cancel:
		return ReasonParentCancelled, fmt.Sprintf("cancelled before it was sent, with %s", l.Parent.Name)
	case l.Parent != nil && tooManyFailed(&l.Parent.Spec, &l.Parent.Status):
		return ReasonParentCancelled, fmt.Sprintf("not sent: too many of %s have failed", l.Parent.Name)
	case l.Parent != nil && Ended(&l.Parent.Status): // it was made by a manager that had not seen that yet
		return ReasonParentCancelled, fmt.Sprintf("not sent: %s has ended", l.Parent.Name)
	case l.EndpointDeleted:
		return ReasonEndpointDeleted, fmt.Sprintf("not sent: %s was deleted", name)
	case ep == nil:
		return "", ""
	case refused(ep):
		return ReasonEndpointBlocked, fmt.Sprintf("not sent: %s is %s", name, ep.Lifecycle)
	case s.to.Admission != nil && !s.bound(ep.IdentityID):
		return ReasonEndpointReplaced, fmt.Sprintf("not sent: %s was enrolled again, and is another machine than it was meant for", name)
	case l.NewerOfTopic:
		return ReasonSuperseded, fmt.Sprintf("not sent: a newer action on the %s of %s came before it", TopicOf(s.Spec.Type), name)
	default:
		return s.declaredOtherwise(ep)
	}
}

// declaredOtherwise tells whether the endpoint's spec wins over the action, and which field to change instead.
func (s *step) declaredOtherwise(ep *Endpoint) (reason, message string) {
	field, contrary := "", false
	switch p := ep.Proxy; s.Spec.Type {
	case v1alpha1.IsolateEndpoint:
		field, contrary = "isolation", ep.Isolation == v1alpha1.Released
	case v1alpha1.CancelIsolation:
		field, contrary = "isolation", ep.Isolation == v1alpha1.Isolated
	case v1alpha1.SetEndpointProxy:
		field, contrary = "proxy", p != nil && (p.Mode == v1alpha1.ProxyDirect || s.Spec.SetEndpointProxy == nil || p.URL != s.Spec.SetEndpointProxy.URL)
	case v1alpha1.DisableEndpointProxy:
		field, contrary = "proxy", p != nil && p.Mode != v1alpha1.ProxyDirect
	}
	if !contrary {
		return "", ""
	}
	return ReasonDeclaredOtherwise, fmt.Sprintf("not sent: %s declares otherwise; change spec.%s of the Endpoint instead", s.Spec.EndpointName, field)
}

// hasTurn tells whether a child's turn has come. Who was admitted had it.
func (s *step) hasTurn(l Look) bool {
	if l.Parent == nil || s.to.Admission != nil {
		return true
	}
	c := l.Parent.Status.Children
	return c != nil && 0 <= l.Turn && l.Turn < int(c.Released)
}

// hold says why an action is not sent: row 3. The same again is no reason to write, and another one is for at most one write in a while.
func (s *step) hold(l Look, reason, message string) Arrow {
	if waitsFor(s.to, reason) || freshly(s.to, l.Now, reasonPace) {
		return None
	}
	s.wait(l.Now, reason, message)
	return "3"
}

// soonSent tells whether a gateway is about to send it, so that a write about what it waits for would only be in the way.
func (s *step) soonSent(ep *Endpoint, reason string) bool {
	switch reason {
	case ReasonWaitingForSession:
		return ep.Channel == v1alpha1.ChannelWebSocket
	case ReasonWaitingForHeartbeat: // the heartbeat that says that it is back fetches the action
		return waitsFor(s.to, ReasonEndpointOffline) || waitsFor(s.to, ReasonWaitingForSession) && ep.Channel == v1alpha1.ChannelHeartbeat
	default:
		return false
	}
}

// admit is row 2: from here on a gateway may send it.
func (s *step) admit(l Look, deadline time.Time, reason, message string) (Arrow, error) {
	s.to.Admission = &v1alpha1.ActionAdmission{
		IdentityID: l.Endpoint.IdentityID, StartingDeadline: second(deadline),
		ReportDeadline: second(reportDeadline(s.EndpointAction, deadline, l)),
	}
	err := s.sign(l, issueTime(l.Endpoint, l.Now))
	if bound := (*wire.BoundError)(nil); errors.As(err, &bound) || errors.Is(err, envelope.ErrBounds) {
		s.to.Admission = nil
		s.end(l.Now, v1alpha1.ActionUnsupported, ReasonInvalidParameters, fmt.Sprintf("not sent: no agent could be told so: %s", err))
		return "4", nil
	}
	s.wait(l.Now, reason, message)
	return "2", err
}

// sign makes the order of an admission anew, issued at a time.
func (s *step) sign(l Look, at time.Time) (err error) {
	s.to.Admission.Time = micro(at)
	order := makeOrder(s.EndpointAction, l.FleetID, s.to.Admission)
	if err := wire.CheckAction(order); err != nil {
		return err
	}
	s.to.Admission.Order, err = l.Seal(envelope.Action, order)
	return err
}

// outdated tells whether an agent would refuse the order as it was signed.
func (s *step) outdated(l Look) bool {
	return l.SealedNow != nil && !l.SealedNow(s.to.Admission.Order) || !s.laterThan(l.Endpoint)
}

// laterThan tells whether the order was issued after the endpoint's journal was made. An agent refuses what is older.
func (s *step) laterThan(ep *Endpoint) bool { return s.to.Admission.Time.After(ep.JournalTime) }

// reissued is the time of an order that is made anew: as it was, but for a journal that would refuse it.
func (s *step) reissued(ep *Endpoint, now time.Time) time.Time {
	if s.laterThan(ep) {
		return s.to.Admission.Time.Time
	}
	return issueTime(ep, now)
}

// issueTime is now, or just after the agent's journal was made where this clock is behind: of what is older the agent refuses everything.
func issueTime(ep *Endpoint, now time.Time) time.Time {
	if ep.JournalTime.Before(now) {
		return now
	}
	return ep.JournalTime.Add(time.Microsecond)
}

// lookSent decides about an action that the agent may have: nothing is certain but what the agent says.
func (s *step) lookSent(l Look) (Arrow, error) {
	if s.to.Admission == nil || s.to.Delivery == nil {
		return None, unfit("it was sent, and nothing says how")
	}
	if reason, message := s.unanswerable(l); reason != "" {
		if s.seenDone(l, reason) {
			s.end(l.Now, v1alpha1.ActionSucceeded, ReasonObservedState, fmt.Sprintf("%s did not report it, but is in the state that was asked for", s.Spec.EndpointName))
			return "20", nil
		}
		s.end(l.Now, v1alpha1.ActionUnknown, reason, message)
		return "19", nil
	}
	asked := s.Spec.Cancel || l.Parent != nil && l.Parent.Spec.Cancel
	if !asked || s.to.Cancellation != nil && (l.SealedNow == nil || l.SealedNow(*s.to.Cancellation)) {
		return None, nil
	}
	return "17", s.requestCancel(l)
}

// requestCancel is row 17: it was sent, so the agent says whether the cancel came in time.
func (s *step) requestCancel(l Look) error {
	cancel, err := l.Seal(envelope.Cancel, makeCancel(s.EndpointAction, l.FleetID, l.Now))
	if err != nil {
		return err
	}
	s.to.Cancellation = &cancel
	s.wait(l.Now, ReasonCancelRequested, fmt.Sprintf("cancel was asked for after it was sent; %s says whether that was in time", s.Spec.EndpointName))
	return nil
}

// unanswerable is why nobody can be expected to know any more what became of it; empty while somebody can.
func (s *step) unanswerable(l Look) (reason, message string) {
	ep, d, name := l.Endpoint, s.to.Delivery, s.Spec.EndpointName
	switch deadline := s.to.Admission.ReportDeadline.Time; {
	case l.EndpointDeleted:
		reason, message = ReasonEndpointDeleted, fmt.Sprintf("%s was deleted before it reported", name)
	case ep != nil && !s.bound(ep.IdentityID):
		reason, message = ReasonEndpointReplaced, fmt.Sprintf("%s was enrolled again before it reported", name)
	case ep != nil && refused(ep):
		reason, message = ReasonEndpointBlocked, fmt.Sprintf("%s is %s, and had not reported", name, ep.Lifecycle)
	// A journal that is older than the sending is what somebody knew before it, not what came after.
	case ep != nil && ep.JournalID != "" && ep.JournalID != d.JournalID && ep.JournalTime.After(d.SentTime.Time):
		reason, message = ReasonJournalLost, fmt.Sprintf("the agent of %s has lost the journal of what it did", name)
	case d.AcknowledgedTime != nil && d.MissingTime != nil:
		reason, message = ReasonAgentForgot, fmt.Sprintf("%s had it, and does not know of it any more", name)
	case !l.Now.Before(deadline):
		reason, message = ReasonNoReport, fmt.Sprintf("%s did not report by %s", name, stamp(deadline))
	default:
		return "", ""
	}
	return reason, message + "; " + s.checkByHand()
}

// seenDone is row 20: what the agent says of its state shows that it is as it was asked to be, by this action or at a later contact.
func (s *step) seenDone(l Look, reason string) bool {
	if l.Endpoint == nil || l.Endpoint.State == nil || l.NewerOfTopic || reason == ReasonEndpointReplaced || reason == ReasonEndpointDeleted {
		return false
	}
	state, uid, later := l.Endpoint.State, string(s.UID), l.Endpoint.LastSeen.After(s.to.Delivery.SentTime.Time)
	switch s.Spec.Type {
	case v1alpha1.IsolateEndpoint:
		return state.Isolation == v1alpha1.Isolated && (later || state.IsolationActionUID == uid)
	case v1alpha1.CancelIsolation:
		return state.Isolation == v1alpha1.Released && (later || state.IsolationActionUID == uid)
	case v1alpha1.SetEndpointProxy:
		return s.Spec.SetEndpointProxy != nil && string(state.Proxy) == string(s.Spec.SetEndpointProxy.URL) && (later || state.ProxyActionUID == uid)
	case v1alpha1.DisableEndpointProxy:
		return state.Proxy == "" && (later || state.ProxyActionUID == uid)
	default:
		return false
	}
}

// refused tells whether an endpoint's machine is answered no more.
func refused(ep *Endpoint) bool {
	return ep.Lifecycle == v1alpha1.LifecycleBlocked || ep.Lifecycle == v1alpha1.LifecycleDecommissioned
}

// active tells whether an endpoint takes part.
func active(ep *Endpoint) bool { return ep.Lifecycle == "" || ep.Lifecycle == v1alpha1.LifecycleActive }
