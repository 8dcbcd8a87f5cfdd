package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ActionPhase is a summary for people and selectors; conditions and times have
// the rest.
// +kubebuilder:validation:Enum=Pending;Sent;Running;Succeeded;Failed;Unknown;Expired;Cancelled;Unsupported
type ActionPhase string

// Phases of an EndpointAction. The last six are its ends, and it leaves none of
// them.
const (
	// ActionPending: it has not left the server. Cancel and expiry are certain
	// here, and only here.
	ActionPending ActionPhase = "Pending"
	// ActionSent: the agent may have it. It never goes back to Pending.
	ActionSent ActionPhase = "Sent"
	// ActionRunning: the agent said that it began; a parent's children are at
	// work.
	ActionRunning ActionPhase = "Running"

	ActionSucceeded   ActionPhase = "Succeeded"   // done, as the agent said
	ActionFailed      ActionPhase = "Failed"      // not done, as the agent said
	ActionUnknown     ActionPhase = "Unknown"     // sent, and it cannot be known whether it was done
	ActionExpired     ActionPhase = "Expired"     // never started
	ActionCancelled   ActionPhase = "Cancelled"   // never started, or stopped, because somebody asked
	ActionUnsupported ActionPhase = "Unsupported" // never started: the agent cannot, or its policy forbids it
)

// EndpointActionStatus is how far an action is. It is written with the
// resourceVersion that was read, always, and by internal/action's table of
// transitions.
type EndpointActionStatus struct {
	// observedGeneration is the generation that the conditions speak of; -1
	// until the manager has looked at this object for the first time. Written by
	// the manager.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// phase in one word.
	// Pending: certainly nothing has left the server. Only now cancel and expiry
	// are certain.
	// Sent: the agent may have it.
	// Running: the agent said that it began; with a selector, children are at
	// work.
	// The ends, of which none is left again:
	// Succeeded, Failed: done, or not, as the agent said.
	// Unknown: sent, and it cannot be known whether it was done.
	// Expired: not started in time, and it never will be.
	// Cancelled: not started, or stopped, because somebody asked.
	// Unsupported: not started, because the agent cannot do it or its policy
	// forbids it.
	// +optional
	Phase ActionPhase `json:"phase,omitempty"`
	// message is the phase in words: what it waits for and until when, or how it
	// ended and what to do. At most 256 characters.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message,omitempty"`
	// conditions, each only while it is true, but for ResultVerified.
	// Reconciling: it has not ended; the reason is what it waits for.
	// Complete: it ended Succeeded.
	// Failed: it ended in any other way; the reason is why.
	// Stalled: besides Failed, unless it was cancelled; and where the result is
	// not verified.
	// ResultVerified, only when it is False: the agent's signature under the
	// result does not verify. Do not believe it.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// admission is the manager's decision to let the agent have it, signed.
	// Written by the manager, and only while the action is Pending.
	// +optional
	Admission *ActionAdmission `json:"admission,omitempty"`
	// cancellation is the signed order to cancel, when somebody asked after the
	// action was sent. Written by the manager.
	// +optional
	Cancellation *Envelope `json:"cancellation,omitempty"`
	// delivery is its way to the agent. Written by the gateway.
	// +optional
	Delivery *ActionDelivery `json:"delivery,omitempty"`
	// result is what the agent reported, even after the end. Written once, by
	// the gateway.
	// +optional
	Result *ActionResult `json:"result,omitempty"`
	// progress for people: 45%, or 17/40 with a selector. At most 32 characters.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Progress string `json:"progress,omitempty"`
	// children counts the children of an action with a selector. Written by the
	// manager.
	// +optional
	Children *ActionChildren `json:"children,omitempty"`
	// finishTime is when the action ended, whichever way. To wait for it:
	// kubectl wait epa/NAME --for=jsonpath={.status.finishTime}.
	// +optional
	FinishTime *metav1.Time `json:"finishTime,omitempty"`
}

// ActionAdmission binds an action to an enrolment, and signs it.
type ActionAdmission struct {
	// identityID is the Endpoint's status.identity.id at that time. A machine
	// that enrols again gets none of its predecessor's actions.
	// +required
	// +kubebuilder:validation:MaxLength=36
	IdentityID string `json:"identityID"`
	// time of the admission, as it was signed. Of two actions on the same thing
	// (isolation, the proxy) the agent obeys the one that was admitted later.
	// +required
	Time metav1.MicroTime `json:"time"`
	// startingDeadline after which it may no longer start.
	// +required
	StartingDeadline metav1.Time `json:"startingDeadline"`
	// reportDeadline after which an action that was sent ends Unknown, if there
	// is no result.
	// +required
	ReportDeadline metav1.Time `json:"reportDeadline"`
	// order is what the agent gets, signed.
	// +required
	Order Envelope `json:"order"`
}

