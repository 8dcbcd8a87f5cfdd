package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/go-logr/logr/testr"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// world is a real API server of this package's own: its tests play the fleet's manager, and take the API server away.
var world struct {
	sync.Once
	api *harness.API
	dir string
	err error
}

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.Discard()) // the clients of test/harness
	code := m.Run()
	if world.api != nil {
		if err := world.api.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	_ = os.RemoveAll(world.dir)
	os.Exit(code)
}

func realAPI(t *testing.T) *harness.API {
	t.Helper()
	world.Do(start)
	if world.err != nil {
		t.Fatal(world.err)
	}
	return world.api
}

func start() {
	if world.dir, world.err = os.MkdirTemp("", "rollcall-store-"); world.err == nil {
		world.api, world.err = harness.Start(context.Background(), filepath.Join(world.dir, "cluster"))
	}
}

func testLog(t testing.TB) logr.Logger { return testr.NewWithInterface(t, testr.Options{}) }

// lines is a log that can be read.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) logger() logr.Logger {
	return funcr.New(func(prefix, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		fmt.Fprintln(&l.text, prefix, args)
	}, funcr.Options{})
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// sharedConnections are client-go's, which all clients of one API server in a process use.
var sharedConnections = goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run")

// fleet is a namespace of a real API server, the manager's account, and gateways' stores that run as theirs.
type fleet struct {
	t         *testing.T
	api       *harness.API
	manager   client.Client
	namespace string
	// restarts: this test restarts the API server, whose process is not a store's to end.
	restarts bool
	// prepare, where set, has each store before it runs.
	prepare func(*Store)
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	api := realAPI(t)
	return &fleet{t: t, api: api, manager: api.Client(t, local.ManagerAccount), namespace: api.Namespace(t)}
}

// gateway is a store that runs.
type gateway struct {
	*Store
	log lines
	// stop ends Run and waits for it.
	stop func()
}

// gateway starts a store as the gateway's own account, with its shipped rights and fences. Where it must stay behind nothing, goleak looks.
func (f *fleet) gateway(change ...func(*Config)) *gateway {
	f.t.Helper()
	before := goleak.IgnoreCurrent()
	as, err := controlplane.ServiceAccountConfig(f.t.Context(), f.api.Admin, local.Namespace, local.GatewayAccount)
	if err != nil {
		f.t.Fatal(err)
	}
	as.UserAgent = local.GatewayAccount // what a store asks for is what the program asks for
	g := &gateway{}
	cfg := Config{
		REST: as, Namespace: local.Namespace, Gateway: "gw-store-" + instanceOf(f.t.Name(), time.Now())[:5], Log: g.log.logger(), WriteRate: 100,
		LeaseDuration: 3 * time.Second, LeaseRenew: 300 * time.Millisecond, DrainTimeout: 5 * time.Second,
	}
	for _, c := range change {
		c(&cfg)
	}
	if g.Store, err = New(cfg); err != nil {
		f.t.Fatal(err)
	}
	if f.prepare != nil {
		f.prepare(g.Store)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
		if err := goleak.Find(before, sharedConnections); err != nil && !f.restarts {
			f.t.Errorf("a store that has ended leaves something behind: %v", err)
		}
		if f.t.Failed() {
			f.t.Logf("log of %s:\n%s", cfg.Gateway, &g.log)
		}
	})
	f.t.Cleanup(g.stop)
	return g
}

// ready waits until a store has read everything.
func (f *fleet) ready(g *gateway) *gateway {
	f.t.Helper()
	f.publish(beaconConfigMap, beaconData(f.t, 1))
	f.publish(trustConfigMap, trustData(f.t, 1))
	harness.Eventually(f.t, 10*time.Second, g.Ready)
	return g
}

// publish is what the manager does with its ConfigMaps.
func (f *fleet) publish(name string, data map[string]string) {
	f.t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: name}, Data: data}
	err := f.manager.Update(f.t.Context(), cm)
	if client.IgnoreNotFound(err) == nil && err != nil {
		err = f.manager.Create(f.t.Context(), cm)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// unpublish deletes them as the cluster's owner may.
func (f *fleet) unpublish(names ...string) {
	f.t.Helper()
	for _, name := range names {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: local.Namespace, Name: name}}
		if err := f.api.Client(f.t, "").Delete(f.t.Context(), cm); client.IgnoreNotFound(err) != nil {
			f.t.Fatal(err)
		}
	}
}

// enrol makes an Endpoint with an identity, as the manager does.
func (f *fleet) enrol(name string) *v1alpha1.Endpoint {
	f.t.Helper()
	e := &v1alpha1.Endpoint{ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: name}}
	if err := f.manager.Create(f.t.Context(), e); err != nil {
		f.t.Fatal(err)
	}
	id := uuidOf(f.namespace, name)
	return f.status(e, func(e *v1alpha1.Endpoint) {
		e.Status.Identity = &v1alpha1.EndpointIdentity{
			ID: id, PublicKeys: [][]byte{[]byte(id)}, EnrolledTime: metav1.Time{Time: enrolled},
		}
		e.Status.Policy = &v1alpha1.AssignedPolicy{Name: "laptops", Assignment: assignmentTo(f.t, id)}
	})
}

// status writes status as the manager does.
func (f *fleet) status(e *v1alpha1.Endpoint, change func(*v1alpha1.Endpoint)) *v1alpha1.Endpoint {
	f.t.Helper()
	next := e.DeepCopy()
	change(next)
	if err := f.manager.Status().Patch(f.t.Context(), next, client.MergeFrom(e)); err != nil {
		f.t.Fatal(err)
	}
	return next
}

// stored is an Endpoint as the API server has it.
func (f *fleet) stored(e *v1alpha1.Endpoint) *v1alpha1.Endpoint {
	f.t.Helper()
	out := &v1alpha1.Endpoint{}
	if err := f.manager.Get(f.t.Context(), client.ObjectKeyFromObject(e), out); err != nil {
		f.t.Fatal(err)
	}
	return out
}

// known waits until a store knows an Endpoint.
func (f *fleet) known(g *gateway, e *v1alpha1.Endpoint) Endpoint {
	f.t.Helper()
	return f.eventually(g, e, func(Endpoint) error { return nil })
}

// eventually waits until a store says of an Endpoint what check wants.
func (f *fleet) eventually(g *gateway, e *v1alpha1.Endpoint, check func(Endpoint) error) (got Endpoint) {
	f.t.Helper()
	harness.Eventually(f.t, 10*time.Second, func() error {
		var ok bool
		if got, ok = g.EndpointByIdentity(e.Status.Identity.ID); !ok {
			return fmt.Errorf("%s is not known", e.Name)
		}
		return check(got)
	})
	return got
}

// always fails as soon as check does, within some time.
func (f *fleet) always(check func() error) {
	f.t.Helper()
	for end := time.After(300 * time.Millisecond); ; {
		if err := check(); err != nil {
			f.t.Fatal(err)
		}
		select {
		case <-end:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}
