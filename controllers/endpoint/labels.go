package endpoint

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// Labels that are copied from what an agent reports: claims, to select by.
const (
	labelOS   = "reported.rollcall.dev/os"
	labelArch = "reported.rollcall.dev/arch"
)

// label copies what the agent has reported into labels, and tells whether one has changed. What was reported once stays until something else is.
func label(ep *v1alpha1.Endpoint) (changed bool) {
	if ep.Status.Inventory == nil || ep.Status.Inventory.OS == nil {
		return false
	}
	for key, reported := range map[string]v1alpha1.Text{labelOS: ep.Status.Inventory.OS.Name, labelArch: ep.Status.Inventory.OS.Arch} {
		if value := labelValue(string(reported)); value != "" && ep.Labels[key] != value {
			metav1.SetMetaDataLabel(&ep.ObjectMeta, key, value)
			changed = true
		}
	}
	return changed
}

// labelValue makes a label's value of a reported text: in lower case, with hyphens for what a label cannot hold.
func labelValue(reported string) string {
	value := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '_' {
			return r
		}
		return '-'
	}, strings.ToLower(reported))
	return strings.Trim(value[:min(len(value), validation.LabelValueMaxLength)], "-._")
}
