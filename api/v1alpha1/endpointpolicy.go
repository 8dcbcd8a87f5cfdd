package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EndpointPolicy is a set of settings for the endpoints that it selects.
//
// Where several select one endpoint, the one with the highest priority is its
// whole policy; of equal ones the older, then the first by name. Nothing is
// merged: what applies to an endpoint can be read in the one policy that its
// status.policy names. What a policy does not set has the default that is
// written at the field, and so has everything where no policy selects.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=epp,categories=rollcall
// +kubebuilder:printcolumn:name="Priority",type=integer,JSONPath=`.spec.priority`
// +kubebuilder:printcolumn:name="Endpoints",type=integer,JSONPath=`.status.endpoints`
// +kubebuilder:printcolumn:name="Online",type=integer,JSONPath=`.status.online`
// +kubebuilder:printcolumn:name="Drifted",type=integer,JSONPath=`.status.drifted`
// +kubebuilder:printcolumn:name="Revision",type=integer,JSONPath=`.status.revision`
// +kubebuilder:printcolumn:name="Logs",type=string,priority=1,JSONPath=`.spec.logCollection.mode`
// +kubebuilder:printcolumn:name="Content",type=string,priority=1,JSONPath=`.spec.content.mode`
// +kubebuilder:printcolumn:name="Upgrade",type=string,priority=1,JSONPath=`.spec.upgrade.mode`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type EndpointPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is the settings, and whom they are for. No controller writes it.
	// +required
	Spec EndpointPolicySpec `json:"spec"`
	// status says whether the policy is in use, and by how many. Written by the
	// manager.
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status EndpointPolicyStatus `json:"status,omitempty"`
}

// EndpointPolicySpec is a set of settings.
type EndpointPolicySpec struct {
	// selector of the endpoints, by their labels. Default: all of the namespace.
	// +optional
	Selector *EndpointSelector `json:"selector,omitempty"`
	// priority among the policies that select the same endpoint: 0 to 1000, the
	// highest is its whole policy. Default: 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Priority *int32 `json:"priority,omitempty"`
	// heartbeat sets how often agents report, and after how long a silence an
	// endpoint is offline.
	// +optional
	Heartbeat *HeartbeatPolicy `json:"heartbeat,omitempty"`
	// commandChannel sets how actions reach an endpoint.
	// +optional
	CommandChannel *CommandChannelPolicy `json:"commandChannel,omitempty"`
	// logCollection sets whether agents ship their own logs.
	// +optional
	LogCollection *LogCollectionPolicy `json:"logCollection,omitempty"`
	// actions sets what may be done to an endpoint.
	// +optional
	Actions *ActionPolicy `json:"actions,omitempty"`
	// isolation sets what an isolated endpoint may still reach, besides the
	// gateway, loopback, DHCP, and DNS for the gateway's name.
	// +optional
	Isolation *IsolationPolicy `json:"isolation,omitempty"`
	// content sets when new content is taken.
	// +optional
	Content *ContentPolicy `json:"content,omitempty"`
	// upgrade sets whether and when agents upgrade themselves.
	// +optional
	Upgrade *UpgradePolicy `json:"upgrade,omitempty"`
	// transfer bounds the downloads and uploads of one endpoint. Budgets of a
	// whole gateway are its flags.
	// +optional
	Transfer *TransferPolicy `json:"transfer,omitempty"`
}

// HeartbeatPolicy sets how often agents speak.
type HeartbeatPolicy struct {
	// intervalSeconds between two heartbeats, ± 10 %: 1 to 86400 (a day).
	// Default: 300. Below 30 is for tests.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	IntervalSeconds *int32 `json:"intervalSeconds,omitempty"`
	// missed is how many heartbeats may be missed until an endpoint is offline:
	// 2 to 100. Default: 3. It is offline after a silence of missed × interval
	// at the earliest, and of 4/3 of that at the latest.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=100
	Missed *int32 `json:"missed,omitempty"`
	// reportIntervalSeconds between two status reports: 600 to 86400. Default:
	// 3600.
	// +optional
	// +kubebuilder:validation:Minimum=600
	// +kubebuilder:validation:Maximum=86400
	ReportIntervalSeconds *int32 `json:"reportIntervalSeconds,omitempty"`
}