// ActionDelivery is the way to the agent.
type ActionDelivery struct {
	// channel that carried it first: WebSocket, or Heartbeat in the reply to
	// one.
	// +required
	// +kubebuilder:validation:XValidation:rule="self != 'None'",message="an action goes by WebSocket or by Heartbeat"
	Channel Channel `json:"channel"`
	// gateway that sent it first.
	// +required
	Gateway LocalName `json:"gateway"`
	// sentTime is when it first left the server. It is written before it does.
	// +required
	SentTime metav1.MicroTime `json:"sentTime"`
	// journalID is the ID of the agent's journal at that time. It is sent again
	// into the same journal only.
	// +required
	// +kubebuilder:validation:MaxLength=36
	JournalID string `json:"journalID"`
	// acknowledgedTime is when the agent said that it has it on disk. It is not
	// sent again after that.
	// +optional
	AcknowledgedTime *metav1.MicroTime `json:"acknowledgedTime,omitempty"`
	// missingTime is when the second heartbeat in a row did not list it, after
	// the agent had said that it has it.
	// +optional
	MissingTime *metav1.MicroTime `json:"missingTime,omitempty"`
	// startedTime is when it began, by the agent.
	// +optional
	StartedTime *metav1.MicroTime `json:"startedTime,omitempty"`
}

// ActionResult is what the agent reported.
type ActionResult struct {
	// outcome by the agent. Refused: it did not begin, and the reason says why.
	// +required
	Outcome ActionOutcome `json:"outcome"`
	// reason in one word, such as NoSuchProcess, Interrupted, PastDeadline,
	// Superseded.
	// +required
	Reason Text `json:"reason"`
	// message of the agent, for people. At most 1024 characters.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
	// reportedTime is when the server had it.
	// +required
	ReportedTime metav1.Time `json:"reportedTime"`
	// processes that were terminated, at most 16.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Processes []TerminatedProcess `json:"processes,omitempty"`
	// files that were quarantined or restored, at most 16.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Files []QuarantinedFile `json:"files,omitempty"`
	// artifacts that were uploaded, at most 64.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Artifacts []Artifact `json:"artifacts,omitempty"`
	// proof is the result as the agent signed it, whole. The manager verifies
	// it: see the condition ResultVerified.
	// +optional
	Proof *Envelope `json:"proof,omitempty"`
	// omitted counts what these lists have no room for.
	// +optional
	Omitted int32 `json:"omitted,omitempty"`
}

// ActionOutcome is how an action ended, as the agent says.
// +kubebuilder:validation:Enum=Succeeded;Failed;Unknown;Cancelled;Refused
type ActionOutcome string

// Outcomes that an agent reports.
const (
	// OutcomeSucceeded: it was done.
	OutcomeSucceeded ActionOutcome = "Succeeded"
	// OutcomeFailed: it was begun, and not done.
	OutcomeFailed ActionOutcome = "Failed"
	// OutcomeUnknown: it was begun, and the agent cannot know whether it was
	// done.
	OutcomeUnknown ActionOutcome = "Unknown"
	// OutcomeCancelled: it was not begun, or stopped, as somebody asked.
	OutcomeCancelled ActionOutcome = "Cancelled"
	// OutcomeRefused: it was not begun; the reason says why.
	OutcomeRefused ActionOutcome = "Refused"
)

// TerminatedProcess is one.
type TerminatedProcess struct {
	// pid that it had.
	// +required
	PID int64 `json:"pid"`
	// executable that it ran; a long path is shortened from the left to 256
	// characters.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Executable string `json:"executable,omitempty"`
}

// Artifact is an uploaded file, in the artifact store.
type Artifact struct {
	// name to fetch it by, at most 128 characters.
	// +required
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`
	// path on the machine; a long one is shortened from the left to 256
	// characters.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Path string `json:"path,omitempty"`
	// sizeBytes of its content.
	// +required
	SizeBytes int64 `json:"sizeBytes"`
	// sha256 of its content, in lower-case hexadecimal.
	// +required
	SHA256 SHA256 `json:"sha256"`
}

// ActionChildren counts the children of an action with a selector.
type ActionChildren struct {
	// total of them. Fixed once all exist.
	// +required
	Total int32 `json:"total"`
	// waiting for their turn: not admitted yet.
	// +required
	Waiting int32 `json:"waiting"`
	// open: admitted, and not ended.
	// +required
	Open int32 `json:"open"`
	// succeeded: ended Succeeded.
	// +required
	Succeeded int32 `json:"succeeded"`
	// failed: ended Failed, Unknown, Expired or Unsupported.
	// +required
	Failed int32 `json:"failed"`
	// cancelled: ended Cancelled.
	// +required
	Cancelled int32 `json:"cancelled"`
	// released is how many children have had their turn. It is raised before
	// they are admitted.
	// +required
	Released int32 `json:"released"`
	// failures are the children that failed, at most 20 of them.
	// +optional
	// +listType=map
	// +listMapKey=endpointName
	// +kubebuilder:validation:MaxItems=20
	Failures []EndpointFailure `json:"failures,omitempty"`
}

// Conditions of an EndpointAction, besides Reconciling and Stalled.
const (
	// ConditionComplete: it ended Succeeded.
	ConditionComplete = "Complete"
	// ConditionFailed: it ended in any other way.
	ConditionFailed = "Failed"
	// ConditionResultVerified is False when the agent's signature under a result
	// does not verify: do not believe it. It is there only then.
	ConditionResultVerified = "ResultVerified"
)
