package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EndpointStatus is what is known of a machine. Each block has one writer,
// which an admission policy enforces.
type EndpointStatus struct {
	// observedGeneration is the generation that the conditions speak of; -1
	// until the manager has looked at this object for the first time. Written
	// by the manager.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// summary is the state in one word, the first that holds of: Decommissioned,
	// Blocked, Suspended, Conflict (see the condition IdentityConflict),
	// NotEnrolled, Offline, Unknown (enrolled, not heard of yet; or no gateway
	// is there to hear it), Failing (not Healthy), Isolated, Updating (not
	// InSync), Online. Written by the manager.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Summary string `json:"summary,omitempty"`
	// message says in words what is wrong, and what to do; empty when nothing
	// is. At most 256 characters. Written by the manager.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message,omitempty"`
	// conditions, written by the manager.
	// Online: heartbeats come.
	// InSync: the machine runs what is declared for it; False with the reason
	// WaitingForEndpoint while it sleeps.
	// Healthy: nothing is wrong with it, as far as its agent and its
	// certificate tell. Unknown while it is offline.
	// Only while they are true: IdentityConflict (two machines use this
	// identity, or its agent has lost its memory), Stalled (a person must do
	// something).
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=12
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// identity is this machine's enrolment; absent until it has enrolled.
	// Written by the manager.
	// +optional
	Identity *EndpointIdentity `json:"identity,omitempty"`
	// policy is the EndpointPolicy that applies to this machine. Written by the
	// manager.
	// +optional
	Policy *AssignedPolicy `json:"policy,omitempty"`

	// lastSeenTime is the last contact that was written down: hourly while a
	// session is up; without one, by a heartbeat that finds it older than a
	// third of missed × interval. Whether the machine is there now is what the
	// condition Online says. Written by the gateway.
	// +optional
	LastSeenTime *metav1.Time `json:"lastSeenTime,omitempty"`
	// connection is how the machine is connected. Written by the gateway that
	// answers it, and by the manager when that gateway is gone or the endpoint
	// goes offline; always on condition that it still is the connection that was
	// judged.
	// +optional
	Connection *EndpointConnection `json:"connection,omitempty"`
	// agent is what the agent says of itself. Written by the gateway.
	// +optional
	Agent *EndpointAgent `json:"agent,omitempty"`
	// inventory is what the agent says of its machine. What changes by the
	// minute is not here. Written by the gateway.
	// +optional
	Inventory *EndpointInventory `json:"inventory,omitempty"`
}

// EndpointIdentity is an enrolment.
type EndpointIdentity struct {
	// id is a UUID, made at every enrolment and named in the certificate.
	// Actions are bound to it: a machine that enrols again gets none of its
	// predecessor's.
	// +required
	// +kubebuilder:validation:MaxLength=36
	ID string `json:"id"`
	// publicKeys are the SubjectPublicKeyInfo (DER, base64) of the certificate's
	// key and of the one before, newest first. Proofs are verified with them. A
	// repeated enrolment with the same key gets the same identity.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:MaxLength=256
	PublicKeys [][]byte `json:"publicKeys"`
	// previousKeyExpirationTime is until when the second key is still accepted:
	// a day after the renewal.
	// +optional
	PreviousKeyExpirationTime *metav1.Time `json:"previousKeyExpirationTime,omitempty"`
	// machineID that the agent gave when it enrolled: the machine's own ID,
	// hashed, as 64 hexadecimal digits. A claim, not a proof.
	// +optional
	MachineID Text `json:"machineID,omitempty"`
	// enrolledTime is when this identity was made.
	// +required
	EnrolledTime metav1.Time `json:"enrolledTime"`
	// tokenName is the EnrollmentToken that was used. It may be gone.
	// +optional
	TokenName LocalName `json:"tokenName,omitempty"`
	// certificateExpirationTime of the newest certificate. Agents renew at two
	// thirds of its life.
	// +optional
	CertificateExpirationTime *metav1.Time `json:"certificateExpirationTime,omitempty"`
	// journalID is the agent.journalID that was seen first under this identity,
	// or that a person has accepted since. While the agent reports another, it
	// has lost the journal of its actions: IdentityConflict has the reason
	// JournalLost.
	// +optional
	// +kubebuilder:validation:MaxLength=36
	JournalID string `json:"journalID,omitempty"`
}

// AssignedPolicy says which policy an endpoint obeys.
type AssignedPolicy struct {
	// name of the EndpointPolicy. Empty: none selects this endpoint, and the
	// defaults apply that are written at an EndpointPolicy's fields.
	// +optional
	Name LocalName `json:"name,omitempty"`
	// assignment is the signed order that tells the agent so.
	// +required
	Assignment Envelope `json:"assignment"`
	// offlineAfterSeconds is the age of lastSeenTime at which this machine is
	// offline: 4/3 × missed × interval of its policy. After a change to a shorter
	// one the longer counts until the machine has applied it and was heard again.
	// +optional
	// +kubebuilder:validation:Minimum=1
	OfflineAfterSeconds int32 `json:"offlineAfterSeconds,omitempty"`
}