// CommandChannelPolicy sets how actions reach an endpoint.
type CommandChannelPolicy struct {
	// mode is WebSocket (actions arrive at once) or HeartbeatOnly (the agent
	// keeps no websocket; actions arrive with its heartbeats). Default, also
	// without any policy: WebSocket.
	// +required
	Mode CommandChannelMode `json:"mode"`
	// pingIntervalSeconds of an idle websocket: 15 to 240. A longer one is
	// kinder to batteries, a shorter one to impatient proxies. Default: 30.
	// +optional
	// +kubebuilder:validation:Minimum=15
	// +kubebuilder:validation:Maximum=240
	PingIntervalSeconds *int32 `json:"pingIntervalSeconds,omitempty"`
}

// CommandChannelMode is how actions reach an endpoint.
// +kubebuilder:validation:Enum=WebSocket;HeartbeatOnly
type CommandChannelMode string

const (
	// CommandChannelWebSocket brings them at once. The default.
	CommandChannelWebSocket CommandChannelMode = "WebSocket"
	// CommandChannelHeartbeatOnly brings them with heartbeats.
	CommandChannelHeartbeatOnly CommandChannelMode = "HeartbeatOnly"
)

// LogCollectionPolicy sets whether agents ship their own logs.
type LogCollectionPolicy struct {
	// mode is Enabled or Disabled. Default, also without any policy: Enabled.
	// +required
	Mode LogCollectionMode `json:"mode"`
	// retentionDays is how long logs are kept: 1 to 365. Default: 14.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=365
	RetentionDays *int32 `json:"retentionDays,omitempty"`
}

// LogCollectionMode is whether agents ship their logs.
// +kubebuilder:validation:Enum=Enabled;Disabled
type LogCollectionMode string

const (
	// LogCollectionEnabled says that they do. The default.
	LogCollectionEnabled LogCollectionMode = "Enabled"
	// LogCollectionDisabled says that they do not.
	LogCollectionDisabled LogCollectionMode = "Disabled"
)

// ActionPolicy sets what may be done to an endpoint.
type ActionPolicy struct {
	// disabled are the types of action that the agents refuse, whoever asks.
	// Default: none.
	// +required
	// +listType=set
	// +kubebuilder:validation:MaxItems=12
	Disabled []ActionType `json:"disabled"`
}

// IsolationPolicy sets what an isolated endpoint may still reach, besides the
// gateway, loopback, DHCP and DNS for the gateway's name.
type IsolationPolicy struct {
	// allow lists networks such as 10.0.0.0/8, at most 64. Default: none.
	// +required
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Allow []CIDR `json:"allow"`
}

// ContentPolicy sets when new content is taken.
// +kubebuilder:validation:XValidation:rule="(self.mode == 'Delayed') == has(self.delayDays) && (self.mode == 'Pinned') == has(self.version)",message="delayDays goes with Delayed, version with Pinned, and nothing with Immediate"
type ContentPolicy struct {
	// mode is Immediate (the newest that is offered), Delayed (delayDays later)
	// or Pinned (the one in version). Default, without any policy: Immediate.
	// +required
	Mode ContentMode `json:"mode"`
	// delayDays after a release was created: 1 to 90. For mode Delayed only.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=90
	DelayDays *int32 `json:"delayDays,omitempty"`
	// version to stay on, at most 39 characters. A release with it must exist.
	// For mode Pinned only.
	// +optional
	// +kubebuilder:validation:MaxLength=39
	Version string `json:"version,omitempty"`
}

// ContentMode is when new content is taken.
// +kubebuilder:validation:Enum=Immediate;Delayed;Pinned
type ContentMode string

const (
	// ContentImmediate takes the newest that is offered. The default.
	ContentImmediate ContentMode = "Immediate"
	// ContentDelayed takes it some days later.
	ContentDelayed ContentMode = "Delayed"
	// ContentPinned takes one version, and no other.
	ContentPinned ContentMode = "Pinned"
)

