package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EndpointAction is one thing to do, once: on one endpoint, or on all that a
// selector matches at that moment. Its spec cannot change, except cancel and
// ttlSecondsAfterFinished. Deleting an action cancels it while it is Pending;
// later it forgets it, and does not stop it: set cancel for that.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=epa,categories=rollcall
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.type`
// +kubebuilder:printcolumn:name="Endpoint",type=string,JSONPath=`.spec.endpointName`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Progress",type=string,JSONPath=`.status.progress`
// +kubebuilder:printcolumn:name="Channel",type=string,JSONPath=`.status.delivery.channel`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name="Requested-By",type=string,priority=1,JSONPath=`.metadata.annotations.rollcall\.dev/requested-by`
// +kubebuilder:selectablefield:JSONPath=`.spec.type`
// +kubebuilder:selectablefield:JSONPath=`.spec.endpointName`
// +kubebuilder:selectablefield:JSONPath=`.status.phase`
// +kubebuilder:selectablefield:JSONPath=`.status.finishTime`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="the name may have 63 characters at most",fieldPath=".metadata"
type EndpointAction struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object. The name has at most 63 characters.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is what to do, and where.
	// +required
	Spec EndpointActionSpec `json:"spec"`
	// status is how far it is.
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1,"phase":"Pending"}
	Status EndpointActionStatus `json:"status,omitempty"`
}

// AnnotationRequestedBy is who created an EndpointAction: stamped or checked by
// an admission policy, and never changed.
const AnnotationRequestedBy = "rollcall.dev/requested-by"

// EndpointActionSpec is what to do, and where.
// +kubebuilder:validation:ExactlyOneOf=endpointName;selector
// +kubebuilder:validation:XValidation:rule="has(self.selector) || (!has(self.maxParallel) && !has(self.maxFailures))",message="maxParallel and maxFailures go with selector"
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || has(self.selector.matchLabels) || has(self.selector.matchExpressions)",message="an empty selector is refused: to act on every endpoint, match a label that all of them have"
// +kubebuilder:validation:XValidation:rule="has(self.quarantineFile) == (self.type == 'QuarantineFile') && has(self.restoreFile) == (self.type == 'RestoreFile') && has(self.terminateProcess) == (self.type == 'TerminateProcess') && has(self.setEndpointProxy) == (self.type == 'SetEndpointProxy') && has(self.retrieveFiles) == (self.type == 'RetrieveFiles') && has(self.retrieveSecurityEventData) == (self.type == 'RetrieveSecurityEventData')",messageExpression="'type ' + self.type + ' takes exactly its own parameter block; types without parameters take none'"
// +kubebuilder:validation:XValidation:rule="(!has(self.isolateEndpoint) || self.type == 'IsolateEndpoint') && (!has(self.liveTerminal) || self.type == 'LiveTerminal')",messageExpression="'type ' + self.type + ' takes exactly its own parameter block; types without parameters take none'"
// +kubebuilder:validation:XValidation:rule="has(self.endpointName) == has(oldSelf.endpointName) && has(self.selector) == has(oldSelf.selector) && has(self.maxParallel) == has(oldSelf.maxParallel) && has(self.maxFailures) == has(oldSelf.maxFailures) && has(self.reason) == has(oldSelf.reason) && has(self.startingDeadlineSeconds) == has(oldSelf.startingDeadlineSeconds) && has(self.activeDeadlineSeconds) == has(oldSelf.activeDeadlineSeconds) && has(self.quarantineFile) == has(oldSelf.quarantineFile) && has(self.restoreFile) == has(oldSelf.restoreFile) && has(self.terminateProcess) == has(oldSelf.terminateProcess) && has(self.isolateEndpoint) == has(oldSelf.isolateEndpoint) && has(self.liveTerminal) == has(oldSelf.liveTerminal) && has(self.setEndpointProxy) == has(oldSelf.setEndpointProxy) && has(self.retrieveFiles) == has(oldSelf.retrieveFiles) && has(self.retrieveSecurityEventData) == has(oldSelf.retrieveSecurityEventData)",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.cancel) || !oldSelf.cancel || (has(self.cancel) && self.cancel)",message="a cancelled action stays cancelled: create another action"
type EndpointActionSpec struct {
	// type of the action. Most types have a parameter block of the same name.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	Type ActionType `json:"type"`
	// endpointName is the Endpoint to act on.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	EndpointName LocalName `json:"endpointName,omitempty"`
	// selector picks the Endpoints to act on, once, when the action is admitted:
	// each gets a child action.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	Selector *EndpointSelector `json:"selector,omitempty"`
	// maxParallel children may be open at a time. Default: 100.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	MaxParallel *int32 `json:"maxParallel,omitempty"`
	// maxFailures children may fail; one more, and those that were not sent are
	// cancelled. Default: no limit.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100000
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	MaxFailures *int32 `json:"maxFailures,omitempty"`
	// reason for the action, in words, for those who read the history.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	Reason string `json:"reason,omitempty"`
	// startingDeadlineSeconds after creation (a child: after its turn came) the
	// action may no longer start. Default by type: 300 for LiveTerminal, which
	// needs a session; 3600 for PerformHeartbeat, TerminateProcess and the proxy
	// types; 2592000 (30 days) for the others. Below two heartbeats it may never
	// reach an endpoint without a session.
	// +optional
	// +kubebuilder:validation:Minimum=5
	// +kubebuilder:validation:Maximum=7776000
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	StartingDeadlineSeconds *int32 `json:"startingDeadlineSeconds,omitempty"`
	// activeDeadlineSeconds is how long it may run once started. Default by type:
	// 60, 3600 for retrievals and terminals.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	ActiveDeadlineSeconds *int32 `json:"activeDeadlineSeconds,omitempty"`
	// cancel asks to stop. Certain while the action is Pending; after that the
	// agent decides whether it was in time.
	// +optional
	Cancel bool `json:"cancel,omitempty"`
	// ttlSecondsAfterFinished deletes the action that long after it ended.
	// Default: never. Leave it unset for what is kept in Git: a deleted action
	// would be applied, and run, again.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=31536000
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
	// quarantineFile says which file, for the type QuarantineFile.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	QuarantineFile *QuarantineFileParameters `json:"quarantineFile,omitempty"`
	// restoreFile says which file, for the type RestoreFile.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	RestoreFile *RestoreFileParameters `json:"restoreFile,omitempty"`
	// terminateProcess says which process, for the type TerminateProcess.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	TerminateProcess *TerminateProcessParameters `json:"terminateProcess,omitempty"`
	// isolateEndpoint says what stays reachable, for the type IsolateEndpoint. It
	// may be left out.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	IsolateEndpoint *IsolateEndpointParameters `json:"isolateEndpoint,omitempty"`
	// liveTerminal describes the terminal, for the type LiveTerminal. It may be
	// left out.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	LiveTerminal *LiveTerminalParameters `json:"liveTerminal,omitempty"`
	// setEndpointProxy names the proxy, for the type SetEndpointProxy.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	SetEndpointProxy *SetEndpointProxyParameters `json:"setEndpointProxy,omitempty"`
	// retrieveFiles says which files, for the type RetrieveFiles.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	RetrieveFiles *RetrieveFilesParameters `json:"retrieveFiles,omitempty"`
	// retrieveSecurityEventData says which events, for the type
	// RetrieveSecurityEventData.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	RetrieveSecurityEventData *RetrieveSecurityEventDataParameters `json:"retrieveSecurityEventData,omitempty"`
}

// QuarantineFileParameters name a file. With both, the file at the path must
// have the digest.
// +kubebuilder:validation:AtLeastOneOf=path;sha256
type QuarantineFileParameters struct {
	// path of the file, absolute.
	// +optional
	Path FilePath `json:"path,omitempty"`
	// sha256 of its content, in lower-case hexadecimal. Without a path: every file
	// with it that the agent knows of.
	// +optional
	SHA256 SHA256 `json:"sha256,omitempty"`
}

// RestoreFileParameters name a file in the vault.
type RestoreFileParameters struct {
	// quarantineID from the Endpoint's status, or from the result of the action
	// that quarantined it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=36
	QuarantineID string `json:"quarantineID"`
	// path to restore to. Default: where it was.
	// +optional
	Path FilePath `json:"path,omitempty"`
	// overwrite what is there. Default: Never.
	// +optional
	// +kubebuilder:validation:Enum=Never;Always
	Overwrite string `json:"overwrite,omitempty"`
}

// TerminateProcessParameters name processes. All that are given must match.
// +kubebuilder:validation:AtLeastOneOf=pid;executable;sha256
// +kubebuilder:validation:XValidation:rule="has(self.pid) == has(self.startTime)",message="pid and startTime go together: a PID alone may have been reused"
type TerminateProcessParameters struct {
	// pid of one process. Goes with startTime.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=4194304
	PID *int64 `json:"pid,omitempty"`
	// startTime of the process, to the microsecond, as events and terminals show
	// it.
	// +optional
	StartTime *metav1.MicroTime `json:"startTime,omitempty"`
	// executable that the process runs, an absolute path on the machine.
	// +optional
	Executable FilePath `json:"executable,omitempty"`
	// sha256 of that executable, in lower-case hexadecimal.
	// +optional
	SHA256 SHA256 `json:"sha256,omitempty"`
	// scope is Process, or Tree with its descendants. Default: Process.
	// +optional
	// +kubebuilder:validation:Enum=Process;Tree
	Scope string `json:"scope,omitempty"`
	// gracePeriodSeconds between TERM and KILL. Default: 5.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=300
	GracePeriodSeconds *int32 `json:"gracePeriodSeconds,omitempty"`
}

// IsolateEndpointParameters add to what the policy lets through.
type IsolateEndpointParameters struct {
	// allow lists networks that stay reachable.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Allow []CIDR `json:"allow,omitempty"`
}

// Argument of a command.
// +kubebuilder:validation:MaxLength=4096
type Argument string

// LiveTerminalParameters describe a session.
type LiveTerminalParameters struct {
	// user on the endpoint. Default: the agent's.
	// +optional
	User Text `json:"user,omitempty"`
	// command to run instead of a login shell, without a shell.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Command []Argument `json:"command,omitempty"`
	// idleTimeoutSeconds ends a silent session. Default: 600. The longest duration
	// is activeDeadlineSeconds.
	// +optional
	// +kubebuilder:validation:Minimum=30
	// +kubebuilder:validation:Maximum=7200
	IdleTimeoutSeconds *int32 `json:"idleTimeoutSeconds,omitempty"`
}

// SetEndpointProxyParameters name a proxy.
type SetEndpointProxyParameters struct {
	// url of the proxy, http://host:port or https://host:port, without
	// credentials.
	// +required
	URL ProxyURL `json:"url"`
}

// RetrieveFilesParameters name files.
type RetrieveFilesParameters struct {
	// paths, with * and ** where several are meant.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Paths []FilePath `json:"paths"`
	// maxBytes of all files together. Default: 104857600.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10737418240
	MaxBytes *int64 `json:"maxBytes,omitempty"`
}

// RetrieveSecurityEventDataParameters name events.
type RetrieveSecurityEventDataParameters struct {
	// eventIDs of the events, as they were reported.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	EventIDs []Text `json:"eventIDs"`
}

// EndpointActionList is a list of them.
// +kubebuilder:object:root=true
type EndpointActionList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the list.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items of the list.
	Items []EndpointAction `json:"items"`
}
