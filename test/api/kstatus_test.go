package api_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// conditions makes a status that speaks of a generation: {type, status, reason} each.
func conditions(generation int64, list ...[3]string) map[string]any {
	var made []any
	for _, c := range list {
		made = append(made, map[string]any{
			"type": c[0], "status": c[1], "reason": c[2], "message": "", "observedGeneration": generation, "lastTransitionTime": "2026-03-01T12:00:00Z",
		})
	}
	s := map[string]any{"observedGeneration": generation}
	if made != nil {
		s["conditions"] = made
	}
	return s
}

// Flux and `kubectl wait`-alikes judge by kstatus. Its own library looks at each phase of each kind, as the API server has it.
func TestKstatus(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	author := person(t, ns, append(slices.Clone(authors), "rollcall-responder"))
	type phase struct {
		name   string
		status map[string]any // nil: the manager has not looked yet
		want   status.Status
	}
	fresh := phase{"freshly created", nil, status.InProgressStatus}
	for short, phases := range map[string][]phase{
		"fep": {
			fresh,
			{"declared, its machine not there yet", conditions(1, [3]string{"Online", "Unknown", "NotEnrolled"}), status.CurrentStatus},
			{"online", conditions(1, [3]string{"Online", "True", "HeartbeatsCome"}, [3]string{"InSync", "True", "Applied"}, [3]string{"Healthy", "True", "NoProblem"}), status.CurrentStatus},
			{
				"asleep, with something to do when it wakes",
				conditions(1, [3]string{"Online", "False", "HeartbeatsMissed"}, [3]string{"InSync", "False", "WaitingForEndpoint"}, [3]string{"Healthy", "Unknown", "Offline"}),
				status.CurrentStatus,
			},
			{"failing", conditions(1, [3]string{"Online", "True", "HeartbeatsCome"}, [3]string{"Healthy", "False", "ClockSkewed"}), status.CurrentStatus},
			{"online, its policy comes with the next heartbeat", conditions(1, [3]string{"Online", "True", "HeartbeatsCome"}, [3]string{"InSync", "False", "PolicyPending"}), status.CurrentStatus},
			{"waiting for a person", conditions(1, [3]string{"Stalled", "True", "IdentityConflict"}), status.FailedStatus},
		},
		"epa": {
			fresh,
			{"waiting", conditions(1, [3]string{"Reconciling", "True", "WaitingForHeartbeat"}), status.InProgressStatus},
			{"sent", conditions(1, [3]string{"Reconciling", "True", "Sent"}), status.InProgressStatus},
			{"succeeded", conditions(1, [3]string{"Complete", "True", "Done"}), status.CurrentStatus},
			{"failed", conditions(1, [3]string{"Failed", "True", "NoSuchProcess"}, [3]string{"Stalled", "True", "NoSuchProcess"}), status.FailedStatus},
			{"unknown", conditions(1, [3]string{"Failed", "True", "NoReport"}, [3]string{"Stalled", "True", "NoReport"}), status.FailedStatus},
			{"expired", conditions(1, [3]string{"Failed", "True", "DeadlineExceeded"}, [3]string{"Stalled", "True", "DeadlineExceeded"}), status.FailedStatus},
			{"unsupported", conditions(1, [3]string{"Failed", "True", "AgentTooOld"}, [3]string{"Stalled", "True", "AgentTooOld"}), status.FailedStatus},
			{"cancelled, as somebody asked: an older isolation in Git stays green", conditions(1, [3]string{"Failed", "True", "Superseded"}), status.CurrentStatus},
		},
		"epp": {
			fresh,
			{"in use", conditions(1, [3]string{"Ready", "True", "Signed"}), status.CurrentStatus},
			{"waiting for a person", conditions(1, [3]string{"Ready", "False", "InvalidSettings"}, [3]string{"Stalled", "True", "InvalidSettings"}), status.FailedStatus},
		},
		"ept": {
			fresh,
			{"usable", conditions(1, [3]string{"Usable", "True", "Usable"}), status.CurrentStatus},
			{"used up, as declared", conditions(1, [3]string{"Usable", "False", "UsedUp"}), status.CurrentStatus},
			{"expired, as declared", conditions(1, [3]string{"Usable", "False", "Expired"}), status.CurrentStatus},
			{
				"waiting for a Secret of its name to go",
				conditions(1, [3]string{"Usable", "False", "SecretPending"}, [3]string{"Reconciling", "True", "SecretPending"}), status.InProgressStatus,
			},
			{"waiting for a person", conditions(1, [3]string{"Usable", "False", "KeyReplaced"}, [3]string{"Stalled", "True", "KeyReplaced"}), status.FailedStatus},
		},
	} {
		for i, phase := range phases {
			t.Run(short+" "+phase.name, func(t *testing.T) {
				name := fmt.Sprintf("phase-%d", i)
				o, err := author.of(short, ns).Create(t.Context(), object(t, short, name, specs[short]), metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if phase.status != nil {
					o = writeStatus(t, short, ns, name, phase.status)
				}
				got, err := status.Compute(o)
				if err != nil {
					t.Fatal(err)
				}
				if got.Status != phase.want {
					t.Errorf("kstatus says %s (%s), want %s", got.Status, got.Message, phase.want)
				}
			})
		}
	}
}

// Between a change in Git and the manager's next look, the old conditions must not pass for the new state's.
func TestKstatusWaitsAfterAChange(t *testing.T) {
	ns := harness.Cluster(t).Namespace(t)
	author := person(t, ns, authors)
	for short, change := range map[string]string{
		"fep": `spec: {displayName: other}`, "epa": `spec: {type: PerformHeartbeat, endpointName: devbox, cancel: true}`, "epp": `spec: {priority: 7}`, "ept": `spec: {expiresAfterHours: 1}`,
	} {
		if _, err := author.of(short, ns).Create(t.Context(), object(t, short, "changed", specs[short]), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		o := writeStatus(t, short, ns, "changed", conditions(1))
		if got, err := status.Compute(o); err != nil || got.Status != status.CurrentStatus {
			t.Errorf("%s before the change: %v %v", short, got, err)
		}
		changed := object(t, short, "changed", change)
		changed.SetResourceVersion(o.GetResourceVersion())
		o, err := author.of(short, ns).Update(t.Context(), changed, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := status.Compute(o); err != nil || got.Status != status.InProgressStatus {
			t.Errorf("%s after the change: %v %v", short, got, err)
		}
	}
}
