package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/go-logr/logr"
	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/controllers/keys"
	"github.com/rollcall-dev/rollcall/internal/csr"
)

const (
	component = "rollcall-manager"
	// startRetry between tries to begin while the API server does not answer, or does not let us yet.
	startRetry = 2 * time.Second
	// reconcileTimeout bounds one reconciliation: a request that hangs is tried again.
	reconcileTimeout = time.Minute
)

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	return scheme
}

// run is the manager's life.
func run(ctx context.Context, o *options, logger logr.Logger) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return fmt.Errorf("how to reach the API server: %w", err)
	}
	cfg.QPS = -1 // the API server's priority and fairness knows better who must wait
	cfg.UserAgent = component
	clock := &keys.ServerClock{}
	store, err := newStore(cfg, clock, o)
	if err != nil {
		return err
	}
	fleet, err := begin(ctx, cfg, store, logger)
	if err != nil {
		return err
	}
	mgr, err := newManager(cfg, o, logger)
	if err != nil {
		return fmt.Errorf("make the manager: %w", err)
	}
	if err := wire(ctx, mgr, o, fleet, store, clock); err != nil {
		return err
	}
	logger.Info("The manager starts.", "fleet", fleet.ID, "trustVersion", fleet.Trust().Version, "namespace", o.namespace)
	return mgr.Start(ctx)
}

// newStore reads and writes keys through a client of its own, past any cache, whose answers tell the API server's time.
func newStore(cfg *rest.Config, clock *keys.ServerClock, o *options) (keys.Store, error) {
	watched := rest.CopyConfig(cfg)
	watched.Wrap(clock.Wrap)
	direct, err := client.New(watched, client.Options{Scheme: newScheme()})
	return keys.Store{Client: direct, Namespace: o.namespace, Overlap: o.orderKeyOverlap}, err
}

// begin waits for the API server, checks the kinds, and loads or makes the fleet's keys.
func begin(ctx context.Context, cfg *rest.Config, store keys.Store, logger logr.Logger) (*keys.Fleet, error) {
	for {
		err := checkKinds(cfg)
		var fleet *keys.Fleet
		if err == nil {
			fleet, err = store.Ensure(ctx)
		}
		if err == nil || !passes(err) {
			return fleet, err
		}
		logger.Info("The manager waits for the API server.", "reason", err.Error())
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(startRetry):
		}
	}
}

// passes tells whether an error goes away by waiting: no answer, or rights that are about to be given.
func passes(err error) bool {
	var (
		noAnswer *url.Error
		network  net.Error
		status   apierrors.APIStatus
	)
	return errors.As(err, &noAnswer) || errors.As(err, &network) || errors.As(err, &status) && !apierrors.IsInvalid(err)
}

func newManager(cfg *rest.Config, o *options, logger logr.Logger) (ctrl.Manager, error) {
	return ctrl.NewManager(cfg, ctrl.Options{
		Scheme: newScheme(),
		Logger: logger,
		Cache: cache.Options{
			DefaultTransform:            cache.TransformStripManagedFields(),
			ReaderFailOnMissingInformer: true, // nothing is listed or watched by accident, Secrets least of all
			ByObject: map[client.Object]cache.ByObject{
				&certv1.CertificateSigningRequest{}: {Field: signedBy(csr.AgentSigner)},
				&corev1.ConfigMap{}: {
					Namespaces: map[string]cache.Config{o.namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", keys.ReleaseKeys)}},
				},
			},
		},
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              component,
		LeaderElectionNamespace:       o.namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &o.leaseDuration,
		RenewDeadline:                 &o.renewDeadline,
		RetryPeriod:                   &o.retryPeriod,
		GracefulShutdownTimeout:       ptr.To(time.Second),
		HealthProbeBindAddress:        listen(o.healthListen),
		Metrics:                       metricsserver.Options{BindAddress: listen(o.metricsListen)},
		Controller:                    config.Controller{EnableWarmup: ptr.To(true), ReconciliationTimeout: reconcileTimeout},
	})
}

func signedBy(signer string) fields.Selector {
	return fields.OneTermEqualSelector("spec.signerName", signer)
}

// listen is an address as controller-runtime takes it, where "" would mean its default.
func listen(address string) string {
	if address == "" {
		return "0"
	}
	return address
}

func addHealth(mgr ctrl.Manager) error {
	synced := func(req *http.Request) error {
		ctx, cancel := context.WithTimeout(req.Context(), time.Second)
		defer cancel()
		if !mgr.GetCache().WaitForCacheSync(ctx) {
			return errors.New("the cache is not filled yet")
		}
		return nil
	}
	return errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("cache", synced))
}
