// Package action is the table of an action's transitions as pure functions: docs/actions.md has the rows. Manager and gateway both call Next and
// write what it returns under the resourceVersion that it was given; whoever loses that race reads again and asks Next again.
//
// look.go has what the manager decides, delivery.go and result.go what the gateway does, parent.go actions with a selector; order.go makes
// what is signed, deadline.go the times, words.go the reasons, and message.go what people read.
package action

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// Arrow is a row of the table, by its number in docs/actions.md: "8". None is no transition: the status is as it was.
type Arrow string

// None says that nothing changes.
const None Arrow = ""

// ErrUnfit is wrapped by Next where an event does not fit the action as it is: it is counted, and nothing is written. A result that does not
// fit now never will, and is acknowledged, unless the error wraps ErrEarly.
var ErrUnfit = errors.New("the event does not fit the action as it is")

// ErrEarly wraps ErrUnfit: the result of an action that was not admitted yet, which happens after etcd was restored. It will fit once the
// manager has admitted the action again, so it is not acknowledged, and the agent repeats it.
var ErrEarly = fmt.Errorf("%w: it was not admitted yet", ErrUnfit)

// Event is what happens to an action. Look, Send, Progress, Result and Missing are.
type Event interface{ event() }

// Endpoint is what is known of the endpoint that an action is for.
type Endpoint struct {
	// IdentityID is empty until it has enrolled.
	IdentityID string
	Lifecycle  v1alpha1.EndpointLifecycle
	// Conflict: two machines use the identity, or its journal was lost and nobody has decided yet.
	Conflict bool
	// Reported says that the agent has told its capabilities.
	Reported     bool
	AgentVersion string
	Capabilities []v1alpha1.Text
	// JournalID and JournalTime are the agent's journal's; JournalTime is zero until the agent knows the time.
	JournalID   string
	JournalTime time.Time
	// Policy is the name of the policy that it obeys, empty for the defaults; Disabled are the types of action that this policy refuses.
	Policy   string
	Disabled []v1alpha1.ActionType
	// Channel by which it is heard, Online whether it is, LastSeen when it was at least, Interval between its heartbeats.
	Channel  v1alpha1.Channel
	Online   bool
	LastSeen time.Time
	Interval time.Duration
	// Isolation and Proxy are declared in its spec; they win over actions. nil and "" are not declared.
	Isolation v1alpha1.Isolation
	Proxy     *v1alpha1.DeclaredProxy
	// State is what its agent says of itself, for row 20; nil if it said nothing.
	State *v1alpha1.EndpointAgent
}

// Seal signs an order with the fleet's order key of now.
type Seal func(t envelope.Type, m proto.Message) (v1alpha1.Envelope, error)

// Look is the manager's, whenever something may have changed or a deadline has passed: rows 2 to 7, 17, 19, 20 and 27.
type Look struct {
	Now time.Time
	// Endpoint that the action is for; nil if there is none of that name.
	Endpoint *Endpoint
	// EndpointDeleted says that the endpoint is gone that the action was admitted for, or that a child was made for, confirmed by a live read.
	EndpointDeleted bool
	// FleetID and Seal are whose orders are made.
	FleetID string
	Seal    Seal
	// SealedNow tells whether an order was signed by the key of now; an order by another is made anew while it is Pending. nil: all were.
	SealedNow func(v1alpha1.Envelope) bool
	// Parent of a child; nil for others. Turn is the child's place, from 0, among the children in the order of their names, behind as many as
	// are missing of the parent's total: whoever was deleted had its turn.
	Parent *v1alpha1.EndpointAction
	Turn   int
	// NewerOfTopic: a newer action on the same thing (isolation, proxy) was admitted on this endpoint.
	NewerOfTopic bool
	// ReportMargin is the least time after its deadlines that an agent has for its report; 0 is 15 minutes.
	ReportMargin time.Duration
}

// Send is the gateway's, before the first byte: row 8. Repeating what was sent is no event: see Repeats.
type Send struct {
	Now     time.Time
	Channel v1alpha1.Channel
	Gateway string
	// Endpoint whose certificate the agent has. What its last heartbeat says of its journal goes before what was written of it.
	Endpoint *Endpoint
	// JournalID is that of the heartbeat that the agent was last heard by.
	JournalID string
}

// Progress is the agent's word that it runs: rows 10 and 11.
type Progress struct {
	Now        time.Time
	IdentityID string
	Percent    uint32
	Message    string
}

// Result is the agent's, verified by the gateway: rows 12 to 16, 18 and 21 to 23. That it is about this very order Next judges.
type Result struct {
	Now time.Time
	// IdentityID of the certificate.
	IdentityID string
	Says       *agentv1.ActionResult
	Proof      v1alpha1.Envelope
}

// Missing is the gateway's: an agent's second heartbeat in a row did not list an action that it had acknowledged; see delivery.missingTime.
// Row 19a.
type Missing struct {
	Now        time.Time
	IdentityID string
}

func (Look) event()     {}
func (Send) event()     {}
func (Progress) event() {}
func (Result) event()   {}
func (Missing) event()  {}

// Next is the status of an action after an event, and the row of the table that was taken; None if nothing changes. The action is not changed.
// The error wraps ErrUnfit, or is the Seal's; there is no status with it.
func Next(a *v1alpha1.EndpointAction, e Event) (status *v1alpha1.EndpointActionStatus, row Arrow, err error) {
	s := begin(a)
	switch e := e.(type) {
	case Look:
		row, err = s.look(e)
	case Send:
		row, err = s.send(e)
	case Progress:
		row, err = s.progress(e)
	case Result:
		row, err = s.result(e)
	case Missing:
		row, err = s.missing(e)
	default:
		err = fmt.Errorf("%w: %T is no event", ErrUnfit, e)
	}
	if err != nil {
		return nil, None, err
	}
	return s.to, row, nil
}

// Ended tells whether an action has.
func Ended(s *v1alpha1.EndpointActionStatus) bool { return s.FinishTime != nil }

// step is one event at one action: the action as it is, and its status as it becomes.
type step struct {
	*v1alpha1.EndpointAction
	to *v1alpha1.EndpointActionStatus
}

func begin(a *v1alpha1.EndpointAction) *step {
	s := &step{a, a.Status.DeepCopy()}
	if s.to.Phase == "" {
		s.to.Phase = v1alpha1.ActionPending
	}
	return s
}

// in tells whether the action is in one of the phases, and has not ended.
func (s *step) in(phases ...v1alpha1.ActionPhase) bool {
	return !Ended(s.to) && slices.Contains(phases, s.to.Phase)
}

// single tells whether the action is for one endpoint.
func (s *step) single() bool { return s.Spec.Selector == nil }

// bound tells whether the action was admitted for an identity.
func (s *step) bound(identityID string) bool {
	return s.single() && s.to.Admission != nil && s.to.Admission.IdentityID == identityID
}

func unfit(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrUnfit}, args...)...)
}
