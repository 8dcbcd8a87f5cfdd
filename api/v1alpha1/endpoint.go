package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Endpoint is one machine with an agent: a laptop, a server, a kiosk. Enrolment creates it, or binds to one that people declared before.
//
// Labels are people's, except those under reported.rollcall.dev/ (os, arch), which the manager copies from what the agent says.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=fep,categories=rollcall
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Channel",type=string,JSONPath=`.status.connection.channel`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.status.connection.sinceTime`
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.status.agent.version`
// +kubebuilder:printcolumn:name="Content",type=string,JSONPath=`.status.agent.contentVersion`
// +kubebuilder:printcolumn:name="Isolation",type=string,JSONPath=`.status.agent.isolation`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name="Policy",type=string,priority=1,JSONPath=`.status.policy.name`
// +kubebuilder:printcolumn:name="Hostname",type=string,priority=1,JSONPath=`.status.inventory.hostname`
// +kubebuilder:printcolumn:name="OS",type=string,priority=1,JSONPath=`.status.inventory.os.name`
// +kubebuilder:printcolumn:name="Gateway",type=string,priority=1,JSONPath=`.status.connection.gateway`
// +kubebuilder:printcolumn:name="Last-Seen",type=date,priority=1,JSONPath=`.status.lastSeenTime`
// +kubebuilder:printcolumn:name="Can",type=string,priority=1,JSONPath=`.status.agent.capabilities`
// +kubebuilder:selectablefield:JSONPath=`.spec.lifecycle`
// +kubebuilder:selectablefield:JSONPath=`.status.summary`
// +kubebuilder:selectablefield:JSONPath=`.status.agent.version`
// +kubebuilder:selectablefield:JSONPath=`.status.agent.contentVersion`
// +kubebuilder:selectablefield:JSONPath=`.status.agent.isolation`
// +kubebuilder:selectablefield:JSONPath=`.status.connection.channel`
// +kubebuilder:selectablefield:JSONPath=`.status.connection.gateway`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",message="the name must be a DNS label of at most 63 characters: every client prints it"
type Endpoint struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is what people want of this machine. All of it is optional.
	// +optional
	Spec EndpointSpec `json:"spec,omitempty"`
	// status is what is known of this machine.
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status EndpointStatus `json:"status,omitempty"`
}

// EndpointSpec is what people want of a machine. No controller writes it.
type EndpointSpec struct {
	// displayName is a name for people. Default: the hostname that the agent reports.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	DisplayName string `json:"displayName,omitempty"`
	// lifecycle of this machine. Default: Active.
	// Suspended: gateways refuse it until it is Active again; its actions wait.
	// Blocked: refused, and its machine may not enrol again while this object exists.
	// Decommissioned: refused for good, as Blocked; a person removes the agent. To come back: set Active, then enrol again.
	// +optional
	// +kubebuilder:validation:Enum=Active;Suspended;Blocked;Decommissioned
	Lifecycle EndpointLifecycle `json:"lifecycle,omitempty"`
	// isolation to keep this machine in. Absent: not declared, the last action decides.
	// While it is declared, actions that would change it end Cancelled with the reason DeclaredOtherwise.
	// +optional
	Isolation Isolation `json:"isolation,omitempty"`
	// proxy to keep this machine's agent on. Absent: not declared, the last action decides.
	// +optional
	Proxy *DeclaredProxy `json:"proxy,omitempty"`
}

// EndpointLifecycle is a stage in the life of an Endpoint.
type EndpointLifecycle string

const (
	// LifecycleActive is the default: the machine takes part.
	LifecycleActive EndpointLifecycle = "Active"
	// LifecycleSuspended is refused until it is Active again.
	LifecycleSuspended EndpointLifecycle = "Suspended"
	// LifecycleBlocked is refused, and its machine may not enrol again.
	LifecycleBlocked EndpointLifecycle = "Blocked"
	// LifecycleDecommissioned is refused for good.
	LifecycleDecommissioned EndpointLifecycle = "Decommissioned"
)

// Isolation of a machine from the network.
// +kubebuilder:validation:Enum=Isolated;Released
type Isolation string

// DeclaredProxy is the proxy that an agent must use.
// +kubebuilder:validation:XValidation:rule="(self.mode == 'Manual') == has(self.url)",message="url goes with mode Manual, and only with it"
type DeclaredProxy struct {
	// mode is Direct (no proxy) or Manual (the one in url).
	// +required
	// +kubebuilder:validation:Enum=Direct;Manual
	Mode string `json:"mode"`
	// url of an HTTP CONNECT proxy.
	// +optional
	URL ProxyURL `json:"url,omitempty"`
}

// ProxyURL is http://host:port. Credentials are refused: everything here is readable by whoever may read the object.
// +kubebuilder:validation:MaxLength=261
// +kubebuilder:validation:Pattern=`^https?://[^@/\s]+:[0-9]{1,5}$`
type ProxyURL string

