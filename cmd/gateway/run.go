package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/rollcall-dev/rollcall/internal/gateway"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/enroll"
	"github.com/rollcall-dev/rollcall/internal/gateway/heartbeat"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/gateway/listen"
	"github.com/rollcall-dev/rollcall/internal/gateway/serving"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// process is what runs.
type process struct {
	options *options
	log     logr.Logger
	store   *store.Store
	serving *serving.Keeper
	agents  *listen.Server
	health  *gateway.Health
}

// build puts the parts together. Nothing runs yet.
func build(o *options, log logr.Logger) (*process, error) {
	api, err := o.apiServer()
	if err != nil {
		return nil, err
	}
	name := gatewayName(o.podName)
	log = log.WithValues("gateway", name)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s, err := store.New(store.Config{
		REST: api, Namespace: o.namespace, Gateway: name, Log: log, WriteRate: o.writeRate,
		LeaseDuration: o.leaseDuration, LeaseRenew: o.leaseRenew, DrainTimeout: o.drainTimeout / 2, Registerer: registry,
	})
	if err != nil {
		return nil, err
	}
	metrics, err := gateway.NewMetrics(registry)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	beats := heartbeat.New(heartbeat.Config{Source: s, Gateway: name, MinInterval: o.beatSpacing, Burst: o.beatBurst, Grace: o.latePackets})
	certificates := enroll.New(enroll.Config{
		Source: s, Wait: o.certificateWait, Renewal: limit.Rate{Every: o.renewSpacing, Burst: 1},
		PerSource: limit.PerSecond(o.perSource, int(5*o.perSource)), PerToken: limit.PerSecond(o.perToken, int(o.perToken)), Total: limit.PerSecond(o.total, int(o.total)),
	})
	s.OnChange(func(identityID string) {
		if identityID != "" {
			beats.Forget(identityID)
			certificates.Forget(identityID)
		}
	})
	front := gateway.New(gateway.Config{Source: s, Auth: auth.New(s), Enroll: certificates, Heartbeat: beats, Metrics: metrics, Log: log})
	p := &process{options: o, log: log, store: s, serving: serving.New(s, o.names, o.servingRenew, log)}
	p.agents = listen.New(listen.Config{
		Certificate: p.serving.Certificate, Welcome: front.Welcome, Handshake: metrics.Handshake, Log: log,
		MaxHandshakes: o.maxHandshakes, MaxStrangers: o.maxStrangers, MaxConnections: o.maxConnections,
		HandshakeTimeout: o.handshakeTimeout, BodyTimeout: o.bodyTimeout, IdleTimeout: o.idleTimeout,
	})
	p.health = gateway.NewHealth(registry, s.Ready, func() error { return p.serving.Ready(time.Now()) })
	err = metrics.Watch(registry, gateway.Facts{Connections: p.agents.Count, ServingExpires: p.serving.Expires, Agents: beats.Remembered})
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return p, nil
}

// run serves agents until ctx ends, and then drains.
func run(ctx context.Context, o *options, log logr.Logger) error {
	p, err := build(o, log)
	if err != nil {
		return err
	}
	var l net.ListenConfig
	agents, err := l.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen for agents (--listen): %w", err)
	}
	health := p.health.Server()
	probes, err := listenHealth(ctx, o.healthListen)
	if err != nil {
		return errors.Join(err, agents.Close())
	}
	failed := make(chan error, 2)
	var running, written sync.WaitGroup
	asking, stopAsking := context.WithCancel(context.WithoutCancel(ctx))
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAsking()
	defer stopWriting()
	written.Go(func() {
		if err := p.store.Run(writing); err != nil {
			failed <- err
		}
	})
	running.Go(func() { p.serving.Run(asking) })
	running.Go(func() {
		if err := p.agents.Serve(agents); err != nil {
			failed <- fmt.Errorf("serve agents: %w", err)
		}
	})
	if probes != nil {
		running.Go(func() {
			if err := health.Serve(probes); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve health: %w", err)
			}
		})
	}
	p.log.Info("gateway started", "listen", agents.Addr().String(), "health", o.healthListen)

	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	p.log.Info("stopping: requests under way are finished, what waits is written")
	p.health.Drain()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.drainTimeout/2)
	defer cancel()
	p.agents.Shutdown(drain)
	stopAsking()
	stopWriting() // nobody reports any more: what waits is written, and the Lease deleted
	written.Wait()
	err = errors.Join(err, health.Close())
	running.Wait()
	p.log.Info("stopped")
	return err
}

// listenHealth is nil for no address.
func listenHealth(ctx context.Context, address string) (net.Listener, error) {
	if address == "" {
		return nil, nil //nolint:nilnil // there is none, which is no error
	}
	var l net.ListenConfig
	probes, err := l.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for probes (--health-listen): %w", err)
	}
	return probes, nil
}
