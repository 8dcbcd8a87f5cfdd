package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "rollcall.dev", Version: "v1alpha1"}

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&ContentRelease{}, &ContentReleaseList{},
		&Endpoint{}, &EndpointList{},
		&EndpointAction{}, &EndpointActionList{},
		&EndpointPolicy{}, &EndpointPolicyList{},
		&EnrollmentToken{}, &EnrollmentTokenList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