// EndpointStatus is what is known of a machine. Each block has one writer, which an admission policy enforces.
type EndpointStatus struct {
	// observedGeneration is the generation that the conditions speak of. Written by the manager.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// summary is the state in one word, the first that holds of: Decommissioned, Blocked, Suspended, Conflict, NotEnrolled,
	// Offline, Unknown, Failing, Isolated, Updating, Online. Written by the manager.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Summary string `json:"summary,omitempty"`
	// message says in words what is wrong, and what to do; empty when nothing is. Written by the manager.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message,omitempty"`
	// conditions: Online, InSync, Healthy; only while true: IdentityConflict, Reconciling, Stalled. Written by the manager.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=12
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// identity is this machine's enrolment; absent until it has enrolled. Written by the manager.
	// +optional
	Identity *EndpointIdentity `json:"identity,omitempty"`
	// policy is the EndpointPolicy that applies to this machine. Written by the manager.
	// +optional
	Policy *AssignedPolicy `json:"policy,omitempty"`

	// lastSeenTime is the last contact that was written down: hourly while a session is up; without one, by a heartbeat that finds it
	// older than a third of missed × interval. Whether the machine is there now is what the condition Online says. Written by the gateway.
	// +optional
	LastSeenTime *metav1.Time `json:"lastSeenTime,omitempty"`
	// connection is how the machine is connected. Written by the gateway that holds it, and by the manager when that gateway is gone
	// or the endpoint goes offline; always under a test that it still is the session that was judged.
	// +optional
	Connection *EndpointConnection `json:"connection,omitempty"`
	// agent is what the agent says of itself. Written by the gateway.
	// +optional
	Agent *EndpointAgent `json:"agent,omitempty"`
	// inventory is what the agent says of its machine. Written by the gateway.
	// +optional
	Inventory *EndpointInventory `json:"inventory,omitempty"`
}

// EndpointIdentity is an enrolment.
type EndpointIdentity struct {
	// id is minted at every enrolment and named in the certificate. Actions are bound to it: a machine that enrolls again gets none of its predecessor's.
	// +required
	// +kubebuilder:validation:MaxLength=36
	ID string `json:"id"`
	// publicKeys are the SubjectPublicKeyInfo (DER) of the certificate's key and of the one before, newest first.
	// Results and events are verified with them. A repeated enrolment with the same key gets the same identity.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MaxLength=256
	PublicKeys [][]byte `json:"publicKeys"`
	// previousKeyExpirationTime is until when the second key is still accepted: a day after the renewal.
	// +optional
	PreviousKeyExpirationTime *metav1.Time `json:"previousKeyExpirationTime,omitempty"`
	// machineID that the agent gave when it enrolled, hashed.
	// +optional
	MachineID Text `json:"machineID,omitempty"`
	// enrolledTime is when.
	// +required
	EnrolledTime metav1.Time `json:"enrolledTime"`
	// tokenName is the EnrollmentToken that was used.
	// +optional
	TokenName LocalName `json:"tokenName,omitempty"`
	// certificateExpirationTime of the newest certificate.
	// +optional
	CertificateExpirationTime *metav1.Time `json:"certificateExpirationTime,omitempty"`
}

