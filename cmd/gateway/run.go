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

	"github.com/rollcall-dev/rollcall/internal/artifact"
	"github.com/rollcall-dev/rollcall/internal/gateway"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/dispatch"
	"github.com/rollcall-dev/rollcall/internal/gateway/download"
	"github.com/rollcall-dev/rollcall/internal/gateway/enroll"
	"github.com/rollcall-dev/rollcall/internal/gateway/heartbeat"
	"github.com/rollcall-dev/rollcall/internal/gateway/limit"
	"github.com/rollcall-dev/rollcall/internal/gateway/listen"
	"github.com/rollcall-dev/rollcall/internal/gateway/serving"
	"github.com/rollcall-dev/rollcall/internal/gateway/session"
	"github.com/rollcall-dev/rollcall/internal/store"
)

// process is what runs.
type process struct {
	options  *options
	log      logr.Logger
	store    *store.Store
	serving  *serving.Keeper
	sessions *session.Hub
	actions  *dispatch.Dispatcher
	agents   *listen.Server
	health   *gateway.Health
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
		LeaseDuration: o.leaseDuration, LeaseRenew: o.leaseRenew, DrainTimeout: o.drainTimeout / 4, Registerer: registry,
	})
	if err != nil {
		return nil, err
	}
	metrics, err := gateway.NewMetrics(registry)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	actions, err := newDispatcher(o, name, log, s, registry)
	if err != nil {
		return nil, err
	}
	beats := heartbeat.New(heartbeat.Config{
		Source: s, Actions: actions, Gateway: name, MinInterval: o.beatSpacing, Burst: o.beatBurst, Grace: o.latePackets, PingInterval: o.pingInterval,
	})
	judge := auth.New(s)
	sessions, err := newHub(o, log, beats, actions, judge, registry)
	if err != nil {
		return nil, err
	}
	certificates := enroll.New(enroll.Config{
		Source: s, Wait: o.certificateWait, Waiting: max(1, o.maxStrangers/4), Renewal: limit.Rate{Every: o.renewSpacing, Burst: 1},
		PerSource: limit.PerSecond(o.perSource, int(5*o.perSource)), PerToken: limit.PerSecond(o.perToken, int(o.perToken)), Total: limit.PerSecond(o.total, int(o.total)),
	})
	downloads, err := newDownloads(o, log, s, registry)
	if err != nil {
		return nil, err
	}
	tell(s, beats, certificates, sessions)
	front := gateway.New(gateway.Config{
		Source: s, Auth: judge, Enroll: certificates, Heartbeat: beats, Actions: actions, Sessions: sessions, Downloads: downloads,
		Metrics: metrics, Log: log,
	})
	p := &process{options: o, log: log, store: s, serving: serving.New(s, o.names, o.servingRenew, log), sessions: sessions, actions: actions}
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

func newDispatcher(o *options, name string, log logr.Logger, s *store.Store, registry prometheus.Registerer) (*dispatch.Dispatcher, error) {
	metrics, err := dispatch.NewMetrics(registry)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return dispatch.New(dispatch.Config{
		Source: s, API: s, Metrics: metrics, Log: log, Gateway: name, Timing: dispatch.Timing{Repeat: o.actionRepeat, RunningAfter: o.actionRuns},
		Wait: o.actionWait, Updates: limit.PerSecond(o.messageRate, o.messageBurst), DrainTimeout: o.drainTimeout / 4,
	}), nil
}

func newHub(o *options, log logr.Logger, beats *heartbeat.Service, actions *dispatch.Dispatcher, judge *auth.Authenticator, registry prometheus.Registerer) (*session.Hub, error) {
	metrics, err := session.NewMetrics(registry)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return session.New(session.Config{
		Beats: beats, Actions: actions, Auth: judge, Metrics: metrics, Log: log,
		FirstMessage: o.firstMessage, Slack: o.sessionSlack, DownAfter: o.downAfter, Refresh: o.seenRefresh, Sweep: o.sessionSweep, Spread: o.drainSpread,
		Messages: limit.PerSecond(o.messageRate, o.messageBurst), Unanswered: o.maxUnanswered, Upgrades: limit.PerSecond(o.sessionRate, int(o.sessionRate)),
	}), nil
}

func newDownloads(o *options, log logr.Logger, s *store.Store, registry prometheus.Registerer) (*download.Service, error) {
	kept, err := artifact.Open(context.Background(), o.artifactStore)
	if err != nil {
		return nil, fmt.Errorf("--artifact-store: %w", err)
	}
	served, err := download.New(download.Config{Source: s, Store: kept, Most: o.maxDownloads, BytesPerSecond: o.downloadRate, Log: log}, registry)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return served, nil
}

// tell has everybody told of what is new in the store: heartbeats before sessions, which ask them.
func tell(s *store.Store, beats *heartbeat.Service, certificates *enroll.Service, sessions *session.Hub) {
	s.OnChange(func(identityID string) {
		if identityID != "" {
			beats.Changed(identityID)
			beats.Forget(identityID)
			certificates.Forget(identityID)
		}
		sessions.Changed(identityID)
	})
	s.OnConnection(func(identityID string) {
		beats.Changed(identityID)
		sessions.Changed(identityID)
	})
	s.OnAction(func(identityID string) {
		beats.Changed(identityID)
		sessions.ActionsChanged(identityID)
	})
	s.OnRelease(beats.AnyChanged) // with the next heartbeat of each: a fleet does not download all at once
	s.OnPolicy(func(string, string) {
		beats.AnyChanged()
		sessions.PolicyChanged()
	})
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
	probes, err := listenHealth(ctx, o.healthListen)
	if err != nil {
		return errors.Join(err, agents.Close())
	}
	return p.serve(ctx, agents, probes)
}

// serve runs everything on listeners; probes may be nil.
func (p *process) serve(ctx context.Context, agents, probes net.Listener) error {
	failed := make(chan error, 3) // one for each that can fail: nobody hangs on it
	start := func(group *sync.WaitGroup, what string, run func() error) {
		group.Go(func() {
			if err := run(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	var serving, writing sync.WaitGroup
	background := context.WithoutCancel(ctx)
	asking, stopAsking := context.WithCancel(background)
	reporting, stopReporting := context.WithCancel(background)
	defer stopAsking()
	defer stopReporting()
	health := p.health.Server()
	start(&writing, "watch the API server", func() error { return p.store.Run(reporting) })
	start(&serving, "serve agents", func() error { return p.agents.Serve(agents) })
	serving.Go(func() { p.serving.Run(asking) })
	serving.Go(func() { p.sessions.Run(asking) })
	writing.Go(func() { p.actions.Run(reporting) })
	if probes != nil {
		start(&serving, "serve health", func() error { return health.Serve(probes) })
	}
	p.log.Info("The gateway is started.", "listen", agents.Addr().String(), "health", p.options.healthListen)

	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	p.log.Info("Stopping: websockets are closed, requests under way are finished, what waits is written.")
	p.health.Drain()
	// Websockets have half of the time, while HTTPS is still served: agents fall back to it where there is no other gateway. Requests have a
	// quarter, and so has what waits to be written: what agents reported of actions, and what was reported of endpoints.
	within(background, p.options.drainTimeout/2, p.sessions.Drain)
	within(background, p.options.drainTimeout/4, p.agents.Shutdown)
	stopAsking()
	stopReporting() // nobody reports any more: what waits is written, and the Lease deleted
	writing.Wait()
	err = errors.Join(err, health.Close())
	serving.Wait()
	p.log.Info("Stopped.")
	return err
}

func within(ctx context.Context, d time.Duration, end func(context.Context)) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	end(ctx)
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
