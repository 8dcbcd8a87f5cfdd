// Package v1alpha1 is the API of Rollcall: endpoints, what is done to them, and what they run.
// +kubebuilder:object:generate=true
// +groupName=rollcall.dev
package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// The first lines of the comments in this package become the descriptions that
// `kubectl explain` prints. It keeps line breaks and wraps at 76 columns, so no
// line of a field's comment is longer than that.

// ActionType names a deed. Agents list the ones they can do as capabilities, by
// the same names.
// +kubebuilder:validation:Enum=QuarantineFile;RestoreFile;TerminateProcess;IsolateEndpoint;CancelIsolation;LiveTerminal;SetEndpointProxy;DisableEndpointProxy;RetrieveFiles;RetrieveSecurityEventData;RetrieveSupportFile;PerformHeartbeat
type ActionType string

// The types of action.
const (
	QuarantineFile            ActionType = "QuarantineFile"
	RestoreFile               ActionType = "RestoreFile"
	TerminateProcess          ActionType = "TerminateProcess"
	IsolateEndpoint           ActionType = "IsolateEndpoint"
	CancelIsolation           ActionType = "CancelIsolation"
	LiveTerminal              ActionType = "LiveTerminal"
	SetEndpointProxy          ActionType = "SetEndpointProxy"
	DisableEndpointProxy      ActionType = "DisableEndpointProxy"
	RetrieveFiles             ActionType = "RetrieveFiles"
	RetrieveSecurityEventData ActionType = "RetrieveSecurityEventData"
	RetrieveSupportFile       ActionType = "RetrieveSupportFile"
	PerformHeartbeat          ActionType = "PerformHeartbeat"
)

// LocalName is the name of an object in the same namespace.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
type LocalName string

// Text is a short printable value, often one that an agent reported: bounded,
// never trusted.
// +kubebuilder:validation:MaxLength=128
type Text string

// FilePath is an absolute path on a machine.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=4096
type FilePath string

// SHA256 is a digest in lower-case hexadecimal.
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
type SHA256 string

// LabelValue is the value of a label.
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:XValidation:rule="self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$')",message="must be the value of a label: letters, digits, '-', '_', '.', the first and the last a letter or a digit"
type LabelValue string

// CIDR is a network, for instance 10.0.0.0/8.
// +kubebuilder:validation:MaxLength=43
// +kubebuilder:validation:XValidation:rule="isCIDR(self)",message="must be a network such as 10.0.0.0/8"
type CIDR string

// Envelope is a signed message in the DSSE form
// (github.com/secure-systems-lab/dsse): an order that the manager signed, or a
// proof that an agent signed. The payload's bytes are exactly the ones that
// were signed.
type Envelope struct {
	// payloadType is the media type of the payload, for instance
	// application/vnd.rollcall.policy.v1+json. It is signed with the payload.
	// +required
	// +kubebuilder:validation:MaxLength=128
	PayloadType string `json:"payloadType"`
	// payload is the message, JSON in base64, byte for byte as it was signed.
	// +required
	// +kubebuilder:validation:MaxLength=43692
	Payload []byte `json:"payload"`
	// signatures of the payload and its type, 1 to 4. One by a key that is good
	// for it is enough.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	Signatures []EnvelopeSignature `json:"signatures"`
}

// EnvelopeSignature is one signature.
type EnvelopeSignature struct {
	// keyid is the SHA-256 of the key that made the signature, in hexadecimal: a
	// hint, never trusted.
	// +optional
	KeyID Text `json:"keyid,omitempty"`
	// sig is the signature in base64: Ed25519, or ECDSA P-256 in ASN.1 DER.
	// +required
	// +kubebuilder:validation:MaxLength=128
	Sig []byte `json:"sig"`
}

// EndpointSelector picks Endpoints of the same namespace by their labels. All
// requirements must hold; none at all picks every Endpoint.
// +structType=atomic
type EndpointSelector struct {
	// matchLabels are labels that an Endpoint must have, at most 16. Each is the
	// same as a requirement with the operator In and one value.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(k, !format.qualifiedName().validate(k).hasValue())",message="each key must be a label key such as device or example.com/site"
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`
	// matchExpressions are requirements on labels, at most 16.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	MatchExpressions []EndpointSelectorRequirement `json:"matchExpressions,omitempty"`
}

// EndpointSelectorRequirement is one requirement, as in
// metav1.LabelSelectorRequirement, but bounded.
// +kubebuilder:validation:XValidation:rule="(self.operator in ['In','NotIn']) == has(self.values)",message="values goes with In and NotIn, and only with them"
type EndpointSelectorRequirement struct {
	// key of the label, for instance device or example.com/site.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:XValidation:rule="!format.qualifiedName().validate(self).hasValue()",message="must be a label key such as device or example.com/site"
	Key string `json:"key"`
	// operator relates the key to the values. In: the label is there, with one of
	// the values. NotIn: it is not there, or has another value. Exists,
	// DoesNotExist: the label is there, or is not, whatever its value.
	// +required
	// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
	Operator metav1.LabelSelectorOperator `json:"operator"`
	// values to compare with, 1 to 32. They go with In and NotIn, and only with
	// them.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Values []LabelValue `json:"values,omitempty"`
}

// ConditionStalled of every kind: it will not be as it was declared until a
// person does something. It is there only while it is true, as kstatus
// (sigs.k8s.io/cli-utils) has it.
const ConditionStalled = "Stalled"

// ConditionReconciling of every kind: it will be as it was declared by itself,
// and is not yet. It is there only while it is true, as kstatus has it.
const ConditionReconciling = "Reconciling"

// EndpointFailure is one endpoint that failed.
type EndpointFailure struct {
	// endpointName is which.
	// +required
	EndpointName LocalName `json:"endpointName"`
	// reason in one word.
	// +required
	Reason Text `json:"reason"`
	// message in words.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message,omitempty"`
}