// AssignedPolicy says which policy an endpoint obeys.
type AssignedPolicy struct {
	// name of the EndpointPolicy; empty: none selects it, the defaults that are written at the fields apply.
	// +optional
	Name LocalName `json:"name,omitempty"`
	// assignment is the signed order that tells the agent so.
	// +required
	Assignment Envelope `json:"assignment"`
	// heartbeatSeconds is the interval that this machine is judged by, offlineAfterSeconds the silence that makes it offline: 4/3 × missed
	// × interval of its policy. After a change of policy the longer of old and new counts until the machine has applied it.
	// +optional
	// +kubebuilder:validation:Minimum=1
	HeartbeatSeconds int32 `json:"heartbeatSeconds,omitempty"`
	// +optional
	// +kubebuilder:validation:Minimum=1
	OfflineAfterSeconds int32 `json:"offlineAfterSeconds,omitempty"`
}

// EndpointConnection is a session, or its absence.
type EndpointConnection struct {
	// channel is WebSocket (a session is up), Heartbeat (none, but heartbeats come over HTTPS) or None.
	// +required
	// +kubebuilder:validation:Enum=WebSocket;Heartbeat;None
	Channel string `json:"channel"`
	// gateway holds the session; empty unless the channel is WebSocket. Its Lease has the same name: gw-, five characters of the
	// Pod's name, five random ones for each start.
	// +optional
	Gateway LocalName `json:"gateway,omitempty"`
	// epoch, instanceID and sessionNumber tell sessions apart, and which is newer; a gateway takes down only its own.
	// epoch is the agent's count of its own starts.
	// +optional
	Epoch int64 `json:"epoch,omitempty"`
	// instanceID is random for each start of the agent.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	InstanceID string `json:"instanceID,omitempty"`
	// sessionNumber counts the sessions of an instance.
	// +optional
	SessionNumber int64 `json:"sessionNumber,omitempty"`
	// sinceTime is when the channel became this.
	// +optional
	SinceTime *metav1.Time `json:"sinceTime,omitempty"`
	// instanceTime is when this instance was first seen, previousInstanceID the one before: to tell a late packet from a clone.
	// +optional
	InstanceTime *metav1.Time `json:"instanceTime,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=32
	PreviousInstanceID string `json:"previousInstanceID,omitempty"`
	// conflictInstanceID is the other instance while two use this identity; the manager makes the condition IdentityConflict from it.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	ConflictInstanceID string `json:"conflictInstanceID,omitempty"`
	// error is why there is no websocket, as the agent saw it; empty when there is one, or none is wanted.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Error string `json:"error,omitempty"`
	// remoteAddress as the gateway sees it.
	// +optional
	RemoteAddress Text `json:"remoteAddress,omitempty"`
}

// Channels of an EndpointConnection.
const (
	// ChannelWebSocket: a session is up.
	ChannelWebSocket = "WebSocket"
	// ChannelHeartbeat: heartbeats come over HTTPS.
	ChannelHeartbeat = "Heartbeat"
	// ChannelNone: nothing comes.
	ChannelNone = "None"
)

// EndpointAgent is what an agent says of itself.
type EndpointAgent struct {
	// +optional
	Version Text `json:"version,omitempty"`
	// +optional
	ContentVersion Text `json:"contentVersion,omitempty"`
	// contentError is why the newest content that was offered could not be applied; empty when it was.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	ContentError string `json:"contentError,omitempty"`
	// upgradeError is why the newest agent that was offered was rolled back; empty when it was not.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	UpgradeError string `json:"upgradeError,omitempty"`
	// policyID and policyRevision of the policy in use: the UID of the EndpointPolicy, empty for the defaults.
	// +optional
	// +kubebuilder:validation:MaxLength=36
	PolicyID string `json:"policyID,omitempty"`
	// +optional
	PolicyRevision int64 `json:"policyRevision,omitempty"`
	// capabilities are the action types that this agent can do.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Capabilities []Text `json:"capabilities,omitempty"`
	// +optional
	Isolation Isolation `json:"isolation,omitempty"`
	// isolationActionUID and proxyActionUID are the last actions obeyed on each.
	// +optional
	// +kubebuilder:validation:MaxLength=36
	IsolationActionUID string `json:"isolationActionUID,omitempty"`
	// +optional
	// +kubebuilder:validation:MaxLength=36
	ProxyActionUID string `json:"proxyActionUID,omitempty"`
	// proxy in use; empty when none is.
	// +optional
	Proxy Text `json:"proxy,omitempty"`
	// journalID changes when the agent's journal was lost: what was sent before can no longer be answered for.
	// +optional
	// +kubebuilder:validation:MaxLength=36
	JournalID string `json:"journalID,omitempty"`
	// journalTime is when that journal was made.
	// +optional
	JournalTime *metav1.MicroTime `json:"journalTime,omitempty"`
	// journalFull says that the agent takes no new action until old ones are settled.
	// +optional
	JournalFull bool `json:"journalFull,omitempty"`
	// rejectedOrders since its start, and why the newest was.
	// +optional
	RejectedOrders int64 `json:"rejectedOrders,omitempty"`
	// +optional
	LastRejection Text `json:"lastRejection,omitempty"`
	// trustVersion of the bundle that it holds.
	// +optional
	TrustVersion int64 `json:"trustVersion,omitempty"`
	// clockSkewSeconds is agent minus server, rounded to 10; absent below 10.
	// +optional
	ClockSkewSeconds *int32 `json:"clockSkewSeconds,omitempty"`
	// quarantined counts the files in the vault; the newest are listed.
	// +optional
	Quarantined int32 `json:"quarantined,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=id
	// +kubebuilder:validation:MaxItems=10
	Quarantine []QuarantinedFile `json:"quarantine,omitempty"`
}

