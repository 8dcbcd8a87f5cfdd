// Package v1alpha1 is the API of Rollcall: endpoints, what is done to them, and what they run.
// +kubebuilder:object:generate=true
// +groupName=rollcall.dev
package v1alpha1


// ActionType names a deed. Agents list the ones they can do as capabilities, by the same names.
// +kubebuilder:validation:Enum=QuarantineFile;RestoreFile;TerminateProcess;IsolateEndpoint;CancelIsolation;LiveTerminal;SetEndpointProxy;DisableEndpointProxy;RetrieveFiles;RetrieveSecurityEventData;RetrieveSupportFile;PerformHeartbeat
type ActionType string

// LocalName is the name of an object in the same namespace.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
type LocalName string

// Text is a short printable value, often one that an agent reported: bounded, never trusted.
// +kubebuilder:validation:MaxLength=128
type Text string

// SHA256 is a digest in lower-case hexadecimal.
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
type SHA256 string

// LabelValue is the value of a label.
// +kubebuilder:validation:MaxLength=63
type LabelValue string

// Envelope is a signed message in the DSSE form (github.com/secure-systems-lab/dsse): an order that the manager signed, or a
// proof that an agent signed. The payload's bytes are exactly the ones that were signed.
type Envelope struct {
	// payloadType is the media type of the payload, for instance application/vnd.rollcall.action.v1+json.
	// +required
	// +kubebuilder:validation:MaxLength=128
	PayloadType string `json:"payloadType"`
	// payload is the message, byte for byte.
	// +required
	// +kubebuilder:validation:MaxLength=43692
	Payload []byte `json:"payload"`
	// signatures of the payload and its type.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	Signatures []EnvelopeSignature `json:"signatures"`
}

// EnvelopeSignature is one signature.
type EnvelopeSignature struct {
	// keyid is a hint which key made it; it is never trusted.
	// +optional
	KeyID Text `json:"keyid,omitempty"`
	// sig is the signature.
	// +required
	// +kubebuilder:validation:MaxLength=128
	Sig []byte `json:"sig"`
}

// EndpointSelector picks Endpoints of the same namespace by their labels. All requirements must hold;
// none at all picks every Endpoint.
// +structType=atomic
type EndpointSelector struct {
	// matchLabels are labels that an Endpoint must have.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`
	// matchExpressions are requirements on labels.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	MatchExpressions []EndpointSelectorRequirement `json:"matchExpressions,omitempty"`
}

// EndpointSelectorRequirement is one requirement, as in metav1.LabelSelectorRequirement, but bounded.
// +kubebuilder:validation:XValidation:rule="(self.operator in ['In','NotIn']) == has(self.values)",message="values goes with In and NotIn, and only with them"
type EndpointSelectorRequirement struct {
	// key of the label.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	Key string `json:"key"`
	// operator relates the key to the values.
	// +required
	// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
	Operator string `json:"operator"`
	// values to compare with.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Values []LabelValue `json:"values,omitempty"`
}

// CIDR is a network, for instance 10.0.0.0/8.
// +kubebuilder:validation:MaxLength=43
// +kubebuilder:validation:XValidation:rule="isCIDR(self)",message="must be a network such as 10.0.0.0/8"
type CIDR string
