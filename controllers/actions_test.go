package controllers_test

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	decide "github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
)

const journalID = "0123456789abcdef0123456789abcdef"

// enlist makes an enrolled Endpoint that can do what actions ask.
func enlist(t *testing.T, namespace, name string) (id string, key *ecdsa.PrivateKey) {
	t.Helper()
	c := as(t, local.ManagerAccount)
	ep := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"device": "laptop"}}}
	if err := c.Create(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
	id, key = uuid.NewString(), newKey(t)
	before, now := ep.DeepCopy(), metav1.Now()
	ep.Status.Identity = &v1alpha1.EndpointIdentity{ID: id, PublicKeys: [][]byte{spkiOf(t, key.Public())}, EnrolledTime: now}
	ep.Status.LastSeenTime = &now
	ep.Status.Connection = &v1alpha1.EndpointConnection{Channel: v1alpha1.ChannelHeartbeat, InstanceID: "one", SinceTime: &now}
	ep.Status.Agent = &v1alpha1.EndpointAgent{
		Version: "8.0.0", Capabilities: []v1alpha1.Text{"PerformHeartbeat", "TerminateProcess"},
		JournalID: journalID, JournalTime: &metav1.MicroTime{Time: now.Add(-time.Hour)},
	}
	if err := c.Status().Patch(t.Context(), ep, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	return id, key
}

// heartbeat asks for an action.
func heartbeat(t *testing.T, namespace, name string, spec v1alpha1.EndpointActionSpec) {
	t.Helper()
	spec.Type = v1alpha1.PerformHeartbeat
	a := &v1alpha1.EndpointAction{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: spec}
	if err := admin(t).Create(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

func action(t *testing.T, namespace, name string, check func(*v1alpha1.EndpointAction) error) (a *v1alpha1.EndpointAction) {
	t.Helper()
	c := admin(t)
	eventually(t, func() error {
		a = &v1alpha1.EndpointAction{}
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, a); err != nil {
			return err
		}
		return check(a)
	})
	return a
}

func admitted(a *v1alpha1.EndpointAction) error {
	if a.Status.Admission == nil {
		return fmt.Errorf("%s is not admitted: %s", a.Name, a.Status.Message)
	}
	return nil
}

// TestOpenActionsOutliveTheirKey: an order key is replaced while one action waits and another is on its way.
func TestOpenActionsOutliveTheirKey(t *testing.T) {
	first := startManager(t)
	c, ns := admin(t), world.api.Namespace(t)
	_, token := newToken(t, c, ns, "token", v1alpha1.EnrollmentTokenSpec{})
	trust, _ := published(t, c, token)
	id, _ := enlist(t, ns, "laptop")
	for _, name := range []string{"waits", "sent"} {
		heartbeat(t, ns, name, v1alpha1.EndpointActionSpec{EndpointName: "laptop"})
	}
	gateway := as(t, local.GatewayAccount)
	eventually(t, func() error {
		a := action(t, ns, "sent", admitted)
		status, _, err := decide.Next(a, decide.Send{
			Now: time.Now(), Channel: v1alpha1.ChannelHeartbeat, Gateway: "gw-test0-00000", JournalID: journalID,
			Endpoint: &decide.Endpoint{IdentityID: id, Lifecycle: v1alpha1.LifecycleActive},
		})
		if err != nil {
			return err
		}
		a.Status = *status
		return gateway.Status().Update(t.Context(), a)
	})
	action(t, ns, "waits", admitted)
	first.Stop(3 * time.Second)
	deleteNow(t, c, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: "rollcall-order-key"}})
	startManager(t)
	eventually(t, func() error {
		if now, _ := published(t, c, token); now.Version == trust.Version {
			return errors.New("no newer bundle yet")
		}
		return nil
	})
	trust, _ = published(t, c, token)
	if len(trust.Orders) != 2 {
		t.Fatalf("%d order keys are believed", len(trust.Orders))
	}
	verifies := func(i int) func(*v1alpha1.EndpointAction) error {
		return func(a *v1alpha1.EndpointAction) error {
			return envelope.Verify(order.FromResource(a.Status.Admission.Order), envelope.Action, trust.Orders[i])
		}
	}
	action(t, ns, "waits", verifies(0))
	action(t, ns, "sent", verifies(1)) // as it was sent; and agents still believe it
}

// TestManagerKilledInAFanOut: whoever leads next makes what is missing, and nothing twice.
func TestManagerKilledInAFanOut(t *testing.T) {
	const endpoints = 40
	manager := startManager(t, "--leader-elect=false") // no slow machine is a reason to end
	c, ns := admin(t), world.api.Namespace(t)
	for i := range endpoints {
		enlist(t, ns, fmt.Sprintf("laptop-%d", i))
	}
	heartbeat(t, ns, "all", v1alpha1.EndpointActionSpec{
		Selector:    &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{"device": "laptop"}},
		MaxParallel: ptr.To[int32](endpoints),
	})
	children := func() (all []v1alpha1.EndpointAction) {
		var list v1alpha1.EndpointActionList
		if err := c.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
		for _, a := range list.Items {
			if a.Spec.EndpointName != "" {
				all = append(all, a)
			}
		}
		return all
	}
	eventually(t, func() error {
		if len(children()) == 0 {
			return errors.New("no child yet")
		}
		return nil
	})
	manager.Kill()
	startManager(t, "--leader-elect=false")
	action(t, ns, "all", func(a *v1alpha1.EndpointAction) error {
		if a.Status.Children == nil || a.Status.Children.Open != endpoints {
			return fmt.Errorf("it counts %+v", a.Status.Children)
		}
		return nil
	})
	if n := len(children()); n != endpoints {
		t.Errorf("there are %d children of %d endpoints", n, endpoints)
	}
}

// TestAPolicyDisablesWhatWaits: as policies are really signed and assigned.
func TestAPolicyDisablesWhatWaits(t *testing.T) {
	startManager(t)
	c, ns := admin(t), world.api.Namespace(t)
	enlist(t, ns, "laptop")
	heartbeat(t, ns, "waits", v1alpha1.EndpointActionSpec{EndpointName: "laptop"})
	action(t, ns, "waits", admitted)
	policy := &v1alpha1.EndpointPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "strict"}}
	policy.Spec.Actions = &v1alpha1.ActionPolicy{Disabled: []v1alpha1.ActionType{v1alpha1.PerformHeartbeat}}
	if err := c.Create(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	a := action(t, ns, "waits", func(a *v1alpha1.EndpointAction) error {
		if a.Status.Phase != v1alpha1.ActionUnsupported {
			return fmt.Errorf("it is %s: %s", a.Status.Phase, a.Status.Message)
		}
		return nil
	})
	if failed := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionFailed); failed == nil || failed.Reason != decide.ReasonDisabledByPolicy {
		t.Errorf("it says %+v", failed)
	}
}
