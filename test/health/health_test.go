package health

import (
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// The three tell apart what people tell apart: under way, done or taken back, and wrong.
func TestVerdicts(t *testing.T) {
	for text, want := range map[string]status.Status{
		`{observedGeneration: -1, phase: Pending}`: status.InProgressStatus,
		`{observedGeneration: 1, phase: Pending, conditions: [{type: Reconciling, status: "True", reason: Waiting, message: w}]}`:                                     status.InProgressStatus,
		`{observedGeneration: 1, phase: Succeeded, finishTime: t, conditions: [{type: Complete, status: "True", reason: Done, message: m}]}`:                          status.CurrentStatus,
		`{observedGeneration: 1, phase: Cancelled, finishTime: t, conditions: [{type: Failed, status: "True", reason: CancelledByUser, message: m}]}`:                 status.CurrentStatus,
		`{observedGeneration: 1, phase: Unknown, finishTime: t, conditions: [{type: Failed, status: "True", reason: R}, {type: Stalled, status: "True", reason: R}]}`: status.FailedStatus,
		`{observedGeneration: 0, phase: Succeeded, finishTime: t, conditions: [{type: Complete, status: "True", reason: Done}]}`:                                      status.InProgressStatus,
	} {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte("apiVersion: rollcall.dev/v1alpha1\nkind: EndpointAction\nmetadata: {name: a, generation: 1}\nstatus: "+text), &o.Object); err != nil {
			t.Fatal(err)
		}
		raw, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := o.UnmarshalJSON(raw); err != nil { // numbers as the API's client has them
			t.Fatal(err)
		}
		got, err := Of(t.Context(), "../..", o)
		if err != nil {
			t.Fatal(err)
		}
		if got.KStatus != want || !got.Agree() {
			t.Errorf("%s: %+v, want %s", text, got, want)
		}
	}
}
