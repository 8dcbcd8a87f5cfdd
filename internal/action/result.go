package action

import (
	"fmt"
	"regexp"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/utils/ptr"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// maxShown is how many processes of a result the API holds; the proof has all.
const maxShown = 16

// result is what the agent reports: rows 12 to 16, 18 and 21 to 23. Agent and server may have two orders of one UID in mind after etcd was
// restored, since the manager then admits again; the agent has done the one that it names, so its word is taken, and marked (row 23).
func (s *step) result(e Result) (Arrow, error) {
	says := e.Says
	switch {
	case !s.single() || says.GetActionUid() != string(s.UID) || says.GetIdentityId() != e.IdentityID:
		return None, unfit("the result is about another action")
	case s.to.Admission == nil && s.in(v1alpha1.ActionPending):
		return None, ErrEarly
	case !s.bound(e.IdentityID):
		return None, unfit("%s reports, and it was admitted for another", e.IdentityID)
	case Ended(s.to):
		return s.late(e), nil
	}
	phase, reason := endOf(says)
	row, err := s.rowOf(says, phase)
	if err != nil {
		return None, err
	}
	if s.in(v1alpha1.ActionPending) || says.GetActionDigest() != Digest(s.to.Admission.Order) {
		row, reason = "23", restored+reason
	}
	s.acknowledged(e.Now)
	if d := s.to.Delivery; d != nil && says.GetStartedAt().IsValid() {
		d.StartedTime = ptr.To(micro(says.GetStartedAt().AsTime()))
	}
	s.to.Result = resultOf(says, e.Proof, e.Now)
	s.end(e.Now, phase, reason, s.resultMessage(phase, says))
	return row, nil
}

// late is rows 21 and 22: what is said after the end is kept, once, and changes no end.
func (s *step) late(e Result) Arrow {
	if s.to.Result != nil {
		return None
	}
	s.to.Result = resultOf(e.Says, e.Proof, e.Now)
	message := fmt.Sprintf("reported %s (%s) after the end", s.to.Result.Outcome, s.to.Result.Reason)
	if e.Says.GetMessage() != "" {
		message += ": " + e.Says.GetMessage()
	}
	s.to.Message = cut(message, maxMessage)
	return "21"
}

// endOf is the phase and reason that a result leads to. What an agent refused it never began, whatever its reason.
func endOf(says *agentv1.ActionResult) (v1alpha1.ActionPhase, string) {
	reason := reasonOf(says)
	switch says.GetOutcome() {
	case agentv1.Outcome_OUTCOME_SUCCEEDED:
		return v1alpha1.ActionSucceeded, reason
	case agentv1.Outcome_OUTCOME_FAILED:
		return v1alpha1.ActionFailed, reason
	case agentv1.Outcome_OUTCOME_CANCELLED:
		return v1alpha1.ActionCancelled, reason
	case agentv1.Outcome_OUTCOME_REFUSED:
		switch reason {
		case ReasonPastDeadline:
			return v1alpha1.ActionExpired, reason
		case ReasonSuperseded:
			return v1alpha1.ActionCancelled, reason
		default:
			return v1alpha1.ActionUnsupported, reason
		}
	default:
		return v1alpha1.ActionUnknown, reason
	}
}

// rowOf is the row of an end. An agent that said that it runs did not refuse it.
func (s *step) rowOf(says *agentv1.ActionResult, phase v1alpha1.ActionPhase) (Arrow, error) {
	if says.GetOutcome() == agentv1.Outcome_OUTCOME_REFUSED && s.in(v1alpha1.ActionRunning) {
		return None, unfit("it runs, and the agent says that it did not begin")
	}
	return map[v1alpha1.ActionPhase]Arrow{
		v1alpha1.ActionSucceeded: "12", v1alpha1.ActionFailed: "13", v1alpha1.ActionExpired: "14",
		v1alpha1.ActionUnsupported: "15", v1alpha1.ActionCancelled: "16", v1alpha1.ActionUnknown: "18",
	}[phase], nil
}

// outcomes by the protocol and by the API. One that this version does not know counts as unknown.
var outcomes = map[agentv1.Outcome]v1alpha1.ActionOutcome{
	agentv1.Outcome_OUTCOME_SUCCEEDED: v1alpha1.OutcomeSucceeded,
	agentv1.Outcome_OUTCOME_FAILED:    v1alpha1.OutcomeFailed,
	agentv1.Outcome_OUTCOME_CANCELLED: v1alpha1.OutcomeCancelled,
	agentv1.Outcome_OUTCOME_REFUSED:   v1alpha1.OutcomeRefused,
}

func outcomeOf(says *agentv1.ActionResult) v1alpha1.ActionOutcome {
	if o, known := outcomes[says.GetOutcome()]; known {
		return o
	}
	return v1alpha1.OutcomeUnknown
}

// word is what the API takes as a reason, of an agent's length.
var word = regexp.MustCompile(`^[A-Z][A-Za-z0-9]{0,63}$`)

func reasonOf(says *agentv1.ActionResult) string {
	if r := says.GetReason(); word.MatchString(r) {
		return r
	}
	return string(outcomeOf(says))
}

// resultOf is a result as the API holds it.
func resultOf(says *agentv1.ActionResult, proof v1alpha1.Envelope, now time.Time) *v1alpha1.ActionResult {
	r := &v1alpha1.ActionResult{
		Outcome: outcomeOf(says), Reason: v1alpha1.Text(reasonOf(says)), Message: cut(says.GetMessage(), maxResultMessage),
		ReportedTime: second(now), Proof: proof.DeepCopy(),
	}
	processes := says.GetProcesses()
	for _, p := range processes[:min(len(processes), maxShown)] {
		r.Processes = append(r.Processes, v1alpha1.TerminatedProcess{PID: int64(p.GetPid()), Executable: cutLeft(p.GetExecutable(), maxExecutable)})
	}
	r.Omitted = int32(min(uint64(says.GetOmitted())+uint64(len(processes)-len(r.Processes)), 1<<31-1)) //nolint:gosec // bounded right here
	return r
}

// resultMessage is the agent's own, where it says something.
func (s *step) resultMessage(phase v1alpha1.ActionPhase, says *agentv1.ActionResult) string {
	name, message := s.Spec.EndpointName, says.GetMessage()
	if phase == v1alpha1.ActionUnknown {
		if message == "" {
			message = fmt.Sprintf("%s began it, and cannot tell how far it came", name)
		}
		return cut(message, maxMessage/2) + "; " + s.checkByHand()
	}
	if message != "" {
		return message
	}
	switch phase {
	case v1alpha1.ActionSucceeded:
		return fmt.Sprintf("done by %s%s", name, at(says.GetFinishedAt()))
	case v1alpha1.ActionFailed:
		return fmt.Sprintf("not done by %s: %s", name, reasonOf(says))
	case v1alpha1.ActionCancelled:
		if says.GetStartedAt() != nil {
			return fmt.Sprintf("stopped by %s: %s", name, reasonOf(says))
		}
		fallthrough
	default:
		return fmt.Sprintf("%s did not begin it: %s", name, reasonOf(says))
	}
}

func at(t *timestamppb.Timestamp) string {
	if !t.IsValid() {
		return ""
	}
	return " " + stamp(t.AsTime())
}
