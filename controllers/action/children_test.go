package action

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

func TestChildName(t *testing.T) {
	for _, parent := range []string{"a", strings.Repeat("a", 63), strings.Repeat("a", 51) + "-b", strings.Repeat("a", 51) + ".b", "one.two"} {
		a := &v1alpha1.EndpointAction{ObjectMeta: metav1.ObjectMeta{Name: parent, UID: "one"}}
		name := childName(a, "endpoint")
		if wrong := validation.IsDNS1123Subdomain(name); len(name) > 63 || len(wrong) > 0 {
			t.Errorf("%s has a child %q: %v", parent, name, wrong)
		}
		if childName(a, "endpoint") != name || childName(a, "other") == name {
			t.Errorf("%s is not the name of one endpoint's child", name)
		}
		if a.UID = "two"; childName(a, "endpoint") == name {
			t.Errorf("%s is the name of two actions' child", name)
		}
	}
}
