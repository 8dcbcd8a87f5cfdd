package main

import (
	"context"
	"crypto"
	"fmt"
	"os"

	certv1 "k8s.io/api/certificates/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/controllers/action"
	"github.com/rollcall-dev/rollcall/controllers/endpoint"
	"github.com/rollcall-dev/rollcall/controllers/enrollment"
	"github.com/rollcall-dev/rollcall/controllers/gateways"
	"github.com/rollcall-dev/rollcall/controllers/gatewaytoken"
	"github.com/rollcall-dev/rollcall/controllers/keys"
	"github.com/rollcall-dev/rollcall/controllers/policy"
	"github.com/rollcall-dev/rollcall/controllers/release"
	"github.com/rollcall-dev/rollcall/controllers/serving"
	"github.com/rollcall-dev/rollcall/internal/artifact"
	"github.com/rollcall-dev/rollcall/internal/csr"
)

const gatewayAccount = "rollcall-gateway"

// wire adds everything to the manager.
func wire(ctx context.Context, mgr ctrl.Manager, o *options, fleet *keys.Fleet, store keys.Store, clock *keys.ServerClock) error {
	newTrust := make(chan event.GenericEvent, 1)
	for _, add := range []func() error{
		func() error { return addHealth(mgr) },
		func() error {
			return (&keys.Publisher{
				Store: store, Fleet: fleet, Clock: clock, Interval: o.beaconInterval, Log: mgr.GetLogger().WithName("beacon"),
				Advanced: func() { announce(newTrust) },
			}).SetupWithManager(mgr)
		},
		func() error { return addReleases(ctx, mgr, o, fleet, newTrust) },
		func() error { return addGatewayToken(mgr, o, store.Client) },
		func() error { return addServing(mgr, o, fleet) },
		func() error { return addEnrollment(ctx, mgr, o, fleet) },
		func() error {
			return policy.Setup(mgr, policy.Options{FleetID: fleet.ID, Orders: fleet.Orders, CountInterval: o.countInterval})
		},
		func() error { return addEndpoints(mgr, o, fleet) },
		func() error {
			return action.Setup(ctx, mgr, action.Options{FleetID: fleet.ID, Orders: fleet.Orders, ReportMargin: o.reportMargin, ChildRetention: o.childRetention})
		},
	} {
		if err := add(); err != nil {
			return fmt.Errorf("set up the manager: %w", err)
		}
	}
	return nil
}

// announce tells of something once, however often it happens before it is heard.
func announce(to chan<- event.GenericEvent) {
	select {
	case to <- event.GenericEvent{Object: &v1alpha1.ContentRelease{}}:
	default:
	}
}

func addReleases(ctx context.Context, mgr ctrl.Manager, o *options, fleet *keys.Fleet, newTrust <-chan event.GenericEvent) error {
	store, err := artifact.Open(ctx, o.artifactStore)
	if err != nil {
		return fmt.Errorf("--artifact-store: %w", err)
	}
	notShared := o.notShared(store)
	if notShared {
		mgr.GetLogger().Info("No gateway runs beside this manager (--gateway-token-file), and others may not see the directory of --artifact-store: every ContentRelease says so, and what to do.")
	}
	var authorities []byte
	if o.sourceCAFile != "" {
		if authorities, err = os.ReadFile(o.sourceCAFile); err != nil { //nolint:gosec // G703: the person who runs us names it
			return fmt.Errorf("--source-ca-file: %w", err)
		}
	}
	web, err := release.NewHTTPClient(authorities)
	if err != nil {
		return fmt.Errorf("--source-ca-file: %w", err)
	}
	return release.Setup(ctx, mgr, release.Options{
		FleetID: fleet.ID, Orders: fleet.Orders, Keys: func() []crypto.PublicKey { return fleet.Trust().Content }, KeysChanged: newTrust,
		Store: store, Sources: release.Sources{HTTP: web}, NotShared: notShared, CountInterval: o.releaseCount, Recheck: o.artifactCheck,
	})
}

func addGatewayToken(mgr ctrl.Manager, o *options, direct client.Client) error {
	if o.gatewayTokenFile == "" {
		return nil
	}
	return mgr.Add(&gatewaytoken.Writer{
		Client: direct, Namespace: o.namespace, Account: gatewayAccount, File: o.gatewayTokenFile, Refresh: o.gatewayTokenRefresh,
		Log: mgr.GetLogger().WithName("gatewaytoken"),
	})
}

// addServing gives the gateways' requests a cache of their own: a cache selects one signer at a time.
func addServing(mgr ctrl.Manager, o *options, fleet *keys.Fleet) error {
	requests, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject:         map[client.Object]cache.ByObject{&certv1.CertificateSigningRequest{}: {Field: signedBy(csr.GatewaySigner)}},
	})
	if err != nil {
		return err
	}
	if err := mgr.Add(requests); err != nil {
		return err
	}
	return (&serving.Reconciler{
		Client: mgr.GetClient(), Cache: requests, ServerCA: fleet.ServerCA,
		Account:  fmt.Sprintf("system:serviceaccount:%s:%s", o.namespace, gatewayAccount),
		Names:    o.gatewayNames,
		Lifetime: o.servingLifetime, Retention: o.csrRetention,
	}).SetupWithManager(mgr)
}

func addEnrollment(ctx context.Context, mgr ctrl.Manager, o *options, fleet *keys.Fleet) error {
	if err := enrollment.Index(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	opts := enrollment.Options{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: mgr.GetEventRecorder(component),
		FleetID: fleet.ID, Fleet: fleet, AgentCA: fleet.AgentCA,
		GatewayURL:          o.gatewayURL,
		CertificateLifetime: o.certificateLifetime, RenewalGrace: o.renewalGrace, PreviousKeyLifetime: o.previousKey,
		CSRRetention: o.csrRetention, TokenHour: o.tokenHour,
	}
	if err := (&enrollment.TokenReconciler{Options: opts}).SetupWithManager(mgr); err != nil {
		return err
	}
	return (&enrollment.CSRReconciler{Options: opts}).SetupWithManager(mgr)
}

// addEndpoints judges endpoints, and by what is seen of the gateways when they could be heard at all.
func addEndpoints(mgr ctrl.Manager, o *options, fleet *keys.Fleet) error {
	watcher, err := gateways.Setup(mgr, gateways.Options{Namespace: o.namespace, LeaseDuration: o.gatewayLease, Grace: o.gatewayGrace})
	if err != nil {
		return err
	}
	return endpoint.Setup(mgr, endpoint.Options{
		FleetID: fleet.ID, Orders: fleet.Orders,
		Gateways: watcher, GatewayLease: o.gatewayLease, GatewayGrace: o.gatewayGrace,
		// an agent renews at two thirds: of a short life less must be left before anybody worries
		CertificateExpiring: min(o.certificateExpiring, o.certificateLifetime/4), RenewalGrace: o.renewalGrace,
	})
}
