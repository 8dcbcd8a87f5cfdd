// Package policy decides which EndpointPolicy an endpoint obeys, and turns policies and assignments into orders. It does no I/O; times and
// keys are passed in.
package policy

import (
	"cmp"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// For is the policy that an endpoint with these labels obeys: the one with the highest priority, of equal ones the older, then the first by
// name; nil where none selects it. A policy that is not signed yet, or being deleted, selects nothing: no agent could obey it.
func For(endpoint map[string]string, policies []v1alpha1.EndpointPolicy) *v1alpha1.EndpointPolicy {
	var best *v1alpha1.EndpointPolicy
	for i := range policies {
		p := &policies[i]
		if (best == nil || before(p, best)) && selects(p, endpoint) {
			best = p
		}
	}
	return best
}

func before(a, b *v1alpha1.EndpointPolicy) bool {
	return cmp.Or(
		-cmp.Compare(ptr.Deref(a.Spec.Priority, 0), ptr.Deref(b.Spec.Priority, 0)),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Name, b.Name),
	) < 0
}

func selects(p *v1alpha1.EndpointPolicy, endpoint map[string]string) bool {
	if p.Status.Order == nil || p.DeletionTimestamp != nil {
		return false
	}
	selector, err := Selector(p.Spec.Selector)
	return err == nil && selector.Matches(labels.Set(endpoint))
}

// Selector is s in the form that matches labels. Its errors name the requirement that is not one.
func Selector(s *v1alpha1.EndpointSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	generic := &metav1.LabelSelector{}
	for key, value := range s.MatchLabels {
		metav1.AddLabelToSelector(generic, key, string(value))
	}
	for _, r := range s.MatchExpressions {
		values := make([]string, len(r.Values))
		for i, v := range r.Values {
			values[i] = string(v)
		}
		generic.MatchExpressions = append(generic.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: r.Key, Operator: r.Operator, Values: values,
		})
	}
	selector, err := metav1.LabelSelectorAsSelector(generic)
	if err != nil {
		return nil, fmt.Errorf("spec.selector: %w", err)
	}
	return selector, nil
}
