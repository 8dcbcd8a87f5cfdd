package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ActionPhase is a summary for people and selectors; conditions and times have
// the rest.
// +kubebuilder:validation:Enum=Pending;Sent;Running;Succeeded;Failed;Unknown;Expired;Cancelled;Unsupported
type ActionPhase string

const (
	// ActionPending: it has not left the server. Cancel and expiry are certain
	// here, and only here.
	ActionPending ActionPhase = "Pending"
	// ActionSent: the agent may have it. It never goes back to Pending.
	ActionSent ActionPhase = "Sent"
	// ActionRunning: the agent said that it began; a parent's children are at
	// work.
	ActionRunning ActionPhase = "Running"

	// The ends. An action leaves none of them.
	ActionSucceeded   ActionPhase = "Succeeded"
	ActionFailed      ActionPhase = "Failed"
	ActionUnknown     ActionPhase = "Unknown"     // sent, and it cannot be known whether it ran
	ActionExpired     ActionPhase = "Expired"     // never started
	ActionCancelled   ActionPhase = "Cancelled"   // never started, or stopped at the user's wish
	ActionUnsupported ActionPhase = "Unsupported" // never started: agent too old, or the policy forbids it
)

// EndpointActionStatus is how far an action is. Written with a
// resourceVersion, always: see the table of transitions.
type EndpointActionStatus struct {
	// observedGeneration is the generation that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// phase of the action.
	// +optional
	Phase ActionPhase `json:"phase,omitempty"`
	// message is the phase in words: what it waits for and until when, or how it
	// ended and what to do.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message,omitempty"`
	// conditions: Complete or Failed at the end, like a Job's; Reconciling before
	// it, Stalled when it failed; ResultVerified only when it is False.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// admission is the manager's decision and signature. Written by the manager,
	// and only while the action is Pending.
	// +optional
	Admission *ActionAdmission `json:"admission,omitempty"`
	// cancellation is the signed order to cancel, once the action was sent and
	// somebody asked. Written by the manager.
	// +optional
	Cancellation *Envelope `json:"cancellation,omitempty"`
	// delivery is the way to the agent. Written by the gateway.
	// +optional
	Delivery *ActionDelivery `json:"delivery,omitempty"`
	// result is what the agent reported. Written by the gateway; also when it
	// comes after the end.
	// +optional
	Result *ActionResult `json:"result,omitempty"`
	// progress for people: 45%, or 17/40 for a parent.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Progress string `json:"progress,omitempty"`
	// children counts them, on an action with a selector. Written by the manager.
	// +optional
	Children *ActionChildren `json:"children,omitempty"`
	// finishTime is when the action ended, whichever way. Wait for it with kubectl
	// wait --for=jsonpath={.status.finishTime}.
	// +optional
	FinishTime *metav1.Time `json:"finishTime,omitempty"`
}

// ActionAdmission binds an action to an enrolment, and signs it.
type ActionAdmission struct {
	// identityID is the Endpoint's identity.id at that time. No other enrolment
	// gets the action.
	// +required
	// +kubebuilder:validation:MaxLength=36
	IdentityID string `json:"identityID"`
	// time of the admission, signed. Of two actions on the same thing (isolation,
	// proxy) the agent obeys the later.
	// +required
	Time metav1.MicroTime `json:"time"`
	// startingDeadline: not started by then, it never will be.
	// +required
	StartingDeadline metav1.Time `json:"startingDeadline"`
	// reportDeadline: sent but not reported by then, it ends Unknown.
	// +required
	ReportDeadline metav1.Time `json:"reportDeadline"`
	// order is what the agent gets, signed.
	// +required
	Order Envelope `json:"order"`
}

