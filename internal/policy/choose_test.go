package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

var epoch = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// signed is a policy in use.
func signed(name string, priority *int32, age time.Duration, selector *v1alpha1.EndpointSelector) v1alpha1.EndpointPolicy {
	return v1alpha1.EndpointPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(epoch.Add(-age))},
		Spec:       v1alpha1.EndpointPolicySpec{Priority: priority, Selector: selector},
		Status:     v1alpha1.EndpointPolicyStatus{Order: &v1alpha1.Envelope{}},
	}
}

func TestFor(t *testing.T) {
	laptop := &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{"device": "laptop"}}
	unsigned := signed("unsigned", ptr.To[int32](1000), 0, nil)
	unsigned.Status.Order = nil
	going := signed("going", ptr.To[int32](1000), 0, nil)
	going.DeletionTimestamp = &metav1.Time{Time: epoch}
	for _, tt := range []struct {
		name     string
		policies []v1alpha1.EndpointPolicy
		want     string
	}{
		{name: "there is none"},
		{name: "one without a selector selects all", want: "all", policies: []v1alpha1.EndpointPolicy{signed("all", nil, 0, nil)}},
		{name: "none selects it", policies: []v1alpha1.EndpointPolicy{
			signed("servers", nil, 0, &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{"device": "server"}}),
		}},
		{name: "the higher priority", want: "high", policies: []v1alpha1.EndpointPolicy{
			signed("low", nil, time.Hour, nil), signed("high", ptr.To[int32](1), 0, laptop),
		}},
		{name: "no priority is 0", want: "older", policies: []v1alpha1.EndpointPolicy{
			signed("a", ptr.To[int32](0), 0, nil), signed("older", nil, time.Hour, nil),
		}},
		{name: "of equal priority the older", want: "older", policies: []v1alpha1.EndpointPolicy{
			signed("a-newer", ptr.To[int32](7), 0, nil), signed("older", ptr.To[int32](7), time.Second, nil),
		}},
		{name: "of equal age the first by name", want: "a", policies: []v1alpha1.EndpointPolicy{
			signed("b", nil, 0, nil), signed("a", nil, 0, nil), signed("c", nil, 0, nil),
		}},
		{name: "not one that is not signed yet", want: "all", policies: []v1alpha1.EndpointPolicy{unsigned, signed("all", nil, 0, nil)}},
		{name: "not one that is being deleted", want: "all", policies: []v1alpha1.EndpointPolicy{going, signed("all", nil, 0, nil)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if p := For(map[string]string{"device": "laptop"}, tt.policies); p != nil {
				got = p.Name
			}
			if got != tt.want {
				t.Errorf("the endpoint obeys %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSelector(t *testing.T) {
	in := func(op metav1.LabelSelectorOperator, key string, values ...v1alpha1.LabelValue) *v1alpha1.EndpointSelector {
		return &v1alpha1.EndpointSelector{MatchExpressions: []v1alpha1.EndpointSelectorRequirement{{Key: key, Operator: op, Values: values}}}
	}
	both := in(metav1.LabelSelectorOpExists, "device")
	both.MatchLabels = map[string]v1alpha1.LabelValue{"site": "lab"}
	for _, tt := range []struct {
		name     string
		selector *v1alpha1.EndpointSelector
		want     bool
	}{
		{"none", nil, true},
		{"empty", &v1alpha1.EndpointSelector{}, true},
		{"In", in(metav1.LabelSelectorOpIn, "device", "kiosk", "laptop"), true},
		{"In, another value", in(metav1.LabelSelectorOpIn, "device", "kiosk"), false},
		{"NotIn", in(metav1.LabelSelectorOpNotIn, "device", "kiosk"), true},
		{"NotIn, absent", in(metav1.LabelSelectorOpNotIn, "other", "kiosk"), true},
		{"NotIn, that value", in(metav1.LabelSelectorOpNotIn, "device", "laptop"), false},
		{"Exists", in(metav1.LabelSelectorOpExists, "device"), true},
		{"Exists, absent", in(metav1.LabelSelectorOpExists, "other"), false},
		{"DoesNotExist", in(metav1.LabelSelectorOpDoesNotExist, "other"), true},
		{"DoesNotExist, present", in(metav1.LabelSelectorOpDoesNotExist, "device"), false},
		{"all requirements must hold", both, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			selects := For(map[string]string{"device": "laptop"}, []v1alpha1.EndpointPolicy{signed("p", nil, 0, tt.selector)}) != nil
			if selects != tt.want {
				t.Errorf("selects: %v, want %v", selects, tt.want)
			}
		})
	}
	t.Run("what is no selector is told, and selects nothing", func(t *testing.T) {
		for _, wrong := range []*v1alpha1.EndpointSelector{in("Near", "device"), in(metav1.LabelSelectorOpIn, "device"), in(metav1.LabelSelectorOpExists, "de vice")} {
			if _, err := Selector(wrong); err == nil || !strings.Contains(err.Error(), "spec.selector") {
				t.Errorf("%+v gives %v, want an error that names spec.selector", wrong.MatchExpressions, err)
			}
			if For(nil, []v1alpha1.EndpointPolicy{signed("p", nil, 0, wrong)}) != nil {
				t.Errorf("%+v selects", wrong.MatchExpressions)
			}
		}
	})
}

// The order of a list decides nothing, and no policy beats the chosen one.
func TestForIsTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var policies []v1alpha1.EndpointPolicy
		for i := range rapid.IntRange(1, 6).Draw(t, "n") {
			p := signed(fmt.Sprintf("p%d", i), nil, time.Duration(rapid.IntRange(0, 2).Draw(t, "age"))*time.Second, nil)
			if rapid.Bool().Draw(t, "has priority") {
				p.Spec.Priority = ptr.To(rapid.Int32Range(0, 2).Draw(t, "priority"))
			}
			policies = append(policies, p)
		}
		got := *For(nil, policies)
		for _, other := range policies {
			a, b := ptr.Deref(got.Spec.Priority, 0), ptr.Deref(other.Spec.Priority, 0)
			older := other.CreationTimestamp.Before(&got.CreationTimestamp)
			if b > a || b == a && older || b == a && other.CreationTimestamp.Equal(&got.CreationTimestamp) && other.Name < got.Name {
				t.Fatalf("%s was chosen, but %s comes before it", got.Name, other.Name)
			}
		}
		slices.Reverse(policies)
		if again := For(nil, policies); again.Name != got.Name {
			t.Fatalf("%s, and in reverse order %s", got.Name, again.Name)
		}
	})
}
