package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EndpointPolicy is a set of settings for the endpoints that it selects.
//
// Where several select one endpoint, the one with the highest priority is its whole policy; of equal ones the older, then the first by
// name. Nothing is merged. What the policy does not set has the default that is written at the field.
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
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +required
	Spec EndpointPolicySpec `json:"spec"`
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status EndpointPolicyStatus `json:"status,omitempty"`
}

// EndpointPolicySpec is a set of settings.
type EndpointPolicySpec struct {
	// selector of the endpoints. Absent: all of the namespace.
	// +optional
	Selector *EndpointSelector `json:"selector,omitempty"`
	// priority: higher wins. Default: 0.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Priority *int32 `json:"priority,omitempty"`
	// +optional
	Heartbeat *HeartbeatPolicy `json:"heartbeat,omitempty"`
	// +optional
	CommandChannel *CommandChannelPolicy `json:"commandChannel,omitempty"`
	// +optional
	LogCollection *LogCollectionPolicy `json:"logCollection,omitempty"`
	// +optional
	Actions *ActionPolicy `json:"actions,omitempty"`
	// +optional
	Isolation *IsolationPolicy `json:"isolation,omitempty"`
	// +optional
	Content *ContentPolicy `json:"content,omitempty"`
	// +optional
	Upgrade *UpgradePolicy `json:"upgrade,omitempty"`
	// +optional
	Transfer *TransferPolicy `json:"transfer,omitempty"`
}

// HeartbeatPolicy sets how often agents speak.
type HeartbeatPolicy struct {
	// intervalSeconds between heartbeats. Default: 300. Below 30 is for tests.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	IntervalSeconds *int32 `json:"intervalSeconds,omitempty"`
	// missed heartbeats until an endpoint is offline. Default: 3.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=100
	Missed *int32 `json:"missed,omitempty"`
	// reportIntervalSeconds between status reports. Default: 3600.
	// +optional
	// +kubebuilder:validation:Minimum=600
	// +kubebuilder:validation:Maximum=86400
	ReportIntervalSeconds *int32 `json:"reportIntervalSeconds,omitempty"`
}

// CommandChannelPolicy sets how actions reach an endpoint.
type CommandChannelPolicy struct {
	// mode is WebSocket (actions arrive at once) or HeartbeatOnly (the agent keeps no websocket; actions arrive with its
	// heartbeats). Default, also without any policy: WebSocket.
	// +required
	// +kubebuilder:validation:Enum=WebSocket;HeartbeatOnly
	Mode string `json:"mode"`
	// pingIntervalSeconds of an idle websocket; a longer one is kinder to batteries, a shorter one to impatient proxies. Default: 30.
	// +optional
	// +kubebuilder:validation:Minimum=15
	// +kubebuilder:validation:Maximum=240
	PingIntervalSeconds *int32 `json:"pingIntervalSeconds,omitempty"`
}

// LogCollectionPolicy sets whether agents ship their own logs.
type LogCollectionPolicy struct {
	// mode is Enabled or Disabled. Default, also without any policy: Enabled.
	// +required
	// +kubebuilder:validation:Enum=Enabled;Disabled
	Mode string `json:"mode"`
	// retentionDays in the store. Default: 14.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=365
	RetentionDays *int32 `json:"retentionDays,omitempty"`
}

// ActionPolicy sets what may be done to an endpoint.
type ActionPolicy struct {
	// disabled types end Unsupported, whoever asks.
	// +required
	// +listType=set
	// +kubebuilder:validation:MaxItems=12
	Disabled []ActionType `json:"disabled"`
}

// IsolationPolicy sets what an isolated endpoint may still reach, besides the gateway, loopback, DHCP and DNS for the gateway's name.
type IsolationPolicy struct {
	// allow lists networks.
	// +required
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Allow []CIDR `json:"allow"`
}

// ContentPolicy sets when new content is taken.
// +kubebuilder:validation:XValidation:rule="(self.mode == 'Delayed') == has(self.delayDays) && (self.mode == 'Pinned') == has(self.version)",message="delayDays goes with Delayed, version with Pinned, and nothing with Immediate"
type ContentPolicy struct {
	// mode is Immediate, Delayed or Pinned. Default, without any policy: Immediate.
	// +required
	// +kubebuilder:validation:Enum=Immediate;Delayed;Pinned
	Mode string `json:"mode"`
	// delayDays after a release was created.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=90
	DelayDays *int32 `json:"delayDays,omitempty"`
	// version to stay on. A release with it must exist.
	// +optional
	// +kubebuilder:validation:MaxLength=39
	Version string `json:"version,omitempty"`
}

// UpgradePolicy sets whether and when agents upgrade themselves.
type UpgradePolicy struct {
	// mode is Disabled or Automatic. Default, without any policy: Disabled.
	// +required
	// +kubebuilder:validation:Enum=Disabled;Automatic
	Mode string `json:"mode"`
	// windows in which an upgrade may start. Absent: any time.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=14
	Windows []MaintenanceWindow `json:"windows,omitempty"`
}

// MaintenanceWindow recurs weekly.
type MaintenanceWindow struct {
	// days on which it opens. Absent: every day.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=7
	Days []Weekday `json:"days,omitempty"`
	// start, for instance 22:30.
	// +required
	// +kubebuilder:validation:MaxLength=5
	// +kubebuilder:validation:Pattern=`^([01][0-9]|2[0-3]):[0-5][0-9]$`
	Start string `json:"start"`
	// durationMinutes it stays open.
	// +required
	// +kubebuilder:validation:Minimum=15
	// +kubebuilder:validation:Maximum=1440
	DurationMinutes int32 `json:"durationMinutes"`
	// timeZone, for instance Europe/Berlin. Absent: the endpoint's own.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	TimeZone string `json:"timeZone,omitempty"`
}

// Weekday in English.
// +kubebuilder:validation:Enum=Monday;Tuesday;Wednesday;Thursday;Friday;Saturday;Sunday
type Weekday string

// TransferPolicy bounds downloads and uploads of one endpoint. Budgets of a whole gateway are its flags.
type TransferPolicy struct {
	// downloadKiBPerSecond. Default: no bound.
	// +optional
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:validation:Maximum=1048576
	DownloadKiBPerSecond *int32 `json:"downloadKiBPerSecond,omitempty"`
	// maxUploadMiB of one action. Default: 1024.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=102400
	MaxUploadMiB *int32 `json:"maxUploadMiB,omitempty"`
	// quotaMiB of what is kept for one endpoint; the oldest goes first. Default: 4096.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1048576
	QuotaMiB *int32 `json:"quotaMiB,omitempty"`
}

// EndpointPolicyStatus is written by the manager.
type EndpointPolicyStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions: Ready (signed and in use); Stalled when it names what does not exist.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// endpoints that obey it, those of them online, and those that do not run its newest revision; counted at most every minute.
	// +optional
	Endpoints *int32 `json:"endpoints,omitempty"`
	// +optional
	Online *int32 `json:"online,omitempty"`
	// +optional
	Drifted *int32 `json:"drifted,omitempty"`
	// revision grows by one whenever the settings change.
	// +optional
	Revision int64 `json:"revision,omitempty"`
	// order is this policy as agents get it, signed.
	// +optional
	Order *Envelope `json:"order,omitempty"`
}

// EndpointPolicyList is a list of them.
// +kubebuilder:object:root=true
type EndpointPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items of the list.
	Items []EndpointPolicy `json:"items"`
}
