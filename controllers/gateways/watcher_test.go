package gateways

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

const leaseDuration = time.Second

// private is an API server that is ours to take away, and whose gateways are ours.
var (
	private    *harness.API
	privateDir string
)

func TestMain(m *testing.M) {
	code := m.Run()
	if private != nil {
		if err := private.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(privateDir)
	os.Exit(code)
}

func cluster(t *testing.T) *harness.API {
	t.Helper()
	if private == nil {
		if err := startPrivate(); err != nil {
			t.Fatal(err)
		}
	}
	return private
}

func startPrivate() (err error) {
	if privateDir, err = os.MkdirTemp("", "rollcall-gateways-"); err != nil {
		return err
	}
	private, err = harness.Start(context.Background(), privateDir)
	return err
}

// gateway renews a Lease as a gateway does, for as long as it lives.
type gateway struct {
	c     client.Client
	lease *coordinationv1.Lease
	stops atomic.Bool
	// stopped is closed once it has stopped.
	stopped chan struct{}
}

func newGateway(t *testing.T, c client.Client, name string) *gateway {
	t.Helper()
	g := &gateway{c: c, lease: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: name}}, stopped: make(chan struct{})}
	if err := c.Create(t.Context(), g.lease); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) live(ctx context.Context) {
	tick := time.NewTicker(leaseDuration / 4)
	defer tick.Stop()
	defer close(g.stopped)
	for !g.stops.Load() && ctx.Err() == nil {
		g.lease.Spec.RenewTime = ptr.To(metav1.NowMicro())
		_ = g.c.Update(ctx, g.lease) // the API server may be away
		<-tick.C
	}
}

func TestWatcher(t *testing.T) {
	api := cluster(t)
	c := api.Client(t, local.GatewayAccount)
	dead, other := newGateway(t, c, "gw-dead0-00000"), newGateway(t, c, "gw-other-00000")
	alive := newGateway(t, c, "gw-alive-00000")
	go alive.live(t.Context())
	go other.live(t.Context())

	var w *Watcher
	began := time.Now()
	api.RunManager(t, local.Namespace, func(mgr ctrl.Manager) (err error) {
		w, err = Setup(mgr, Options{Namespace: local.Namespace, LeaseDuration: leaseDuration, Grace: 200 * time.Millisecond})
		return err
	})
	aliveSince := func(since time.Time) error {
		if from, to := w.Listened(); from.Before(since) || time.Since(to) > leaseDuration {
			return fmt.Errorf("alive from %s to %s", from, to)
		}
		return nil
	}
	harness.Eventually(t, 10*time.Second, func() error { return aliveSince(began.Add(-leaseDuration)) })

	harness.Eventually(t, 10*time.Second, func() error {
		err := c.Get(t.Context(), client.ObjectKeyFromObject(dead.lease), &coordinationv1.Lease{})
		if !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("the Lease of a dead gateway is still there"), err)
		}
		return nil
	})
	if kept := time.Since(began); kept < keptGraces*200*time.Millisecond {
		t.Errorf("it was deleted after %s already", kept)
	}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: local.Namespace, Name: "gw-alive-00000"}, &coordinationv1.Lease{}); err != nil {
		t.Errorf("the Lease of a gateway that is alive: %v", err)
	}
	if err := aliveSince(began.Add(-leaseDuration)); err != nil {
		t.Errorf("not without a break since the start: %v", err)
	}

	if err := api.ControlPlane.KillAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	for away := time.After(4 * leaseDuration); away != nil; {
		select {
		case <-away:
			away = nil
		case <-time.After(leaseDuration / 10):
			if since := w.Missing(time.Now()); !since.IsZero() {
				t.Fatalf("the API server is away, but the gateways are called missing since %s", since)
			}
		}
	}
	if _, to := w.Listened(); to.After(killed) {
		t.Errorf("a gateway was alive at %s, it says, but the API server was killed at %s", to, killed)
	}
	if err := api.ControlPlane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 10*time.Second, func() error { return aliveSince(killed.Add(2 * leaseDuration)) })

	alive.stops.Store(true)
	other.stops.Store(true)
	stopped := time.Now()
	harness.Eventually(t, 10*time.Second, func() error {
		if w.Missing(time.Now()).IsZero() {
			return fmt.Errorf("%s after the last gateway stopped none is missing", time.Since(stopped))
		}
		return nil
	})
	if took := time.Since(stopped); took < leaseDuration/2 {
		t.Errorf("missing %s after the last renewal already", took)
	}
}
