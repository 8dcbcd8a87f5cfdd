package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// EnrollmentToken is the right to enrol machines into its namespace. The manager makes a Secret with the token itself.
// Deleting the EnrollmentToken revokes that right; machines that have enrolled stay.
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
type EnrollmentToken struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +required
	Spec EnrollmentTokenSpec `json:"spec"`
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status EnrollmentTokenStatus `json:"status,omitempty"`
}

// EnrollmentTokenSpec is the right to enrol.
// +kubebuilder:validation:XValidation:rule="has(self.endpointName) == has(oldSelf.endpointName) && (!has(self.endpointName) || self.endpointName == oldSelf.endpointName)",message="endpointName is immutable: create another token"
// +kubebuilder:validation:XValidation:rule="!has(self.endpointName) || !has(self.replace)",message="replace goes without endpointName: a token for one Endpoint always may"
type EnrollmentTokenSpec struct {
	// expiresAfterHours after it was created. 0: never.
	// +required
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=87600
	ExpiresAfterHours int32 `json:"expiresAfterHours"`
	// maxUses is how many enrolments it is good for. Default: no limit.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxUses *int32 `json:"maxUses,omitempty"`
	// endpointName makes it a token for this one Endpoint, whether it exists yet or not. It may also replace the identity of
	// one that has enrolled: this is how a machine that lost its identity comes back.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	EndpointName LocalName `json:"endpointName,omitempty"`
	// replace says whether a machine may take over an Endpoint that has enrolled: Never, or SameMachineOffline when it gives
	// the same machine ID and that Endpoint is not online. A machine ID is a claim, not a proof. Default: Never.
	// +optional
	// +kubebuilder:validation:Enum=Never;SameMachineOffline
	Replace string `json:"replace,omitempty"`
	// approval is Automatic, or Manual for people who run kubectl certificate approve. Default: Automatic.
	// +optional
	// +kubebuilder:validation:Enum=Automatic;Manual
	Approval string `json:"approval,omitempty"`
	// labels that a new Endpoint is created with. They are set once, and people's from then on.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	Labels map[string]LabelValue `json:"labels,omitempty"`
}

// EnrollmentTokenStatus is written by the manager.
type EnrollmentTokenStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions: Usable, or not, with the reason Expired or UsedUp. Neither is a failure: it was declared so.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// secretName is the Secret in the same namespace that has the token.
	// +optional
	SecretName LocalName `json:"secretName,omitempty"`
	// publicKey is the token's public half (Ed25519, DER SubjectPublicKeyInfo): enough to verify an enrolment, useless to make one.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	PublicKey []byte `json:"publicKey,omitempty"`
	// +optional
	ExpirationTime *metav1.Time `json:"expirationTime,omitempty"`
	// uses so far, raised before certificates are signed.
	// +optional
	Uses *int32 `json:"uses,omitempty"`
	// claims are enrolments under way: written with uses, removed once the Endpoint has the identity; a retry with the same key completes its claim.
	// +optional
	// +listType=map
	// +listMapKey=keySHA256
	// +kubebuilder:validation:MaxItems=50
	Claims []EnrollmentClaim `json:"claims,omitempty"`
	// lastDenial says why the manager refused the last enrolment that it refused: a tenant cannot see CertificateSigningRequests.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	LastDenial string `json:"lastDenial,omitempty"`
	// +optional
	LastDenialTime *metav1.Time `json:"lastDenialTime,omitempty"`
}

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
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items of the list.
	Items []EnrollmentToken `json:"items"`
}
