package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EnrollmentToken is the right to enrol machines into its namespace.
//
// The manager makes the Secret <name>-token beside it. Its key token is the
// token itself, its key install a line that installs an agent with it. Whoever
// reads that Secret can enrol machines, and nothing else.
//
// Deleting the EnrollmentToken revokes the right; machines that have enrolled
// stay. Why the last machine was refused: kubectl describe ept.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=ept,categories=rollcall
// +kubebuilder:printcolumn:name="Uses",type=integer,JSONPath=`.status.uses`
// +kubebuilder:printcolumn:name="Max",type=integer,JSONPath=`.spec.maxUses`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.status.expirationTime`
// +kubebuilder:printcolumn:name="Usable",type=string,JSONPath=`.status.conditions[?(@.type=="Usable")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Usable")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="the name may have 63 characters at most: its Secret is named after it",fieldPath=".metadata"
type EnrollmentToken struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object. The name has 63 characters at most.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is the right to enrol, and its limits. No controller writes it.
	// +required
	Spec EnrollmentTokenSpec `json:"spec"`
	// status says whether the token can be used, and how often it was. Written
	// by the manager.
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status EnrollmentTokenStatus `json:"status,omitempty"`
}

// EnrollmentTokenSpec is the right to enrol.
// +kubebuilder:validation:XValidation:rule="has(self.endpointName) == has(oldSelf.endpointName) && (!has(self.endpointName) || self.endpointName == oldSelf.endpointName)",message="endpointName is immutable: create another token"
// +kubebuilder:validation:XValidation:rule="!has(self.endpointName) || !has(self.replace)",message="replace goes without endpointName: a token for one Endpoint always may"
type EnrollmentTokenSpec struct {
	// expiresAfterHours is how many hours after its creation the token expires:
	// 0 to 87600 (ten years). 0: never.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=87600
	ExpiresAfterHours int32 `json:"expiresAfterHours"`
	// maxUses is how many enrolments it is good for: 1 to 1000000. A machine
	// that tries again with the same key uses it once. Default: no limit.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxUses *int32 `json:"maxUses,omitempty"`
	// endpointName makes it a token for this one Endpoint, whether that exists
	// yet or not. It may also replace the identity of one that has enrolled:
	// this is how a machine that lost its identity comes back. At most 63
	// characters; immutable.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="!self.contains('.')",message="must be a DNS label, as the name of an Endpoint is"
	EndpointName LocalName `json:"endpointName,omitempty"`
	// replace says whether a machine may take over an Endpoint that has
	// enrolled: Never, or SameMachineOffline when it gives the same machine ID
	// and that Endpoint is not online. A machine ID is a claim, not a proof.
	// Goes without endpointName. Default: Never.
	// +optional
	Replace ReplacePolicy `json:"replace,omitempty"`
	// approval is Automatic, or Manual for people who run kubectl certificate
	// approve. Default: Automatic.
	// +optional
	Approval ApprovalPolicy `json:"approval,omitempty"`
	// labels that a new Endpoint is created with, at most 16. They are set once,
	// and people's from then on.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(k, !format.qualifiedName().validate(k).hasValue())",message="each key must be a label key such as device or example.com/site"
	Labels map[string]LabelValue `json:"labels,omitempty"`
}

// ReplacePolicy is whether a machine may take over an Endpoint that has
// enrolled.
// +kubebuilder:validation:Enum=Never;SameMachineOffline
type ReplacePolicy string

const (
	// ReplaceNever gives it an Endpoint of its own. The default.
	ReplaceNever ReplacePolicy = "Never"
	// ReplaceSameMachineOffline lets it if it gives the same machine ID, and that
	// Endpoint is not online.
	ReplaceSameMachineOffline ReplacePolicy = "SameMachineOffline"
)

// ApprovalPolicy is who approves an enrolment.
// +kubebuilder:validation:Enum=Automatic;Manual
type ApprovalPolicy string

const (
	// ApprovalAutomatic leaves it to the manager. The default.
	ApprovalAutomatic ApprovalPolicy = "Automatic"
	// ApprovalManual leaves it to a person, by kubectl certificate approve.
	ApprovalManual ApprovalPolicy = "Manual"
)

// EnrollmentTokenStatus is written by the manager.
type EnrollmentTokenStatus struct {
	// observedGeneration is the generation that the conditions speak of; -1
	// until the manager has looked at this object for the first time.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions. Usable: machines can enrol with it. False with the reason
	// Expired or UsedUp, which is no failure: it was declared so. Reconciling,
	// only while it is true: its Secret waits for an older one to go. Stalled,
	// only while it is true: a person must do something, as the message says,
	// for a Secret is in its way (SecretExists), or the fleet's token key was
	// made anew (KeyReplaced).
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// secretName is the Secret in the same namespace that has the token.
	// +optional
	SecretName LocalName `json:"secretName,omitempty"`
	// publicKey is the token's public half (Ed25519, DER SubjectPublicKeyInfo,
	// base64): enough to verify an enrolment, useless to make one.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	PublicKey []byte `json:"publicKey,omitempty"`
	// expirationTime is when the token expires; absent: never.
	// +optional
	ExpirationTime *metav1.Time `json:"expirationTime,omitempty"`
	// uses so far: raised before the certificate is signed.
	// +optional
	Uses *int32 `json:"uses,omitempty"`
	// claims are enrolments under way, at most 50: written with uses, removed
	// once the Endpoint has the identity. A retry with the same key completes
	// its claim.
	// +optional
	// +listType=map
	// +listMapKey=keySHA256
	// +kubebuilder:validation:MaxItems=50
	Claims []EnrollmentClaim `json:"claims,omitempty"`
	// lastDenial says why the manager refused the last enrolment that it
	// refused: a tenant cannot see CertificateSigningRequests. At most 256
	// characters.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	LastDenial string `json:"lastDenial,omitempty"`
	// lastDenialTime is when that was.
	// +optional
	LastDenialTime *metav1.Time `json:"lastDenialTime,omitempty"`
}

// TokenUsable of an EnrollmentToken: machines can enrol with it.
const TokenUsable = "Usable"

// EnrollmentClaim is an enrolment under way.
type EnrollmentClaim struct {
	// keySHA256 is the digest of the agent's public key.
	// +required
	KeySHA256 SHA256 `json:"keySHA256"`
	// endpointName is the Endpoint that it gets.
	// +required
	EndpointName LocalName `json:"endpointName"`
	// identityID is the identity that it gets.
	// +required
	// +kubebuilder:validation:MaxLength=36
	IdentityID string `json:"identityID"`
}

// EnrollmentTokenList is a list of them.
// +kubebuilder:object:root=true
type EnrollmentTokenList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the list.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items of the list.
	Items []EnrollmentToken `json:"items"`
}