// ActionDelivery is the way to the agent.
type ActionDelivery struct {
	// channel that carried it first.
	// +required
	// +kubebuilder:validation:Enum=WebSocket;Heartbeat
	Channel string `json:"channel"`
	// gateway that sent it first.
	// +required
	Gateway LocalName `json:"gateway"`
	// sentTime is when it first left the server. Written before it does.
	// +required
	SentTime metav1.MicroTime `json:"sentTime"`
	// journalID of the agent's journal at that time. It is sent again only into
	// the same journal.
	// +required
	// +kubebuilder:validation:MaxLength=36
	JournalID string `json:"journalID"`
	// acknowledgedTime is when the agent had it on disk. It is not sent again
	// after that.
	// +optional
	AcknowledgedTime *metav1.MicroTime `json:"acknowledgedTime,omitempty"`
	// missingTime is when the second heartbeat in a row did not list an action
	// that had been acknowledged.
	// +optional
	MissingTime *metav1.MicroTime `json:"missingTime,omitempty"`
	// startedTime is when it began, by the agent.
	// +optional
	StartedTime *metav1.MicroTime `json:"startedTime,omitempty"`
}

// ActionResult is what the agent reported.
type ActionResult struct {
	// outcome by the agent. Refused: it did not begin, and reason says why.
	// +required
	// +kubebuilder:validation:Enum=Succeeded;Failed;Unknown;Cancelled;Refused
	Outcome string `json:"outcome"`
	// reason in one word, for instance NoSuchProcess, VaultFull, Interrupted,
	// PastDeadline, Superseded.
	// +required
	Reason Text `json:"reason"`
	// message of the agent, for people.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
	// reportedTime is when the server had it.
	// +required
	ReportedTime metav1.Time `json:"reportedTime"`
	// processes that were terminated.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Processes []TerminatedProcess `json:"processes,omitempty"`
	// files that were quarantined or restored.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Files []QuarantinedFile `json:"files,omitempty"`
	// artifacts that were uploaded.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	Artifacts []Artifact `json:"artifacts,omitempty"`
	// proof is the result as the agent signed it. The manager verifies it; a bad
	// one shows in the condition ResultVerified.
	// +optional
	Proof *Envelope `json:"proof,omitempty"`
	// omitted counts what the lists have no room for; the first artifact is then a
	// manifest of all.
	// +optional
	Omitted int32 `json:"omitted,omitempty"`
}

// TerminatedProcess is one.
type TerminatedProcess struct {
	// pid that it had.
	// +required
	PID int64 `json:"pid"`
	// executable that it ran, shortened from the left to 256 characters.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Executable string `json:"executable,omitempty"`
}

// Artifact is an uploaded file, in the artifact store.
type Artifact struct {
	// name to fetch it by: kubectl rollcall get-file ACTION NAME.
	// +required
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`
	// path on the endpoint, shortened.
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

// ActionChildren counts the children of an action with a selector. total is
// fixed once all of them exist.
type ActionChildren struct {
	// total of them. Fixed once all exist.
	// +required
	Total int32 `json:"total"`
	// waiting for their turn: not admitted yet.
	// +required
	Waiting int32 `json:"waiting"`
	// open: admitted, not ended.
	// +required
	Open int32 `json:"open"`
	// succeeded: they ended so.
	// +required
	Succeeded int32 `json:"succeeded"`
	// failed: Failed, Unknown, Expired and Unsupported.
	// +required
	Failed int32 `json:"failed"`
	// cancelled: they ended so.
	// +required
	Cancelled int32 `json:"cancelled"`
	// released is how many children may have been admitted so far. It is raised,
	// with a resourceVersion, before they are.
	// +required
	Released int32 `json:"released"`
	// failures are some of them.
	// +optional
	// +listType=map
	// +listMapKey=endpointName
	// +kubebuilder:validation:MaxItems=20
	Failures []EndpointFailure `json:"failures,omitempty"`
}

// Conditions of an EndpointAction, besides Reconciling and Stalled.
const (
	ConditionComplete = "Complete"
	ConditionFailed   = "Failed"
	// ConditionResultVerified is False when the agent's signature under a result
	// does not verify: do not believe it.
	ConditionResultVerified = "ResultVerified"
)