// EndpointConnection is a session, or its absence.
type EndpointConnection struct {
	// channel by which actions reach the machine: WebSocket (a session is up, at
	// once), Heartbeat (no session, but heartbeats come over HTTPS: with the
	// next) or None (nothing comes).
	// +required
	Channel Channel `json:"channel"`
	// gateway holds the session; empty unless the channel is WebSocket. Its
	// Lease has the same name: gw-, five characters of the Pod's name, five
	// random ones for each start.
	// +optional
	Gateway LocalName `json:"gateway,omitempty"`
	// epoch is the agent's count of its own starts. With instanceID and
	// sessionNumber it tells which of two connections is the newer, and a
	// machine from its clone.
	// +optional
	Epoch int64 `json:"epoch,omitempty"`
	// instanceID is random for each start of the agent: 32 hexadecimal digits.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	InstanceID string `json:"instanceID,omitempty"`
	// sessionNumber counts the sessions that this start of the agent has tried.
	// +optional
	SessionNumber int64 `json:"sessionNumber,omitempty"`
	// sinceTime is when the channel became what it is.
	// +optional
	SinceTime *metav1.Time `json:"sinceTime,omitempty"`
	// instanceTime is when this start of the agent was first seen.
	// +optional
	InstanceTime *metav1.Time `json:"instanceTime,omitempty"`
	// previousInstanceID is the start before it: what still comes from that one
	// shortly after instanceTime is late, and after that a clone.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	PreviousInstanceID string `json:"previousInstanceID,omitempty"`
	// conflictInstanceID is the other instance while two machines use this
	// identity. To resolve it, enrol one of them again, or set the annotation
	// rollcall.dev/accept-instance to the ID of the true one (this one or
	// instanceID), which needs the verb lifecycle on endpoints.rollcall.dev.
	// +optional
	// +kubebuilder:validation:MaxLength=32
	ConflictInstanceID string `json:"conflictInstanceID,omitempty"`
	// conflictReason is how conflictInstanceID differs from instanceID: Forked
	// (both count the same starts: one machine is a copy of the other) or
	// RolledBack (it counts fewer, or was displaced before: a machine was
	// restored from a backup or a snapshot).
	// +optional
	ConflictReason ConflictReason `json:"conflictReason,omitempty"`
	// error is why there is no websocket, as the agent saw it, or that its
	// gateway is gone; empty when there is one, or none is wanted.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Error string `json:"error,omitempty"`
	// remoteAddress is the address that the gateway sees: the machine's, or that
	// of what stands in between.
	// +optional
	RemoteAddress Text `json:"remoteAddress,omitempty"`
}

// Channel is how actions reach an endpoint.
// +kubebuilder:validation:Enum=WebSocket;Heartbeat;None
type Channel string

const (
	// ChannelWebSocket says that a session is up.
	ChannelWebSocket Channel = "WebSocket"
	// ChannelHeartbeat says that heartbeats come over HTTPS.
	ChannelHeartbeat Channel = "Heartbeat"
	// ChannelNone says that nothing comes.
	ChannelNone Channel = "None"
)

// ConflictReason is how two instances of an agent that use one identity differ.
// +kubebuilder:validation:Enum=Forked;RolledBack
type ConflictReason string

const (
	// ConflictForked are two instances of the same epoch: a machine was cloned.
	ConflictForked ConflictReason = "Forked"
	// ConflictRolledBack is an instance of an earlier epoch, or one that another
	// has taken over from: a machine was restored from a backup or a snapshot.
	ConflictRolledBack ConflictReason = "RolledBack"
)

