package gateways

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

const shortGrace = 3 * time.Second

// fleet is a namespace whose sessions gateways write.
type fleet struct {
	api              *harness.API
	name             string
	gateway, manager client.Client
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	api := cluster(t)
	return &fleet{api: api, name: api.Namespace(t), gateway: api.Client(t, local.GatewayAccount), manager: api.Client(t, local.ManagerAccount)}
}

// lead has a manager lead that knows nothing, until stop is called.
func (f *fleet) lead(t *testing.T) (stop func()) {
	t.Helper()
	return f.api.RunManager(t, f.name, func(mgr ctrl.Manager) error {
		_, err := Setup(mgr, Options{Namespace: local.Namespace, LeaseDuration: leaseDuration, Grace: shortGrace})
		return err
	})
}

// session writes that an Endpoint has one, as a gateway does. It makes the Endpoint first if need be.
func (f *fleet) session(t *testing.T, name, gateway string, number int) {
	t.Helper()
	ep := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: f.name, Name: name}}
	if err := client.IgnoreAlreadyExists(f.manager.Create(t.Context(), ep)); err != nil {
		t.Fatal(err)
	}
	patch := fmt.Sprintf(`[{"op":"add","path":"/status/connection","value":{"channel":"WebSocket","gateway":%q,"epoch":1,"instanceID":"one","sessionNumber":%d,"sinceTime":"2026-01-01T00:00:00Z"}}]`, gateway, number)
	if err := f.gateway.Status().Patch(t.Context(), ep, client.RawPatch(types.JSONPatchType, []byte(patch))); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) get(t *testing.T, name string) *v1alpha1.Endpoint {
	t.Helper()
	ep := &v1alpha1.Endpoint{}
	if err := f.manager.Get(t.Context(), types.NamespacedName{Namespace: f.name, Name: name}, ep); err != nil {
		t.Fatal(err)
	}
	return ep
}

// lost waits until a session is given up, and checks that it had its time since its gateway was seen, or somebody began to look.
func (f *fleet) lost(t *testing.T, name string, since time.Time) {
	t.Helper()
	harness.Eventually(t, 15*time.Second, func() error {
		if c := f.get(t, name).Status.Connection; c.Channel != v1alpha1.ChannelNone {
			return fmt.Errorf("%s has a session with %s still", name, c.Gateway)
		}
		return nil
	})
	early := time.Until(since.Add(shortGrace))
	c := f.get(t, name).Status.Connection
	if c.Gateway != "" || c.Error != "its gateway is gone" || c.InstanceID != "one" || c.Epoch != 1 || c.SessionNumber != 1 || time.Since(c.SinceTime.Time) > 15*time.Second || early > 0 {
		t.Errorf("%s: given up %s early: %+v", name, early, c)
	}
}

// has checks that an Endpoint has the session that was written.
func (f *fleet) has(t *testing.T, name, gateway string) {
	t.Helper()
	if c := f.get(t, name).Status.Connection; c.Channel != v1alpha1.ChannelWebSocket || string(c.Gateway) != gateway || c.SinceTime.Year() != 2026 || c.SinceTime.YearDay() != 1 {
		t.Errorf("the session of %s with %s was touched: %+v", name, gateway, c)
	}
}