// QuarantinedFile is a file in an agent's vault.
type QuarantinedFile struct {
	// id to restore it by.
	// +required
	// +kubebuilder:validation:MaxLength=36
	ID string `json:"id"`
	// path where it was, shortened.
	// +required
	// +kubebuilder:validation:MaxLength=256
	Path string `json:"path"`
	// +required
	SHA256 SHA256 `json:"sha256"`
	// +required
	QuarantinedTime metav1.Time `json:"quarantinedTime"`
}

// EndpointInventory is what an agent says of its machine. Things that change by the minute are not here.
type EndpointInventory struct {
	// +optional
	Hostname Text `json:"hostname,omitempty"`
	// +optional
	MachineID Text `json:"machineID,omitempty"`
	// +optional
	OS *EndpointOS `json:"os,omitempty"`
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	Addresses []Text `json:"addresses,omitempty"`
	// +optional
	CPUs int32 `json:"cpus,omitempty"`
	// memoryMiB is rounded to 64.
	// +optional
	MemoryMiB int64 `json:"memoryMiB,omitempty"`
	// +optional
	Model Text `json:"model,omitempty"`
	// +optional
	BootTime *metav1.Time `json:"bootTime,omitempty"`
}

// EndpointOS is an operating system.
type EndpointOS struct {
	// +optional
	Name Text `json:"name,omitempty"`
	// +optional
	Version Text `json:"version,omitempty"`
	// +optional
	Kernel Text `json:"kernel,omitempty"`
	// +optional
	Arch Text `json:"arch,omitempty"`
}

// Conditions of an Endpoint.
const (
	// EndpointOnline: heartbeats come. Unknown: never seen, or its gateway is gone and the grace is not over.
	EndpointOnline = "Online"
	// EndpointInSync: the machine runs the policy, content, isolation and proxy that are declared for it. Waiting for a sleeping laptop is False/WaitingForEndpoint.
	EndpointInSync = "InSync"
	// EndpointHealthy: no open problem. The reason names the worst one: SecurityEvent, ContentFailed, UpgradeRolledBack,
	// ClockSkewed, CertificateExpiring, CertificateExpired. Unknown while the endpoint is offline.
	EndpointHealthy = "Healthy"
	// EndpointIdentityConflict: two machines use this identity; its actions are held.
	EndpointIdentityConflict = "IdentityConflict"

	ConditionReconciling = "Reconciling"
	ConditionStalled     = "Stalled"
)

// EndpointList is a list of them.
// +kubebuilder:object:root=true
type EndpointList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items of the list.
	Items []Endpoint `json:"items"`
}
