package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EndpointAction is one thing to do, once: on one Endpoint, or on each that a
// selector matches at that moment.
//
// spec is people's, and cannot be changed, except cancel and
// ttlSecondsAfterFinished. To do it again, create another action: with
// metadata.generateName and kubectl create, or with another name in Git.
//
// To wait until it has ended, whichever way: kubectl wait epa/NAME
// --for=jsonpath={.status.finishTime}. Waiting for condition=Complete does not
// return when it fails.
//
// Actions that are open: kubectl get epa --field-selector status.finishTime=.
// The other fields to select by are spec.type, spec.endpointName and
// status.phase.
//
// Deleting an action cancels it while it is Pending. Later that only forgets
// it, and stops nothing: set spec.cancel to stop it.
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
	// metadata of the object. The name has 63 characters at most.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is what to do, and where. It cannot be changed, except cancel and
	// ttlSecondsAfterFinished. No controller writes it.
	// +required
	Spec EndpointActionSpec `json:"spec"`
	// status is how far it is, and how it ended. Each part has its writer, which
	// an admission policy enforces.
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1,"phase":"Pending"}
	Status EndpointActionStatus `json:"status,omitempty"`
}

// AnnotationRequestedBy on an EndpointAction is the name of whoever created it,
// as the API server knows them. An admission policy stamps it (Kubernetes 1.36
// and later) or checks it, and it never changes; a child has its parent's.
const AnnotationRequestedBy = "rollcall.dev/requested-by"

// LabelParent on a child is the UID of the action with a selector whose it is.
const LabelParent = "rollcall.dev/parent"