// UpgradePolicy sets whether and when agents upgrade themselves.
type UpgradePolicy struct {
	// mode is Disabled or Automatic. Default, without any policy: Disabled.
	// +required
	Mode UpgradeMode `json:"mode"`
	// windows in which an upgrade may start, at most 14. Default: any time.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=14
	Windows []MaintenanceWindow `json:"windows,omitempty"`
}

// UpgradeMode is whether agents upgrade themselves.
// +kubebuilder:validation:Enum=Disabled;Automatic
type UpgradeMode string

const (
	// UpgradeDisabled says that they do not. The default.
	UpgradeDisabled UpgradeMode = "Disabled"
	// UpgradeAutomatic says that they do, in their windows.
	UpgradeAutomatic UpgradeMode = "Automatic"
)

// MaintenanceWindow recurs weekly.
type MaintenanceWindow struct {
	// days on which it opens, by their English names. Default: every day.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=7
	Days []Weekday `json:"days,omitempty"`
	// start of the window on the clock of timeZone, 00:00 to 23:59, for instance
	// 22:30.
	// +required
	// +kubebuilder:validation:MaxLength=5
	// +kubebuilder:validation:XValidation:rule="self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')",message="must be a time of day such as 22:30"
	Start string `json:"start"`
	// durationMinutes it stays open: 15 to 1440 (a day).
	// +required
	// +kubebuilder:validation:Minimum=15
	// +kubebuilder:validation:Maximum=1440
	DurationMinutes int32 `json:"durationMinutes"`
	// timeZone by its IANA name, for instance Europe/Berlin, at most 64
	// characters. Default: the endpoint's own.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	TimeZone string `json:"timeZone,omitempty"`
}

// Weekday in English.
// +kubebuilder:validation:Enum=Monday;Tuesday;Wednesday;Thursday;Friday;Saturday;Sunday
type Weekday string

// TransferPolicy bounds downloads and uploads of one endpoint. Budgets of a
// whole gateway are its flags.
type TransferPolicy struct {
	// downloadKiBPerSecond of one endpoint, in KiB per second: 16 to 1048576.
	// Default: no bound.
	// +optional
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=1048576
	DownloadKiBPerSecond *int32 `json:"downloadKiBPerSecond,omitempty"`
	// maxUploadMiB of one action, in MiB: 1 to 102400. Default: 1024.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=102400
	MaxUploadMiB *int32 `json:"maxUploadMiB,omitempty"`
	// quotaMiB of what is kept for one endpoint, in MiB: 1 to 1048576; the
	// oldest goes first. Default: 4096.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1048576
	QuotaMiB *int32 `json:"quotaMiB,omitempty"`
}

// EndpointPolicyStatus is written by the manager.
type EndpointPolicyStatus struct {
	// observedGeneration is the generation that the conditions speak of; -1
	// until the manager has looked at this object for the first time.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions. Ready: signed and in use. Stalled, only while it is true: a
	// person must set right what the message of Ready says; until then endpoints
	// keep the newest revision that was signed.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// endpoints that obey this policy, counted at most every minute.
	// +optional
	Endpoints *int32 `json:"endpoints,omitempty"`
	// online are those of them that are online.
	// +optional
	Online *int32 `json:"online,omitempty"`
	// drifted are those of them that do not run its newest revision.
	// +optional
	Drifted *int32 `json:"drifted,omitempty"`
	// revision grows by one whenever the settings change; from 1.
	// +optional
	Revision int64 `json:"revision,omitempty"`
	// order is this policy as agents get it, signed.
	// +optional
	Order *Envelope `json:"order,omitempty"`
}

// ConditionReady of an EndpointPolicy: it is signed and in use.
const ConditionReady = "Ready"

// EndpointPolicyList is a list of them.
// +kubebuilder:object:root=true
type EndpointPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the list.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items of the list.
	Items []EndpointPolicy `json:"items"`
}
