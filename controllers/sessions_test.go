package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
)

// renew keeps a gateway's Lease until stop is called.
func renew(t *testing.T, name string) (stop func()) {
	t.Helper()
	c := as(t, local.GatewayAccount)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: name}}
	if err := c.Create(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for tick := time.NewTicker(500 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			lease.Spec.RenewTime = ptr.To(metav1.NowMicro())
			_ = c.Update(ctx, lease) // the API server may be away
		}
	})
	stop = func() { cancel(); done.Wait() }
	t.Cleanup(stop)
	return stop
}

// connect makes an enrolled Endpoint whose session a gateway says it has.
func connect(t *testing.T, namespace, name, gateway string) {
	t.Helper()
	ep := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := as(t, local.ManagerAccount).Create(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Format(time.RFC3339)
	for _, write := range []struct{ account, patch string }{
		{local.ManagerAccount, fmt.Sprintf(`{"status":{"identity":{"id":"id-of-%s","publicKeys":["aWQ="],"enrolledTime":%q}}}`, name, now)},
		{local.GatewayAccount, fmt.Sprintf(`{"status":{"lastSeenTime":%q,"agent":{"version":"8.0.0"},`+
			`"connection":{"channel":"WebSocket","gateway":%q,"epoch":1,"instanceID":"one","sessionNumber":1,"sinceTime":%q}}}`, now, gateway, now)},
	} {
		if err := as(t, write.account).Status().Patch(t.Context(), ep, client.RawPatch(types.MergePatchType, []byte(write.patch))); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSessionsOutliveOutages: a manager that is killed and one that knows nothing, an API server that is away, and a gateway that is lost.
func TestSessionsOutliveOutages(t *testing.T) {
	manager := startManager(t, "--leader-elect=false") // no API server is no reason to end
	c, ns := admin(t), world.api.Namespace(t)
	pace := v1alpha1.EndpointPolicySpec{Heartbeat: &v1alpha1.HeartbeatPolicy{IntervalSeconds: ptr.To[int32](1), Missed: ptr.To[int32](3)}} // offline after 4 s
	policy := &v1alpha1.EndpointPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "pace"}, Spec: pace}
	if err := c.Create(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(policy), policy); err != nil || policy.Status.Order != nil {
			return err
		}
		return errors.New("the policy is not signed yet")
	})
	renew(t, "gw-kept0-00000")
	lose := renew(t, "gw-lost0-00000")
	connect(t, ns, "kept", "gw-kept0-00000")
	connect(t, ns, "lost", "gw-lost0-00000")
	find := func(name string) (*v1alpha1.Endpoint, error) {
		ep := &v1alpha1.Endpoint{}
		return ep, c.Get(t.Context(), types.NamespacedName{Namespace: ns, Name: name}, ep)
	}
	// The agent runs no policy, so there is always something to wait for: Updating is as much as it gets.
	for _, name := range []string{"kept", "lost"} {
		eventually(t, func() error {
			ep, err := find(name)
			if err == nil && (ep.Status.Summary != "Updating" || ep.Status.Policy == nil || ep.Status.Policy.OfflineAfterSeconds != 4) {
				err = fmt.Errorf("%s is %s by the policy %+v", name, ep.Status.Summary, ep.Status.Policy)
			}
			return err
		})
	}
	there := func(what string, names ...string) {
		t.Helper()
		for end := time.Now().Add(7 * time.Second); time.Now().Before(end); <-time.After(200 * time.Millisecond) {
			for _, name := range names {
				if ep, err := find(name); err == nil && (ep.Status.Summary != "Updating" || ep.Status.Connection.Channel != v1alpha1.ChannelWebSocket) {
					t.Fatalf("%s: %s is %s: %s, channel %s", what, name, ep.Status.Summary, ep.Status.Message, ep.Status.Connection.Channel)
				}
			}
		}
	}
	there("nothing happens", "kept", "lost")
	manager.Kill()
	startManager(t, "--leader-elect=false")
	there("another manager leads", "kept", "lost")
	if err := world.api.ControlPlane.KillAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-time.After(6 * time.Second)
	if err := world.api.ControlPlane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	there("the API server was away", "kept", "lost")

	lose()
	lost := time.Now()
	eventually(t, func() error {
		ep, err := find("lost")
		if err == nil && ep.Status.Summary != "Offline" {
			err = fmt.Errorf("it is %s: %s", ep.Status.Summary, ep.Status.Message)
		}
		return err
	})
	if took := time.Since(lost); took < 8*time.Second-500*time.Millisecond {
		t.Errorf("offline %s after its gateway was lost: the grace and its own silence are 8 s", took)
	}
	if ep, err := find("lost"); err != nil || !strings.HasPrefix(ep.Status.Message, "no heartbeat since its session was given up ") || ep.Status.Connection.Channel != v1alpha1.ChannelNone {
		t.Errorf("%q, channel %s, %v", ep.Status.Message, ep.Status.Connection.Channel, err)
	}
	there("another gateway was lost", "kept")
}
