package action

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// A gateway that says that a result is old, so that a manager which has just started does not verify it, is believed only as far as can be.
func TestReportedTime(t *testing.T) {
	noon := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for said, want := range map[time.Duration]time.Duration{-48 * time.Hour: 0, time.Minute: time.Minute} {
		a := &v1alpha1.EndpointAction{Status: v1alpha1.EndpointActionStatus{
			Admission: &v1alpha1.ActionAdmission{Time: metav1.NewMicroTime(noon)},
			Result:    &v1alpha1.ActionResult{ReportedTime: metav1.NewTime(noon.Add(said))},
		}}
		if got := reportedTime(a).Sub(noon); got != want {
			t.Errorf("admitted at noon, reported at noon %+v: taken for noon %+v", said, got)
		}
	}
}