// EndpointAgent is what an agent says of itself.
type EndpointAgent struct {
	// version of the agent, a semantic version.
	// +optional
	Version Text `json:"version,omitempty"`
	// contentVersion is the version of the content in use; empty when there is
	// none.
	// +optional
	ContentVersion Text `json:"contentVersion,omitempty"`
	// contentError is why the newest content that was offered could not be
	// applied; empty when it was.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	ContentError string `json:"contentError,omitempty"`
	// upgradeError is why the newest agent that was offered was rolled back;
	// empty when it was not.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	UpgradeError string `json:"upgradeError,omitempty"`
	// policyID is the UID of the EndpointPolicy in use; empty for the defaults.
	// +optional
	// +kubebuilder:validation:MaxLength=36
	PolicyID string `json:"policyID,omitempty"`
	// policyRevision is the revision of that policy in use; absent for the
	// defaults.
	// +optional
	PolicyRevision int64 `json:"policyRevision,omitempty"`
	// capabilities are the types of action that this agent can do here, and the
	// versions of orders that it understands, at most 32.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Capabilities []Text `json:"capabilities,omitempty"`
	// isolation that the machine is in.
	// +optional
	Isolation Isolation `json:"isolation,omitempty"`
	// isolationActionUID is the last action that was obeyed on isolation.
	// +optional
	// +kubebuilder:validation:MaxLength=36
	IsolationActionUID string `json:"isolationActionUID,omitempty"`
	// proxyActionUID is the last action that was obeyed on the proxy.
	// +optional
	// +kubebuilder:validation:MaxLength=36
	ProxyActionUID string `json:"proxyActionUID,omitempty"`
	// proxy in use; empty when none is.
	// +optional
	Proxy Text `json:"proxy,omitempty"`
	// journalID is random for each journal of actions that the agent made. A new
	// one says that the old was lost: what was sent before can no longer be
	// answered for.
	// +optional
	// +kubebuilder:validation:MaxLength=36
	JournalID string `json:"journalID,omitempty"`
	// journalTime is when that journal was made.
	// +optional
	JournalTime *metav1.MicroTime `json:"journalTime,omitempty"`
	// journalFull says that the agent takes no new action until old ones are
	// settled.
	// +optional
	JournalFull bool `json:"journalFull,omitempty"`
	// rejectedOrders counts the orders that the agent refused to believe since
	// it started.
	// +optional
	RejectedOrders int64 `json:"rejectedOrders,omitempty"`
	// lastRejection is why it refused the newest of them.
	// +optional
	LastRejection Text `json:"lastRejection,omitempty"`
	// trustVersion is the version of the trust bundle that it holds.
	// +optional
	TrustVersion int64 `json:"trustVersion,omitempty"`
	// clockSkewSeconds is the machine's clock minus the server's, rounded to 10
	// seconds; absent below 10.
	// +optional
	ClockSkewSeconds *int32 `json:"clockSkewSeconds,omitempty"`
	// quarantined counts the files in the agent's vault.
	// +optional
	Quarantined int32 `json:"quarantined,omitempty"`
	// quarantine lists the newest files in the vault, at most 10.
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
	// path where it was; a long one is shortened from the left to 256
	// characters.
	// +required
	// +kubebuilder:validation:MaxLength=256
	Path string `json:"path"`
	// sha256 of its content, in lower-case hexadecimal.
	// +required
	SHA256 SHA256 `json:"sha256"`
	// quarantinedTime is when it came into the vault.
	// +required
	QuarantinedTime metav1.Time `json:"quarantinedTime"`
}

// EndpointInventory is what an agent says of its machine. Things that change by
// the minute are not here.
type EndpointInventory struct {
	// hostname of the machine.
	// +optional
	Hostname Text `json:"hostname,omitempty"`
	// machineID is the machine's own ID, hashed, as 64 hexadecimal digits; empty
	// if it has none.
	// +optional
	MachineID Text `json:"machineID,omitempty"`
	// os is the operating system.
	// +optional
	OS *EndpointOS `json:"os,omitempty"`
	// addresses of its network interfaces, at most 8.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=8
	Addresses []Text `json:"addresses,omitempty"`
	// cpus is the number of logical processors.
	// +optional
	CPUs int32 `json:"cpus,omitempty"`
	// memoryMiB is the memory in MiB, rounded to 64.
	// +optional
	MemoryMiB int64 `json:"memoryMiB,omitempty"`
	// model of the machine, as its maker calls it.
	// +optional
	Model Text `json:"model,omitempty"`
	// bootTime is when it was started.
	// +optional
	BootTime *metav1.Time `json:"bootTime,omitempty"`
}

// EndpointOS is an operating system.
type EndpointOS struct {
	// name, for instance Debian GNU/Linux.
	// +optional
	Name Text `json:"name,omitempty"`
	// version, for instance 13.
	// +optional
	Version Text `json:"version,omitempty"`
	// kernel release, for instance 6.12.48+deb13-amd64.
	// +optional
	Kernel Text `json:"kernel,omitempty"`
	// arch by Go's name, for instance amd64.
	// +optional
	Arch Text `json:"arch,omitempty"`
}

// Conditions of an Endpoint.
const (
	// EndpointOnline: heartbeats come. Unknown: never seen, or no gateway is
	// there to hear it.
	EndpointOnline = "Online"
	// EndpointInSync: the machine runs the policy, content, isolation and proxy
	// that are declared for it. Waiting for a sleeping laptop is
	// False/WaitingForEndpoint.
	EndpointInSync = "InSync"
	// EndpointHealthy: no open problem. The reason names the worst one:
	// SecurityEvent, ContentFailed, UpgradeRolledBack, ClockSkewed,
	// CertificateExpiring, CertificateExpired. Unknown while the endpoint is
	// offline.
	EndpointHealthy = "Healthy"
	// EndpointIdentityConflict: it is not certain which machine has this
	// identity, or what it has done; its actions are held. The reason names the
	// kind: Cloned, RolledBack, JournalLost, CertificateSuperseded.
	EndpointIdentityConflict = "IdentityConflict"
)