// EndpointActionSpec is what to do, and where.
// +kubebuilder:validation:ExactlyOneOf=endpointName;selector
// +kubebuilder:validation:XValidation:rule="has(self.selector) || (!has(self.maxParallel) && !has(self.maxFailures))",message="maxParallel and maxFailures go with selector"
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || (has(self.selector.matchLabels) && size(self.selector.matchLabels) > 0) || (has(self.selector.matchExpressions) && size(self.selector.matchExpressions) > 0)",message="an empty selector is refused: to act on every endpoint, match a label that all of them have"
// +kubebuilder:validation:XValidation:rule="!has(self.selector) || self.type != 'LiveTerminal'",message="a terminal is for one endpoint: name it in endpointName"
// +kubebuilder:validation:XValidation:rule="has(self.quarantineFile) == (self.type == 'QuarantineFile') && has(self.restoreFile) == (self.type == 'RestoreFile') && has(self.terminateProcess) == (self.type == 'TerminateProcess') && has(self.setEndpointProxy) == (self.type == 'SetEndpointProxy') && has(self.retrieveFiles) == (self.type == 'RetrieveFiles') && has(self.retrieveSecurityEventData) == (self.type == 'RetrieveSecurityEventData')",messageExpression="'type ' + self.type + ' takes exactly its own parameter block; types without parameters take none'"
// +kubebuilder:validation:XValidation:rule="(!has(self.isolateEndpoint) || self.type == 'IsolateEndpoint') && (!has(self.liveTerminal) || self.type == 'LiveTerminal')",messageExpression="'type ' + self.type + ' takes exactly its own parameter block; types without parameters take none'"
// +kubebuilder:validation:XValidation:rule="has(self.endpointName) == has(oldSelf.endpointName) && has(self.selector) == has(oldSelf.selector) && has(self.maxParallel) == has(oldSelf.maxParallel) && has(self.maxFailures) == has(oldSelf.maxFailures) && has(self.reason) == has(oldSelf.reason) && has(self.startingDeadlineSeconds) == has(oldSelf.startingDeadlineSeconds) && has(self.activeDeadlineSeconds) == has(oldSelf.activeDeadlineSeconds) && has(self.quarantineFile) == has(oldSelf.quarantineFile) && has(self.restoreFile) == has(oldSelf.restoreFile) && has(self.terminateProcess) == has(oldSelf.terminateProcess) && has(self.isolateEndpoint) == has(oldSelf.isolateEndpoint) && has(self.liveTerminal) == has(oldSelf.liveTerminal) && has(self.setEndpointProxy) == has(oldSelf.setEndpointProxy) && has(self.retrieveFiles) == has(oldSelf.retrieveFiles) && has(self.retrieveSecurityEventData) == has(oldSelf.retrieveSecurityEventData)",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.cancel) || !oldSelf.cancel || (has(self.cancel) && self.cancel)",message="a cancelled action stays cancelled: create another action"
type EndpointActionSpec struct {
	// type is what to do. Whoever creates an action needs the verb in brackets
	// on endpoints.rollcall.dev.
	// PerformHeartbeat (heartbeat): report at once, and everything.
	// TerminateProcess (terminate): end processes.
	// QuarantineFile (quarantine): move a file into the agent's vault.
	// RestoreFile (restore): move it back.
	// IsolateEndpoint (isolate): cut the machine off from every network, but for
	// its gateway and what its policy or the action lets through.
	// CancelIsolation (release): end that.
	// SetEndpointProxy, DisableEndpointProxy (proxy): have the agent use a proxy,
	// or none.
	// LiveTerminal (terminal): open a terminal on the machine.
	// RetrieveFiles (retrieve): copy files from it.
	// RetrieveSecurityEventData (retrieve-events): copy what the agent kept
	// about security events.
	// RetrieveSupportFile (support): copy what helps to find out what is wrong
	// with the agent.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	Type ActionType `json:"type"`
	// endpointName is the Endpoint to act on; it may be one that does not exist
	// yet. At most 63 characters. Either this or selector is given.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="!self.contains('.')",message="must be a DNS label, as the name of an Endpoint is"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	EndpointName LocalName `json:"endpointName,omitempty"`
	// selector picks the Endpoints to act on by their labels, once, when the
	// manager first sees the action: each gets a child action. Needs the verb on
	// all endpoints, not on some by name. An empty one is refused. Either this
	// or endpointName is given.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	Selector *EndpointSelector `json:"selector,omitempty"`
	// maxParallel is how many children may be open at a time: 1 to 10000. Goes
	// with selector. Default: 100.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	MaxParallel *int32 `json:"maxParallel,omitempty"`
	// maxFailures is how many children may fail: 0 to 100000. With one more,
	// those that were not sent yet are cancelled. Goes with selector. Default:
	// no limit.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100000
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	MaxFailures *int32 `json:"maxFailures,omitempty"`
	// reason for the action in words, for those who read the history. At most
	// 256 characters.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	Reason string `json:"reason,omitempty"`
	// startingDeadlineSeconds is how long after its creation (a child's: after
	// its turn came) the action may start: 5 to 7776000 (90 days). Later it
	// never will, and ends Expired. Below two heartbeats it may never reach an
	// endpoint that has no session.
	// Default by type: 300 for LiveTerminal, which needs a session; 3600 for
	// PerformHeartbeat, TerminateProcess, SetEndpointProxy and
	// DisableEndpointProxy; 2592000 (30 days) for the others.
	// +optional
	// +kubebuilder:validation:Minimum=5
	// +kubebuilder:validation:Maximum=7776000
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	StartingDeadlineSeconds *int32 `json:"startingDeadlineSeconds,omitempty"`
	// activeDeadlineSeconds is how long it may run once it has started: 1 to
	// 86400. The agent stops it then, and it ends Failed. Default by type: 3600
	// for LiveTerminal and those that retrieve; 60 for the others.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	ActiveDeadlineSeconds *int32 `json:"activeDeadlineSeconds,omitempty"`
	// cancel asks to stop. It is certain while the action is Pending; after that
	// the agent says whether it was in time. It cannot be taken back. With a
	// selector: no more children are sent, and those that were are cancelled.
	// +optional
	Cancel bool `json:"cancel,omitempty"`
	// ttlSecondsAfterFinished is how long after its end the action is deleted:
	// 0 to 31536000 (a year). Leave it out of what is kept in Git: a deleted
	// action would be applied, and done, again. Default: never.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=31536000
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
	// quarantineFile says which file. Goes with type QuarantineFile, and only
	// with it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	QuarantineFile *QuarantineFileParameters `json:"quarantineFile,omitempty"`
	// restoreFile says which file. Goes with type RestoreFile, and only with it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	RestoreFile *RestoreFileParameters `json:"restoreFile,omitempty"`
	// terminateProcess says which processes. Goes with type TerminateProcess,
	// and only with it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	TerminateProcess *TerminateProcessParameters `json:"terminateProcess,omitempty"`
	// isolateEndpoint says what stays reachable. May go with type
	// IsolateEndpoint.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	IsolateEndpoint *IsolateEndpointParameters `json:"isolateEndpoint,omitempty"`
	// liveTerminal describes the terminal. May go with type LiveTerminal.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	LiveTerminal *LiveTerminalParameters `json:"liveTerminal,omitempty"`
	// setEndpointProxy names the proxy. Goes with type SetEndpointProxy, and
	// only with it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	SetEndpointProxy *SetEndpointProxyParameters `json:"setEndpointProxy,omitempty"`
	// retrieveFiles says which files. Goes with type RetrieveFiles, and only
	// with it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	RetrieveFiles *RetrieveFilesParameters `json:"retrieveFiles,omitempty"`
	// retrieveSecurityEventData says which events. Goes with type
	// RetrieveSecurityEventData, and only with it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec is immutable, except cancel and ttlSecondsAfterFinished: create another action"
	RetrieveSecurityEventData *RetrieveSecurityEventDataParameters `json:"retrieveSecurityEventData,omitempty"`
}

