package store

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// deed is the n-th action on a machine, admitted, in the version that is given.
func deed(t testing.TB, n, version int) *v1alpha1.EndpointAction {
	now := enrolled.Add(time.Duration(n) * time.Second)
	return &v1alpha1.EndpointAction{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "fleet", Name: fmt.Sprintf("stop-it-%05d", n), UID: types.UID(uuidOf("action", n)), ResourceVersion: strconv.Itoa(version), Generation: 1,
			CreationTimestamp: metav1.NewTime(now),
			Annotations:       map[string]string{v1alpha1.AnnotationRequestedBy: "somebody@example.com", corev1.LastAppliedConfigAnnotation: "{...}"},
			ManagedFields:     []metav1.ManagedFieldsEntry{{Manager: "kubectl"}, {Manager: "rollcall-manager"}},
		},
		Spec: v1alpha1.EndpointActionSpec{
			Type: v1alpha1.TerminateProcess, EndpointName: "laptop-00001", TerminateProcess: &v1alpha1.TerminateProcessParameters{Executable: "/usr/bin/sleep"},
		},
		Status: v1alpha1.EndpointActionStatus{
			ObservedGeneration: 1, Phase: v1alpha1.ActionPending, Message: "waits for the next heartbeat of laptop-00001, due by 12:06:31Z",
			Conditions: []metav1.Condition{{
				Type: v1alpha1.ConditionReconciling, Status: metav1.ConditionTrue, Reason: "WaitingForHeartbeat",
				Message: "waits for the next heartbeat of laptop-00001, due by 12:06:31Z", LastTransitionTime: metav1.NewTime(now), ObservedGeneration: 1,
			}},
			Admission: &v1alpha1.ActionAdmission{
				IdentityID: uuidOf("identity", 1), Time: metav1.NewMicroTime(now), StartingDeadline: metav1.NewTime(now.Add(time.Hour)),
				ReportDeadline: metav1.NewTime(now.Add(2 * time.Hour)),
				Order: v1alpha1.Envelope{PayloadType: "application/vnd.rollcall.action.v1+json", Payload: make([]byte, 600), Signatures: []v1alpha1.EnvelopeSignature{{
					KeyID: v1alpha1.Text(fmt.Sprintf("%064d", 1)), Sig: make([]byte, 64),
				}}},
			},
		},
	}
}

func changed(a *v1alpha1.EndpointAction, version int, change func(*v1alpha1.EndpointAction)) *v1alpha1.EndpointAction {
	a = a.DeepCopy()
	a.ResourceVersion = strconv.Itoa(version)
	change(a)
	return a
}

func sent(a *v1alpha1.EndpointAction) { a.Status.Phase = v1alpha1.ActionSent }

func ended(a *v1alpha1.EndpointAction) {
	a.Status.Phase, a.Status.FinishTime = v1alpha1.ActionSucceeded, &metav1.Time{Time: enrolled}
}

// kept are the names of the open actions of an identity, with their phases.
func (x *actions) kept(id string) (all []string) {
	for _, a := range x.identity(id) {
		all = append(all, a.Name+" "+string(a.Status.Phase))
	}
	return all
}

