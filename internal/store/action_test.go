package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// sealOrder is the manager's.
func sealOrder(t envelope.Type, m proto.Message) (v1alpha1.Envelope, error) {
	e, err := envelope.Seal(orderKey, t, m)
	return order.ToResource(e), err
}

// act creates an action as the cluster's owner.
func (f *fleet) act(e *v1alpha1.Endpoint, name string) *v1alpha1.EndpointAction {
	f.t.Helper()
	a := &v1alpha1.EndpointAction{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: name},
		Spec:       v1alpha1.EndpointActionSpec{Type: v1alpha1.PerformHeartbeat, EndpointName: v1alpha1.LocalName(e.Name)},
	}
	if err := f.api.Client(f.t, "").Create(f.t.Context(), a); err != nil {
		f.t.Fatal(err)
	}
	return a
}

// look is what the manager does with an action, once.
func (f *fleet) look(e *v1alpha1.Endpoint, a *v1alpha1.EndpointAction) *v1alpha1.EndpointAction {
	f.t.Helper()
	next := &v1alpha1.EndpointAction{}
	if err := f.manager.Get(f.t.Context(), client.ObjectKeyFromObject(a), next); err != nil {
		f.t.Fatal(err)
	}
	status, row, err := action.Next(next, action.Look{Now: time.Now(), FleetID: fleetID, Seal: sealOrder, Endpoint: &action.Endpoint{
		IdentityID: e.Status.Identity.ID, Lifecycle: v1alpha1.LifecycleActive, Reported: true, AgentVersion: "8.0.0", Online: true,
		Capabilities: []v1alpha1.Text{"PerformHeartbeat"}, Channel: v1alpha1.ChannelHeartbeat, Interval: 5 * time.Minute,
		JournalID: instanceOf("journal"), JournalTime: enrolled,
	}})
	if err != nil || row == action.None {
		f.t.Fatalf("the manager does nothing with %s: %v", a.Name, err)
	}
	next.Status = *status
	if err := f.manager.Status().Update(f.t.Context(), next); err != nil {
		f.t.Fatal(err)
	}
	return next
}

// admitted creates an action and waits until a store has it, admitted.
func (f *fleet) admitted(g *gateway, e *v1alpha1.Endpoint, name string) *v1alpha1.EndpointAction {
	f.t.Helper()
	a := f.look(e, f.act(e, name))
	harness.Eventually(f.t, 10*time.Second, func() error {
		if _, ok := g.Action(string(a.UID)); !ok {
			return fmt.Errorf("%s is not read", name)
		}
		return nil
	})
	known, _ := g.Action(string(a.UID))
	return known
}

// sending is an action as a gateway writes it when it sends it.
func (f *fleet) sending(g *gateway, e *v1alpha1.Endpoint, a *v1alpha1.EndpointAction) *v1alpha1.EndpointAction {
	f.t.Helper()
	return f.stepped(a, action.Send{
		Now: time.Now(), Channel: v1alpha1.ChannelWebSocket, Gateway: g.cfg.Gateway, JournalID: instanceOf("journal"),
		Endpoint: &action.Endpoint{IdentityID: e.Status.Identity.ID, Lifecycle: v1alpha1.LifecycleActive},
	})
}

func (f *fleet) stepped(a *v1alpha1.EndpointAction, event action.Event) *v1alpha1.EndpointAction {
	f.t.Helper()
	status, row, err := action.Next(a, event)
	if err != nil || row == action.None {
		f.t.Fatalf("%T changes nothing in %s: %v", event, a.Name, err)
	}
	next := *a
	next.Status = *status
	return &next
}