// QuarantineFileParameters name a file. With both, the file at the path must
// have the digest.
// +kubebuilder:validation:AtLeastOneOf=path;sha256
type QuarantineFileParameters struct {
	// path of the file, absolute, at most 4096 characters.
	// +optional
	Path FilePath `json:"path,omitempty"`
	// sha256 of its content, in lower-case hexadecimal. With a path: nothing is
	// done if the file there has another. Without: every file with it that the
	// agent knows of.
	// +optional
	SHA256 SHA256 `json:"sha256,omitempty"`
}

// RestoreFileParameters name a file in the vault.
type RestoreFileParameters struct {
	// quarantineID is the id of the file in the agent's vault: from
	// status.agent.quarantine of the Endpoint, or from status.result.files of
	// the action that quarantined it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=36
	QuarantineID string `json:"quarantineID"`
	// path to restore it to, absolute, at most 4096 characters. Default: where
	// it was.
	// +optional
	Path FilePath `json:"path,omitempty"`
	// overwrite says what to do with a file that is there: Never restores
	// nothing then, Always replaces it. Default: Never.
	// +optional
	Overwrite OverwritePolicy `json:"overwrite,omitempty"`
}

// OverwritePolicy is whether a file may be replaced.
// +kubebuilder:validation:Enum=Never;Always
type OverwritePolicy string

const (
	// OverwriteNever keeps the file that is there. The default.
	OverwriteNever OverwritePolicy = "Never"
	// OverwriteAlways replaces it.
	OverwriteAlways OverwritePolicy = "Always"
)

// TerminateProcessParameters name processes. All that are given must match.
// +kubebuilder:validation:AtLeastOneOf=pid;executable;sha256
// +kubebuilder:validation:XValidation:rule="has(self.pid) == has(self.startTime)",message="pid and startTime go together: a PID alone may have been reused"
type TerminateProcessParameters struct {
	// pid of one process: 2 to 4194304. Goes with startTime.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=4194304
	PID *int64 `json:"pid,omitempty"`
	// startTime of that process, to the microsecond. Goes with pid: a PID alone
	// may have been reused.
	// +optional
	StartTime *metav1.MicroTime `json:"startTime,omitempty"`
	// executable that the processes run: an absolute path, at most 4096
	// characters.
	// +optional
	Executable FilePath `json:"executable,omitempty"`
	// sha256 of the executable that they run, in lower-case hexadecimal.
	// +optional
	SHA256 SHA256 `json:"sha256,omitempty"`
	// scope is Process for those that match, or Tree for their descendants too.
	// Default: Process.
	// +optional
	Scope ProcessScope `json:"scope,omitempty"`
	// gracePeriodSeconds between TERM and KILL: 0 to 300. 0: KILL at once.
	// Default: 5.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=300
	GracePeriodSeconds *int32 `json:"gracePeriodSeconds,omitempty"`
}

// ProcessScope is how far beyond a process an action reaches.
// +kubebuilder:validation:Enum=Process;Tree
type ProcessScope string

const (
	// ScopeProcess is the process alone. The default.
	ScopeProcess ProcessScope = "Process"
	// ScopeTree is the process and its descendants.
	ScopeTree ProcessScope = "Tree"
)

// IsolateEndpointParameters add to what the policy lets through.
type IsolateEndpointParameters struct {
	// allow lists networks that stay reachable, such as 10.0.0.0/8, at most 32.
	// They come on top of those of the policy.
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
	// user on the machine whose terminal it is, at most 128 characters. Default:
	// the agent's.
	// +optional
	User Text `json:"user,omitempty"`
	// command to run instead of a login shell, word by word, at most 64 of 4096
	// characters each. No shell reads it.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Command []Argument `json:"command,omitempty"`
	// idleTimeoutSeconds after which a silent terminal is closed: 30 to 7200.
	// The longest duration is activeDeadlineSeconds. Default: 600.
	// +optional
	// +kubebuilder:validation:Minimum=30
	// +kubebuilder:validation:Maximum=7200
	IdleTimeoutSeconds *int32 `json:"idleTimeoutSeconds,omitempty"`
}

// SetEndpointProxyParameters name a proxy.
type SetEndpointProxyParameters struct {
	// url of an HTTP CONNECT proxy: http://host:port or https://host:port, at
	// most 261 characters. Credentials are refused: whoever may read this object
	// would read them.
	// +required
	URL ProxyURL `json:"url"`
}

// RetrieveFilesParameters name files.
type RetrieveFilesParameters struct {
	// paths of the files, absolute, 1 to 32 of at most 4096 characters each.
	// * stands for anything within a name, ** for directories as well.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Paths []FilePath `json:"paths"`
	// maxBytes of all files together: 1 to 10737418240 (10 GiB). Default:
	// 104857600 (100 MiB).
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10737418240
	MaxBytes *int64 `json:"maxBytes,omitempty"`
}

// RetrieveSecurityEventDataParameters name events.
type RetrieveSecurityEventDataParameters struct {
	// eventIDs are the IDs of the events, 1 to 64 of at most 128 characters
	// each.
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
