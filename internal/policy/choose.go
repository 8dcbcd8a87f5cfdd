// Package policy decides which EndpointPolicy an endpoint obeys, and turns policies and assignments into orders. It does no I/O; times and
// keys are passed in.
package policy

import (
	"cmp"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/liveness"
)

// Defaults of an endpoint that no policy says otherwise about.
const (
	DefaultInterval = 5 * time.Minute
	DefaultMissed   = 3
)

// For is the policy that an endpoint with these labels obeys: the one with the highest priority, of equal ones the older, then the first by
// name; nil where none selects it. A policy that cannot be read selects nothing, unless an earlier state of it is signed and in use.
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
	selector, err := Selector(p.Spec.Selector)
	if err != nil || !selector.Matches(labels.Set(endpoint)) || p.DeletionTimestamp != nil {
		return false
	}
	if p.Status.Order != nil {
		return true
	}
	_, err = Settings(&p.Spec)
	return err == nil
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
			Key: r.Key, Operator: metav1.LabelSelectorOperator(r.Operator), Values: values,
		})
	}
	selector, err := metav1.LabelSelectorAsSelector(generic)
	if err != nil {
		return nil, fmt.Errorf("spec.selector: %w", err)
	}
	return selector, nil
}

// Pace is how often an endpoint speaks, and how long a silence means that it is offline.
type Pace struct {
	Interval     time.Duration
	OfflineAfter time.Duration
}

// PaceOf is what p demands; nil is the defaults.
func PaceOf(p *v1alpha1.EndpointPolicy) Pace {
	interval, missed := DefaultInterval, DefaultMissed
	if p != nil && p.Spec.Heartbeat != nil {
		h := p.Spec.Heartbeat
		if h.IntervalSeconds != nil {
			interval = time.Duration(*h.IntervalSeconds) * time.Second
		}
		missed = int(ptr.Deref(h.Missed, DefaultMissed))
	}
	return Pace{interval, liveness.OfflineAt(time.Time{}, interval, missed).Sub(time.Time{})}
}

// Adopt is the pace to judge an endpoint by: known, or what its policy demands now.
//
// A longer one counts at once. A shorter one counts only when the endpoint is known to have applied the policy, and lastSeen leaves it the
// time to be heard again before the new deadline: a policy that was just changed makes nobody look offline.
func (demanded Pace) Adopt(known Pace, applied bool, lastSeen, now time.Time) Pace {
	if known.OfflineAfter == 0 {
		return demanded
	}
	if demanded.OfflineAfter < known.OfflineAfter {
		if heard := now.Add(demanded.Interval * 4 / 3); !applied || heard.After(lastSeen.Add(demanded.OfflineAfter)) {
			return known
		}
	}
	return demanded
}
