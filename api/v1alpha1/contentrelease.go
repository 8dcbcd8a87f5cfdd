package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ContentRelease is a version of the content that agents use (rules, lists):
// where it comes from, who may have it.
//
// The manager fetches it once, verifies its digest and its signature, keeps it
// in the artifact store and signs an offer. Gateways offer it with the next
// heartbeat of each endpoint; agents verify it again before they use it. An
// endpoint gets the highest version that is Active, verified and selects it,
// unless its policy pins another or delays it.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=ctr,categories=rollcall
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.spec.version`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.spec.state`
// +kubebuilder:printcolumn:name="Percent",type=integer,JSONPath=`.status.rollout.percent`
// +kubebuilder:printcolumn:name="Selected",type=integer,JSONPath=`.status.rollout.selected`
// +kubebuilder:printcolumn:name="Applied",type=integer,JSONPath=`.status.rollout.applied`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.rollout.failed`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.rollout.message`
// +kubebuilder:selectablefield:JSONPath=`.spec.version`
type ContentRelease struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the object.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// spec is the version, its source, and whom it is for. No controller writes
	// it.
	// +required
	Spec ContentReleaseSpec `json:"spec"`
	// status says what became of it. Written by the manager.
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status ReleaseStatus `json:"status,omitempty"`
}

// ContentReleaseList is a list of ContentReleases.
// +kubebuilder:object:root=true
type ContentReleaseList struct {
	metav1.TypeMeta `json:",inline"`
	// metadata of the list.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	// items of the list.
	Items []ContentRelease `json:"items"`
}

// ContentReleaseSpec is a version of the content.
type ContentReleaseSpec struct {
	// version of the content: one to four numbers joined by points. It orders
	// releases, number by number: 9 < 10, 2.9 < 2.10, 2 = 2.0. Two releases of a
	// namespace may not have the same: the older one counts. Immutable.
	// +required
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:Pattern=`^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="version is immutable: create another release"
	Version string `json:"version"`
	// source of the artifact. Immutable.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="source is immutable: create another release"
	Source ReleaseSource `json:"source"`
	// selector of the endpoints that may have it. Default: all of the namespace.
	// +optional
	Selector *EndpointSelector `json:"selector,omitempty"`
	// state that is wanted. Active: it is offered. Paused: it is offered to nobody
	// new; who has it keeps it. Withdrawn: it is taken back; who has it is offered
	// the highest version that remains. Default: Active.
	// +optional
	State ReleaseState `json:"state,omitempty"`
}

// ReleaseState is what people want of a release.
// +kubebuilder:validation:Enum=Active;Paused;Withdrawn
type ReleaseState string

const (
	// ReleaseActive offers the release. The default.
	ReleaseActive ReleaseState = "Active"
	// ReleasePaused offers it to nobody new; who has it keeps it.
	ReleasePaused ReleaseState = "Paused"
	// ReleaseWithdrawn takes it back.
	ReleaseWithdrawn ReleaseState = "Withdrawn"
)

// ReleaseSource is where the manager fetches an artifact from, once. What it
// fetches must have this digest and this signature.
// +kubebuilder:validation:ExactlyOneOf=https;configMap
type ReleaseSource struct {
	// sha256 of the artifact, in lower-case hexadecimal.
	// +required
	SHA256 SHA256 `json:"sha256"`
	// signature of the artifact: the text of a minisign signature file, by one of
	// the release keys. Their public halves are in the ConfigMap
	// rollcall-release-keys of the manager's namespace and, signed, in the trust
	// bundle that agents keep.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Signature string `json:"signature"`
	// https names a file on a web server.
	// +optional
	HTTPS *HTTPSSource `json:"https,omitempty"`
	// configMap names a key of a ConfigMap in the same namespace, for artifacts
	// that fit into one: up to about 1 MiB.
	// +optional
	ConfigMap *ConfigMapSource `json:"configMap,omitempty"`
}

// HTTPSSource is a file on a web server.
type HTTPSSource struct {
	// url of the file, for instance https://releases.example.com/content/1043.
	// Without credentials in it; redirects are followed to https only.
	// +required
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https://[^@\s]+$`
	URL string `json:"url"`
}

// ConfigMapSource is a key of a ConfigMap.
type ConfigMapSource struct {
	// name of the ConfigMap.
	// +required
	Name LocalName `json:"name"`
	// key whose bytes are the artifact, in data or binaryData.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// ReleaseStatus is what became of a release. Written by the manager.
type ReleaseStatus struct {
	// observedGeneration of the spec that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// conditions: Ready (verified, signed and offered as declared), Reconciling
	// while it is fetched, Stalled when it cannot be verified or its version is
	// taken, StoreNotShared when gateways may not see what the manager keeps.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// artifact in the store that agents download; absent until it was verified.
	// +optional
	Artifact *ReleaseArtifact `json:"artifact,omitempty"`
	// offer is the signed order that agents get. Gateways pass it on, they cannot
	// make one.
	// +optional
	Offer *Envelope `json:"offer,omitempty"`
	// sequence of the offer: it grows with every signing, for all releases of a
	// kind in a namespace.
	// +optional
	// +kubebuilder:validation:Maximum=9007199254740991
	Sequence int64 `json:"sequence,omitempty"`
	// rollout says who has it.
	// +optional
	Rollout *RolloutStatus `json:"rollout,omitempty"`
}

// ConditionStoreNotShared of a release: gateways run apart from the manager, and
// may not see the directory that it keeps artifacts in, so that no agent can
// download this one. It is there only while it is true.
const ConditionStoreNotShared = "StoreNotShared"

// ReleaseArtifact is a file in the artifact store.
type ReleaseArtifact struct {
	// sha256 of the file, and its name in the store.
	// +required
	SHA256 SHA256 `json:"sha256"`
	// sizeBytes of the file.
	// +required
	SizeBytes int64 `json:"sizeBytes"`
}

// RolloutStatus says who has a release. It is rewritten when its state changes,
// and for counts every 10 seconds at most.
type RolloutStatus struct {
	// percent of the selected endpoints that it is offered to: 100, or 0 when it
	// is offered to nobody.
	// +required
	Percent int32 `json:"percent"`
	// selected counts the enrolled endpoints that may have it.
	// +required
	Selected int32 `json:"selected"`
	// applied counts those of them that run this version.
	// +required
	Applied int32 `json:"applied"`
	// failed counts those of them that could not apply it.
	// +required
	Failed int32 `json:"failed"`
	// message says in words how far it is, and who is missing.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Message string `json:"message,omitempty"`
	// failures are some endpoints that failed, and why: at most 10.
	// +optional
	// +listType=map
	// +listMapKey=endpointName
	// +kubebuilder:validation:MaxItems=10
	Failures []EndpointFailure `json:"failures,omitempty"`
}