// A store follows the open actions that are admitted, and no others, on the real API server and as the gateway's own account.
func TestActionsAreFollowed(t *testing.T) {
	f := newFleet(t)
	var mu sync.Mutex
	told := 0
	e := f.enrol("laptop-1")
	id := e.Status.Identity.ID
	f.prepare = func(s *Store) {
		s.OnAction(func(identityID string) {
			mu.Lock()
			defer mu.Unlock()
			if identityID == id {
				told++
			}
		})
	}
	before := f.look(e, f.act(e, "before"))
	waiting := f.act(e, "waiting")
	g := f.ready(f.gateway())
	open := func(want ...string) {
		t.Helper()
		harness.Eventually(t, 10*time.Second, func() error {
			var got []string
			for _, a := range g.OpenActions(id) {
				got = append(got, a.Name)
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("open: %q, want %q", got, want)
			}
			return nil
		})
	}
	open("before")
	if a, ok := g.Action(string(before.UID)); !ok || a.ManagedFields != nil || string(a.Status.Admission.Order.Payload) != string(before.Status.Admission.Order.Payload) {
		t.Errorf("read as %+v", a)
	}
	f.look(e, waiting)
	open("before", "waiting")
	mu.Lock()
	if told < 1 {
		t.Error("nobody was told")
	}
	mu.Unlock()
	if err := f.api.Client(t, "").Delete(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	open("waiting")
	stop := waiting.DeepCopy()
	stop.Spec.Cancel = true
	if err := f.api.Client(t, "").Patch(t.Context(), stop, client.MergeFrom(waiting)); err != nil {
		t.Fatal(err)
	}
	f.look(e, waiting) // ends it: it leaves the selection, and arrives as deleted
	open()
	a, err := g.ReadAction(t.Context(), refOf(e), string(waiting.UID))
	if err != nil || a.Status.Phase != v1alpha1.ActionCancelled {
		t.Errorf("it is there all the same: %v, %v", a, err)
	}
	if _, err = g.ReadAction(t.Context(), refOf(e), string(before.UID)); !errors.Is(err, ErrGone) {
		t.Errorf("deleted: %v", err)
	}
}

// An action that a store has never seen open is found by its endpoint; searches are bounded.
func TestActionsAreSearchedFor(t *testing.T) {
	f := newFleet(t)
	e := f.enrol("laptop-1")
	g := f.ready(f.gateway())
	other := f.act(f.enrol("laptop-2"), "of-another")
	a := f.act(e, "hello")
	if found, err := g.ReadAction(t.Context(), refOf(e), string(a.UID)); err != nil || found.Name != "hello" {
		t.Errorf("found %v, %v", found, err)
	}
	if _, err := g.ReadAction(t.Context(), refOf(e), string(other.UID)); !errors.Is(err, ErrGone) {
		t.Errorf("another endpoint's: %v", err)
	}
	var err error
	for range searchBurst + 1 {
		_, err = g.ReadAction(t.Context(), refOf(e), uuidOf("none"))
	}
	if !errors.Is(err, ErrBusy) {
		t.Errorf("too many: %v", err)
	}
}

// A status is written over the one that was read and no other, by what the policies let a gateway write.
func TestActionsAreWritten(t *testing.T) {
	f := newFleet(t)
	e := f.enrol("laptop-1")
	g, other := f.ready(f.gateway()), f.ready(f.gateway())
	a := f.admitted(g, e, "hello")
	f.admitted(other, e, "more")

	forged := f.sending(g, e, a)
	forged.Status.Admission = forged.Status.Admission.DeepCopy()
	forged.Status.Admission.IdentityID = uuidOf("x")
	if _, err := g.WriteAction(t.Context(), forged); !errors.Is(err, ErrRefused) {
		t.Errorf("an admission of its own: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.WriteAction(ctx, f.sending(g, e, a)); !errors.Is(err, context.Canceled) || errors.Is(err, ErrConflict) || errors.Is(err, ErrRefused) {
		t.Errorf("nobody knows: %v", err)
	}
	written, err := g.WriteAction(t.Context(), f.sending(g, e, a))
	if err != nil {
		t.Fatal(err)
	}
	if known, _ := g.Action(string(a.UID)); known.Status.Phase != v1alpha1.ActionSent {
		t.Errorf("it is not known at once that it is %s", written.Status.Phase)
	}
	if d := written.Status.Delivery; string(d.Gateway) != g.cfg.Gateway || written.Spec.Type != v1alpha1.PerformHeartbeat || written.Generation != 1 {
		t.Errorf("written: %+v", written)
	}
	if _, err = other.WriteAction(t.Context(), f.sending(other, e, a)); !errors.Is(err, ErrConflict) {
		t.Errorf("over a newer one: %v", err)
	}

	admin := f.api.Client(t, "")
	if err := admin.Delete(t.Context(), written.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	if _, err := g.WriteAction(t.Context(), f.stepped(written, action.Progress{Now: time.Now(), IdentityID: e.Status.Identity.ID})); !errors.Is(err, ErrGone) {
		t.Errorf("a deleted one: %v", err)
	}
	if _, ok := g.Action(string(a.UID)); ok {
		t.Error("it is still open")
	}
	f.act(e, "hello") // another by the same name
	if _, err := other.WriteAction(t.Context(), f.stepped(written, action.Progress{Now: time.Now(), IdentityID: e.Status.Identity.ID})); !errors.Is(err, ErrConflict) {
		t.Errorf("over another by the same name: %v", err)
	}
	if _, err := other.ReadAction(t.Context(), refOf(e), string(a.UID)); !errors.Is(err, ErrGone) {
		t.Errorf("another by the same name was taken for it: %v", err)
	}
}

// Whoever writes first wins, and the others learn so.
func TestGatewaysRaceForAnAction(t *testing.T) {
	f := newFleet(t)
	e := f.enrol("laptop-1")
	gateways := []*gateway{f.ready(f.gateway()), f.ready(f.gateway())}
	for n := range 10 {
		name := fmt.Sprintf("race-%d", n)
		a := f.admitted(gateways[0], e, name)
		var group sync.WaitGroup
		errs := make([]error, len(gateways))
		for i, g := range gateways {
			next := f.sending(g, e, a)
			group.Go(func() { _, errs[i] = g.WriteAction(t.Context(), next) })
		}
		group.Wait()
		won := slices.IndexFunc(errs, func(err error) bool { return err == nil })
		if won < 0 || !errors.Is(errs[1-won], ErrConflict) {
			t.Fatalf("%s: %v", name, errs)
		}
	}
}
