package action

// Reasons of the condition Reconciling: what an action that has not ended waits for.
const (
	// ReasonWaitingForSession: its endpoint has a websocket, and is about to get it; or it needs one that is not there.
	ReasonWaitingForSession = "WaitingForSession"
	// ReasonWaitingForHeartbeat: the next heartbeat fetches it.
	ReasonWaitingForHeartbeat = "WaitingForHeartbeat"
	ReasonEndpointOffline     = "EndpointOffline"
	ReasonEndpointNotFound    = "EndpointNotFound"
	ReasonEndpointNotEnrolled = "EndpointNotEnrolled"
	ReasonEndpointSuspended   = "EndpointSuspended"
	ReasonIdentityConflict    = "IdentityConflict"
	// ReasonWaitingForTurn: as many of its parent's children are open as may be.
	ReasonWaitingForTurn = "WaitingForTurn"
	// ReasonSent: it was, and the agent has not said that it has it.
	ReasonSent    = "Sent"
	ReasonRunning = "Running"
	// ReasonCancelRequested: it was sent before, so the agent says whether that was in time.
	ReasonCancelRequested = "CancelRequested"
	// ReasonFanOut: the children of an action with a selector are at work.
	ReasonFanOut = "FanOut"
)

// Reasons of the conditions Complete and Failed that the server gives.
const (
	// Unsupported.
	ReasonAgentTooOld       = "AgentTooOld"
	ReasonDisabledByPolicy  = "DisabledByPolicy"
	ReasonInvalidParameters = "InvalidParameters"
	// Cancelled before it was sent.
	ReasonCancelledByUser   = "CancelledByUser"
	ReasonSuperseded        = "Superseded"
	ReasonDeclaredOtherwise = "DeclaredOtherwise"
	ReasonEndpointReplaced  = "EndpointReplaced" // also Unknown, after it was sent
	ReasonEndpointDeleted   = "EndpointDeleted"  // also Unknown
	ReasonEndpointBlocked   = "EndpointBlocked"  // also Unknown
	ReasonParentCancelled   = "ParentCancelled"
	// Expired before it was sent.
	ReasonDeadlineExceeded = "DeadlineExceeded"
	// Unknown.
	ReasonNoReport    = "NoReport"
	ReasonJournalLost = "JournalLost"
	ReasonAgentForgot = "AgentForgot"
	// Succeeded: there is no result, but the endpoint is in the state that was asked for.
	ReasonObservedState = "ObservedState"
	// Of an action with a selector.
	ReasonDone            = "Done"    // also what agents say
	ReasonNoMatch         = "NoMatch" // no endpoint matches: Succeeded, and worth a warning
	ReasonChildrenFailed  = "ChildrenFailed"
	ReasonTooManyFailures = "TooManyFailures" // also while the last children are open
)

// Reasons that agents give and the table knows. Any other word of theirs is taken as it is.
const (
	ReasonPastDeadline = "PastDeadline"
	ReasonUnsupported  = "Unsupported"
	ReasonInterrupted  = "Interrupted"
	ReasonTimedOut     = "TimedOut"
)

// restored is put before the reason of an end that the server has no record of having sent for: row 23.
const restored = "Restored"

// ReasonBadProof is that of the condition ResultVerified.
const ReasonBadProof = "BadProof"

// Reasons of Kubernetes Events that are none of a condition.
const (
	// ReasonLateResult: an agent reported after the end.
	ReasonLateResult = "LateResult"
	// ReasonActionDeleted: an action was deleted that was sent, on its endpoint.
	ReasonActionDeleted = "ActionDeleted"
)
