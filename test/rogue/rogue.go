// Package rogue is a gateway in an attacker's hands. It has what any gateway has: the API token of its account, and a serving certificate that
// the manager signs for it. It is the real gateway in all but one thing: what its parts take for the store is a liar, who withholds, repeats and
// invents what agents are told. Beside that it uses its token as no gateway does. The control socket says which of its misdeeds it tries; each
// says what became of it. That nothing comes of them, and that people see it, is for a test to ask of agents and of the API server.
package rogue

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
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

// Config of a Rogue.
type Config struct {
	// REST reaches the API server, with the gateway's token, which must be there.
	REST *rest.Config
	// Namespace of the manager's ConfigMaps and of the gateways' Leases.
	Namespace string
	// Names by which agents reach it; the manager's --gateway-names must have them.
	Names []string
	// LeaseDuration and LeaseRenew are those of a gateway.
	LeaseDuration, LeaseRenew time.Duration
	// Artifacts is the gateway's store.
	Artifacts *artifact.Store
	Log       logr.Logger
}

// Rogue is one. Its methods may be called from any goroutine.
type Rogue struct {
	Config
	name string
	api  client.Client // with the gateway's token, for what no gateway does
	liar *liar
	keys keys

	serving  *serving.Keeper
	judge    *auth.Authenticator
	front    *gateway.Gateway
	beats    *heartbeat.Service
	actions  *dispatch.Dispatcher
	sessions *session.Hub
	agents   *listen.Server

	mu   sync.Mutex
	kept kept
}

// keys are its own: none of them is the fleet's.
type keys struct {
	root, orders ed25519.PrivateKey
	agent        *ecdsa.PrivateKey
}

func newKeys() (k keys, err error) {
	var failures [3]error
	_, k.root, failures[0] = ed25519.GenerateKey(rand.Reader)
	_, k.orders, failures[1] = ed25519.GenerateKey(rand.Reader)
	k.agent, failures[2] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return k, errors.Join(failures[:]...)
}

// New makes one that behaves, as long as nobody asks for a misdeed.
func New(c Config) (*Rogue, error) {
	r := &Rogue{Config: c, name: "gw-rogue-" + strings.ToLower(rand.Text()[:5])}
	var err error
	if r.keys, err = newKeys(); err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	if r.api, err = client.New(rest.CopyConfig(c.REST), client.Options{Scheme: scheme}); err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	s, err := store.New(store.Config{
		REST: c.REST, Namespace: c.Namespace, Gateway: r.name, Log: c.Log, WriteRate: 100,
		LeaseDuration: c.LeaseDuration, LeaseRenew: c.LeaseRenew, DrainTimeout: time.Second,
	})
	if err != nil {
		return nil, err
	}
	r.liar = &liar{Store: s, orders: map[string][]*v1alpha1.EndpointAction{}}
	r.serving = serving.New(s, c.Names, 24*time.Hour, c.Log)
	return r, r.assemble(prometheus.NewRegistry())
}

// assemble puts the real gateway's parts together, around the liar.
func (r *Rogue) assemble(registry prometheus.Registerer) error {
	dispatched, dispatchErr := dispatch.NewMetrics(registry)
	opened, sessionErr := session.NewMetrics(registry)
	answered, gatewayErr := gateway.NewMetrics(registry)
	downloads, downloadErr := download.New(download.Config{Source: r.liar, Store: r.Artifacts, Most: 10, Log: r.Log}, registry)
	if err := errors.Join(dispatchErr, sessionErr, gatewayErr, downloadErr); err != nil {
		return err
	}
	plenty := limit.PerSecond(1000, 1000)
	r.judge = auth.New(r.liar)
	r.actions = dispatch.New(dispatch.Config{
		Source: r.liar, API: r.liar, Metrics: dispatched, Log: r.Log, Gateway: r.name, Timing: dispatch.Timing{Repeat: 30 * time.Second, RunningAfter: 2 * time.Second},
		Wait: 2 * time.Second, Updates: plenty, DrainTimeout: time.Second,
	})
	r.beats = heartbeat.New(heartbeat.Config{
		Source: r.liar, Actions: r.actions, Gateway: r.name, MinInterval: time.Millisecond, Burst: 100, Grace: 2 * time.Second, PingInterval: 30 * time.Second,
	})
	r.sessions = session.New(session.Config{
		Beats: r.beats, Actions: r.actions, Auth: r.judge, Metrics: opened, Log: r.Log,
		FirstMessage: 10 * time.Second, Slack: 10 * time.Second, DownAfter: 2 * time.Second, Refresh: time.Hour, Sweep: time.Second, Spread: time.Second,
		Messages: plenty, Unanswered: 8, Upgrades: plenty,
	})
	certificates := enroll.New(enroll.Config{
		Source: r.liar, Wait: 10 * time.Second, Waiting: 10, Renewal: plenty, PerSource: plenty, PerToken: plenty, Total: plenty,
	})
	r.front = gateway.New(gateway.Config{
		Source: publisher{r.liar}, Auth: r.judge, Enroll: certificates, Heartbeat: r.beats, Actions: r.actions, Sessions: r.sessions,
		Downloads: downloads, Metrics: answered, Log: r.Log,
	})
	r.agents = listen.New(listen.Config{Certificate: r.serving.Certificate, Welcome: r.welcome, Log: r.Log})
	r.liar.OnChange(func(identityID string) { r.beats.Changed(identityID); r.sessions.Changed(identityID) })
	r.liar.OnConnection(func(identityID string) { r.beats.Changed(identityID); r.sessions.Changed(identityID) })
	r.liar.OnAction(r.changed)
	r.liar.OnRelease(r.beats.AnyChanged)
	r.liar.OnPolicy(func(string, string) { r.beats.AnyChanged(); r.sessions.PolicyChanged() })
	return nil
}

// changed has an agent told at once of what is new, true or not.
func (r *Rogue) changed(identityID string) {
	r.beats.Changed(identityID)
	r.sessions.ActionsChanged(identityID)
}

// Ready is nil once agents are served.
func (r *Rogue) Ready() error { return errors.Join(r.liar.Ready(), r.serving.Ready(time.Now())) }

// Run serves agents on l until ctx ends.
func (r *Rogue) Run(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { _ = r.liar.Run(ctx) })
	group.Go(func() { r.serving.Run(ctx) })
	group.Go(func() { r.sessions.Run(ctx) })
	group.Go(func() { r.actions.Run(ctx) })
	group.Go(func() {
		<-ctx.Done()
		over, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		r.agents.Shutdown(over)
	})
	err := r.agents.Serve(l)
	cancel()
	group.Wait()
	return err
}
