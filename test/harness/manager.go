package harness

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/log"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/hack/local"
)

func scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(s))
	utilruntime.Must(v1alpha1.AddToScheme(s))
	return s
}

// Client acts as one of Rollcall's service accounts, with the rights that are shipped. An empty name is the administrator.
func (a *API) Client(t testing.TB, account string) client.Client {
	t.Helper()
	if account == "" {
		return clientOf(t, a.Admin)
	}
	cfg, err := controlplane.ServiceAccountConfig(t.Context(), a.Admin, local.Namespace, account)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	return clientOf(t, cfg)
}

func clientOf(t testing.TB, cfg *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(cfg, client.Options{Scheme: scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// RunManager runs controllers as the manager's service account, on one namespace or more, until stop is called or the test ends.
func (a *API) RunManager(t testing.TB, namespace string, setup func(ctrl.Manager) error, more ...string) (stop func()) {
	t.Helper()
	namespaces := map[string]cache.Config{namespace: {}}
	for _, another := range more {
		namespaces[another] = cache.Config{}
	}
	cfg, err := controlplane.ServiceAccountConfig(t.Context(), a.Admin, local.Namespace, local.ManagerAccount)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS, cfg.UserAgent = -1, local.ManagerAccount // what it asks for is what the program asks for
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme(),
		Logger: logr.New(log.NullLogSink{}),
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(), ReaderFailOnMissingInformer: true,
			DefaultNamespaces: namespaces,
		},
		Metrics:                 metricsserver.Options{BindAddress: "0"},
		GracefulShutdownTimeout: ptr.To(5 * time.Second),
		Controller:              config.Controller{SkipNameValidation: ptr.To(true)}, // several in one process
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := setup(mgr); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the manager failed: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
