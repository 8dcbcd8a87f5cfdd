package action

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// TestDefaults are those that the fields' comments promise.
func TestDefaults(t *testing.T) {
	const month = 30 * 24 * time.Hour
	starting := map[v1alpha1.ActionType]time.Duration{terminal: 5 * time.Minute, heartbeat: time.Hour, terminate: time.Hour, setProxy: time.Hour, noProxy: time.Hour}
	active := map[v1alpha1.ActionType]time.Duration{
		terminal: time.Hour, v1alpha1.RetrieveFiles: time.Hour, v1alpha1.RetrieveSecurityEventData: time.Hour, v1alpha1.RetrieveSupportFile: time.Hour,
	}
	for _, kind := range all {
		spec := v1alpha1.EndpointActionSpec{Type: kind}
		wantStarting, wantActive := starting[kind], active[kind]
		if wantStarting == 0 {
			wantStarting = month
		}
		if wantActive == 0 {
			wantActive = time.Minute
		}
		if got := startingTime(&spec); got != wantStarting {
			t.Errorf("%s may be started for %s, want %s", kind, got, wantStarting)
		}
		if got := activeTime(&spec); got != wantActive {
			t.Errorf("%s may run for %s, want %s", kind, got, wantActive)
		}
		spec.StartingDeadlineSeconds, spec.ActiveDeadlineSeconds = ptr.To[int32](5), ptr.To[int32](7)
		if startingTime(&spec) != 5*time.Second || activeTime(&spec) != 7*time.Second {
			t.Errorf("%s: what is given does not count", kind)
		}
	}
}

// TestReportDeadline: at least 15 minutes, and three heartbeats.
func TestReportDeadline(t *testing.T) {
	for interval, want := range map[time.Duration]time.Duration{0: 15 * time.Minute, 5 * time.Minute: 15 * time.Minute, time.Hour: 3 * time.Hour} {
		ep := devbox()
		ep.Interval = interval
		a := take(t, newAction(heartbeat), lookAt(ep, 0), "2")
		if got := a.Status.Admission.ReportDeadline.Sub(a.Status.Admission.StartingDeadline.Time); got != time.Minute+want {
			t.Errorf("beating every %s it may report %s after its starting deadline, want %s", interval, got, time.Minute+want)
		}
	}
	short := lookAt(devbox(), 0)
	short.ReportMargin, short.Endpoint.Interval = time.Minute, time.Second
	if got := take(t, newAction(heartbeat), short, "2").Status.Admission; got.ReportDeadline.Sub(got.StartingDeadline.Time) != 2*time.Minute {
		t.Errorf("with a margin of a minute it may report until %s, starting until %s", got.ReportDeadline, got.StartingDeadline)
	}
}

// TestDue: the manager is called no earlier than there is something to do, and when it is called it does it.
func TestDue(t *testing.T) {
	ended := take(t, sent(t, heartbeat), says(sent(t, heartbeat), time.Minute, done, "Done"), "12")
	ended.Spec.TTLSecondsAfterFinished = ptr.To[int32](0)
	parent := newParent()
	parent = lookedAfter(t, parent, ParentLook{Now: noon, All: true, Matched: 1, Children: []*v1alpha1.EndpointAction{childOf(parent, "devbox")}}, "P1")
	for name, tt := range map[string]struct {
		action *v1alpha1.EndpointAction
		after  time.Duration
		want   time.Duration // after noon; negative: never
	}{
		"new":                       {newAction(heartbeat), 0, time.Hour},
		"admitted, and just told":   {admitted(t, heartbeat), 0, time.Minute},
		"admitted":                  {admitted(t, heartbeat), time.Minute, time.Hour},
		"sent":                      {sent(t, heartbeat), time.Minute, 76 * time.Minute},
		"running":                   {running(t, heartbeat), time.Minute, 76 * time.Minute},
		"ended":                     {take(t, sent(t, heartbeat), says(sent(t, heartbeat), time.Minute, done, "Done"), "12"), 0, -1},
		"ended, not to be kept":     {ended, time.Hour, time.Minute},
		"a child that waits":        {childOf(newParent(), "devbox"), time.Hour, -1},
		"a parent without children": {newParent(), 0, -1},
		"a parent that was written": {parent, time.Second, 5 * time.Second},
		"a parent":                  {parent, 5 * time.Second, -1},
		"sent, and nothing says so": {&v1alpha1.EndpointAction{Status: v1alpha1.EndpointActionStatus{Phase: v1alpha1.ActionSent}}, 0, -1},
	} {
		due := Due(tt.action, noon.Add(tt.after))
		if want := noon.Add(tt.want); tt.want < 0 && !due.IsZero() || tt.want >= 0 && !due.Equal(want) {
			t.Errorf("%s: due %s, want %s", name, due, want)
		}
	}
	if !DeletionTime(newAction(heartbeat)).IsZero() || !DeletionTime(ended).Equal(ended.Status.FinishTime.Time) {
		t.Error("what has not ended is never deleted, and what has is when its time has passed")
	}
	if at := metav1.NewTime(noon); !sooner(at.Time, time.Time{}).Equal(noon) || !sooner(time.Time{}, at.Time).Equal(noon) {
		t.Error("zero is never")
	}
}
