package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Endpoint is one machine with an agent: a laptop, a server, a kiosk.
// Enrolment creates it, or binds to one that people declared before.
//
// spec is people's, status is the manager's and the gateway's. An Endpoint has
// no condition Ready: a laptop that sleeps is no failed deployment. Online,
// InSync and Healthy say apart whether it is there, whether it runs what is
// declared for it, and whether something is wrong with it.
//
// Labels are people's: those of the EnrollmentToken are set when the Endpoint
// is created and never again. Those under reported.rollcall.dev/ (os, arch)
// the manager copies from what the agent says.
//
// To find an endpoint: kubectl get fep --field-selector
// status.summary=Offline. The other fields to select by are spec.lifecycle,
// status.agent.version, status.agent.contentVersion, status.agent.isolation,
// status.connection.channel and status.connection.gateway.
//
// Deleting an Endpoint revokes its identity: the machine must enrol again.
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
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",message="the name must be a DNS label of at most 63 characters: every client prints it",fieldPath=".metadata"
type Endpoint struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object. The name is a DNS label of at most 63 characters.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is what people want of this machine. All of it is optional, and no
	// controller writes it.
	// +optional
	Spec EndpointSpec `json:"spec,omitempty"`
	// status is what is known of this machine. Each block has one writer, which
	// an admission policy enforces; what the agent says of itself is bounded, and
	// never trusted.
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status EndpointStatus `json:"status,omitempty"`
}

// EndpointSpec is what people want of a machine. No controller writes it.
type EndpointSpec struct {
	// displayName is a name for people, at most 63 characters. Default: the
	// hostname that the agent reports.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	DisplayName string `json:"displayName,omitempty"`
	// lifecycle of this machine. Default: Active. Changing it needs the verb
	// lifecycle on endpoints.rollcall.dev.
	// Active: it takes part.
	// Suspended: gateways refuse it until it is Active again; its actions wait.
	// Blocked: refused, and its machine may not enrol again while this object
	// exists.
	// Decommissioned: refused for good, as Blocked; a person removes the agent.
	// To come back: set Active, then enrol again.
	// +optional
	Lifecycle EndpointLifecycle `json:"lifecycle,omitempty"`
	// isolation to keep this machine in. Absent: not declared, the last action
	// decides. While it is declared, actions that would change it end Cancelled
	// with the reason DeclaredOtherwise. Declaring Isolated needs the verb
	// isolate on endpoints.rollcall.dev; taking that back, or declaring
	// Released, the verb release.
	// +optional
	Isolation Isolation `json:"isolation,omitempty"`
	// proxy to keep this machine's agent on. Absent: not declared, the last
	// action decides. Declaring, changing or removing it needs the verb proxy on
	// endpoints.rollcall.dev.
	// +optional
	Proxy *DeclaredProxy `json:"proxy,omitempty"`
}

// EndpointLifecycle is a stage in the life of an Endpoint.
// +kubebuilder:validation:Enum=Active;Suspended;Blocked;Decommissioned
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

const (
	// Isolated is a machine that reaches its gateway, what its policy allows,
	// and nothing else.
	Isolated Isolation = "Isolated"
	// Released is a machine that is not isolated.
	Released Isolation = "Released"
)

// DeclaredProxy is the proxy that an agent must use.
// +kubebuilder:validation:XValidation:rule="(self.mode == 'Manual') == has(self.url)",message="url goes with mode Manual, and only with it"
type DeclaredProxy struct {
	// mode is Direct (no proxy) or Manual (the one in url).
	// +required
	Mode ProxyMode `json:"mode"`
	// url of an HTTP CONNECT proxy: http://host:port or https://host:port, at
	// most 261 characters, for mode Manual only. Credentials are refused:
	// whoever may read this object would read them.
	// +optional
	URL ProxyURL `json:"url,omitempty"`
}

// ProxyMode says whether a DeclaredProxy is one.
// +kubebuilder:validation:Enum=Direct;Manual
type ProxyMode string

const (
	// ProxyDirect is no proxy.
	ProxyDirect ProxyMode = "Direct"
	// ProxyManual is the one in url.
	ProxyManual ProxyMode = "Manual"
)

// ProxyURL is http://host:port. Credentials are refused: everything here is
// readable by whoever may read the object.
// +kubebuilder:validation:MaxLength=261
// +kubebuilder:validation:XValidation:rule="self.matches('^https?://[^@/\\\\s]+:[0-9]{1,5}$')",message="must be http://host:port or https://host:port, without credentials"
type ProxyURL string

// AnnotationAcceptInstance on an Endpoint says which agent is the true one, of
// two that use its identity or of one that has lost its journal: the value is
// its instance ID. Setting it needs the verb lifecycle.
const AnnotationAcceptInstance = "rollcall.dev/accept-instance"

// AnnotationEnrolling marks an Endpoint that an unfinished enrolment has
// created, with the identity that it will get. It tells the Endpoint from one
// that a person declares under the same name at that moment.
const AnnotationEnrolling = "rollcall.dev/enrolling"

// EndpointList is a list of them.
// +kubebuilder:object:root=true
type EndpointList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the list.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items of the list.
	Items []Endpoint `json:"items"`
}