func TestOpenActionsAreKept(t *testing.T) {
	told := 0
	x := newActions(func(id string) {
		if id != uuidOf("identity", 1) {
			t.Errorf("told of %s", id)
		}
		told++
	})
	id := uuidOf("identity", 1)
	are := func(why string, news int, want ...string) {
		t.Helper()
		if got := x.kept(id); !slices.Equal(got, want) || told != news || x.count() != len(want) {
			t.Errorf("%s: %q, %d in all, told %d times, want %q and %d", why, got, x.count(), told, want, news)
		}
		told = 0
	}
	one, two := deed(t, 1, 10), deed(t, 2, 11)
	x.event(two)
	x.event(one)
	are("in the order of their admission", 2, "stop-it-00001 Pending", "stop-it-00002 Pending")
	if a := x.uid(string(one.UID)); a.ManagedFields != nil || len(a.Annotations) != 1 {
		t.Errorf("what nobody needs is kept: %v", a.ObjectMeta)
	}
	before := x.identity(id)
	x.event(changed(one, 12, sent))
	are("changed", 1, "stop-it-00001 Sent", "stop-it-00002 Pending")
	if before[0].Status.Phase != v1alpha1.ActionPending {
		t.Error("what was handed out has changed")
	}
	x.event(changed(one, 11, func(*v1alpha1.EndpointAction) {}))
	x.answered(changed(one, 12, func(*v1alpha1.EndpointAction) {}))
	are("what is older", 0, "stop-it-00001 Sent", "stop-it-00002 Pending")
	x.answered(changed(one, 20, ended))
	are("its end was written here", 1, "stop-it-00002 Pending")
	x.event(changed(one, 15, sent))
	x.drop(changed(one, 20, sent))
	are("and the watch still brings what was before", 0, "stop-it-00002 Pending")
	x.drop(changed(two, 30, func(*v1alpha1.EndpointAction) {}))
	are("left the selection", 1)
	x.answered(changed(two, 25, sent))
	x.event(changed(two, 25, sent))
	are("and an older answer comes", 0)
	three := deed(t, 3, 40)
	x.answered(three)
	are("an answer before the watch", 0)
	x.event(three)
	are("the watch", 1, "stop-it-00003 Pending")

	x.event(changed(deed(t, 4, 41), 41, func(a *v1alpha1.EndpointAction) { a.Status.Admission = nil }))
	x.event(changed(deed(t, 5, 42), 42, func(a *v1alpha1.EndpointAction) { a.Spec.EndpointName = "" }))
	are("neither admitted nor single", 0, "stop-it-00003 Pending")

	x.replace([]*v1alpha1.EndpointAction{changed(two, 44, ended), changed(one, 5, sent), changed(three, 39, sent), deed(t, 6, 43)})
	are("etcd was restored", 1, "stop-it-00001 Sent", "stop-it-00003 Sent", "stop-it-00006 Pending")
	x.replace(nil)
	are("nothing is left", 1)
}

// An action that is no longer open is known by its name, for a while.
func TestDepartedActions(t *testing.T) {
	x := newActions(func(string) {})
	known := func(n int) bool {
		at, ok := x.whereabouts(uuidOf("action", n))
		return ok && at.Namespace == "fleet" && at.Name == fmt.Sprintf("stop-it-%05d", n)
	}
	for n := range 3 {
		x.event(deed(t, n, 10))
	}
	x.drop(deed(t, 1, 11))
	x.answered(changed(deed(t, 2, 12), 12, ended))
	for n := range 3 {
		if !known(n) {
			t.Errorf("%d is not known", n)
		}
	}
	x.lost(uuidOf("action", 0))
	x.lost(uuidOf("action", 1))
	x.lost(uuidOf("action", 9))
	if !known(0) || known(9) || x.count() != 0 {
		t.Errorf("after a live read did not find them: %d are open", x.count())
	}
	for n := range maxDeparted {
		x.event(deed(t, 100+n, 20))
		x.drop(deed(t, 100+n, 21))
	}
	if known(1) || !known(100) || len(x.departed.byUID) != maxDeparted || len(x.departed.uids) != maxDeparted {
		t.Errorf("%d are remembered", len(x.departed.byUID))
	}
}

func TestMemoryOfActions(t *testing.T) {
	const n, most, mostDeparted = 4000, 3000, 500
	measure := func() int {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	x := newActions(func(string) {})
	before := measure()
	for i := range n {
		a := deed(t, i, 10)
		a.Status.Admission.IdentityID = uuidOf("identity", i)
		x.event(changed(a, 10, func(a *v1alpha1.EndpointAction) {
			a.Status.Delivery = &v1alpha1.ActionDelivery{Channel: v1alpha1.ChannelWebSocket, Gateway: "gw-abcde-abcde", JournalID: instanceOf(i)}
		}))
	}
	each := (measure() - before) / n
	t.Logf("%d bytes an open action", each)
	if each > most {
		t.Errorf("%d bytes an open action, want at most %d", each, most)
	}
	for i := range n {
		x.drop(deed(t, i, 11))
	}
	each = (measure() - before) / n
	t.Logf("%d bytes one that was", each)
	if each > mostDeparted {
		t.Errorf("%d bytes one that was, want at most %d", each, mostDeparted)
	}
	runtime.KeepAlive(x)
}