// What a gateway that is gone has left behind is given up; what one has that lives is not, whatever becomes of the API server and of managers.
func TestSessionsOfLostGateways(t *testing.T) {
	f := newFleet(t)
	newGateway(t, f.gateway, "gw-quiet-00000")
	alive, leaving := newGateway(t, f.gateway, "gw-lives-00000"), newGateway(t, f.gateway, "gw-leave-00000")
	go alive.live(t.Context())
	go leaving.live(t.Context())
	f.session(t, "ghost", "gw-quiet-00000", 1)
	f.session(t, "orphan", "gw-never-00000", 1)
	f.session(t, "odd", "rollcall-manager", 1) // a Lease that is renewed, but no gateway's
	if err := f.manager.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: "rollcall-manager"}}); err != nil {
		t.Fatal(err)
	}
	f.session(t, "fine", "gw-lives-00000", 1)
	f.session(t, "left", "gw-leave-00000", 1)

	began := time.Now()
	stop := f.lead(t)
	for _, name := range []string{"ghost", "orphan", "odd"} {
		f.lost(t, name, began)
	}
	ended := time.Now()
	leaving.stops.Store(true)
	<-leaving.stopped
	if err := f.gateway.Delete(t.Context(), leaving.lease); err != nil {
		t.Fatal(err)
	}
	f.lost(t, "left", ended)

	// An API server that is away for longer than the grace: nobody could renew.
	if err := f.api.ControlPlane.KillAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-time.After(shortGrace + leaseDuration)
	if err := f.api.ControlPlane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-time.After(shortGrace + leaseDuration)
	f.has(t, "fine", "gw-lives-00000")

	// A manager that begins anew just when a gateway has died.
	stop()
	newGateway(t, f.gateway, "gw-late0-00000")
	f.session(t, "late", "gw-late0-00000", 1)
	<-time.After(shortGrace)
	began = time.Now()
	f.lead(t)
	f.lost(t, "late", began)
	f.has(t, "fine", "gw-lives-00000")
}

// Another gateway may have a session by the time that the one before is given up, and nobody's mistake keeps the others.
func TestGiveUp(t *testing.T) {
	f := newFleet(t)
	var stale []v1alpha1.Endpoint
	for _, name := range []string{"a", "moved", "deleted", "refused", "b"} {
		f.session(t, name, "gw-dead0-00000", 1)
		stale = append(stale, *f.get(t, name))
	}
	f.session(t, "moved", "gw-lives-00000", 2)
	if err := f.api.Client(t, "").Delete(t.Context(), &stale[2]); err != nil {
		t.Fatal(err)
	}
	watching, err := client.NewWithWatch(f.api.Admin, client.Options{Scheme: f.manager.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	refusing := interceptor.NewClient(watching, interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, _ client.Client, _ string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if o.GetName() == "refused" {
				return errors.New("not today")
			}
			return f.manager.Status().Patch(ctx, o, p, opts...)
		},
	})
	began := time.Now()
	r := &reaper{client: refusing, pacer: rate.NewLimiter(10, 1)}
	n, err := r.giveUp(t.Context(), stale)
	if n != 2 || err == nil || !strings.Contains(err.Error(), "Endpoint "+f.name+"/refused: not today") {
		t.Errorf("%d were given up, and %v; want 2 and the one that failed", n, err)
	}
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("5 took %s, at 10 a second", took)
	}
	for _, name := range []string{"a", "b"} {
		if c := f.get(t, name).Status.Connection; c.Channel != v1alpha1.ChannelNone {
			t.Errorf("%s has a session still: %+v", name, c)
		}
	}
	f.has(t, "moved", "gw-lives-00000")
}

// More sessions than are given up at once are given up all the same.
func TestALargeGateway(t *testing.T) {
	f := newFleet(t)
	names := make([]string, batch+5)
	for i := range names {
		names[i] = fmt.Sprintf("m-%03d", i)
		f.session(t, names[i], "gw-dead0-00000", 1)
	}
	began := time.Now()
	f.lead(t)
	f.lost(t, names[0], began)
	harness.Eventually(t, 15*time.Second, func() error {
		var list v1alpha1.EndpointList
		if err := f.manager.List(t.Context(), &list, client.InNamespace(f.name)); err != nil {
			return err
		}
		if left := slices.DeleteFunc(list.Items, func(ep v1alpha1.Endpoint) bool { return gatewayOf(&ep) == "" }); len(left) > 0 {
			return fmt.Errorf("%d sessions are left", len(left))
		}
		return nil
	})
	if took := time.Since(began); took < shortGrace+(batch+5-pace)*time.Second/pace {
		t.Errorf("all were given up within %s, faster than %d a second", took, pace)
	}
}
