// Package gateways watches over the gateways by their Leases: without one, no endpoint can be heard, and its silence says nothing. What a
// gateway that is gone has said of its sessions is taken back.
package gateways

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

const (
	leasePrefix = "gw-"
	// looksPerLease is how often the Leases are looked at in the time that a renewal is good for.
	looksPerLease = 10
	// keptGraces is how many times the grace the Lease of a gateway that is gone is kept: people may want to see it.
	keptGraces = 10
	// maxLeases bounds what one look takes in: who has a gateway's account can make as many as it likes.
	maxLeases = 500
)

var (
	alive = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rollcall_gateways", Help: "Gateways that renew their Leases, as the leading manager sees it.",
	})
	heard = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rollcall_gateways_alive_timestamp_seconds", Help: "When a gateway was last known to be alive. No endpoint goes offline by a deadline after it.",
	})
)

func init() { metrics.Registry.MustRegister(alive, heard) }

// Options of the watcher.
type Options struct {
	// Namespace of the Leases.
	Namespace string
	// LeaseDuration is how long a renewal of a Lease is good for.
	LeaseDuration time.Duration
	// Grace is how long a gateway may be silent until it is gone. Its Lease is deleted after ten times as long.
	Grace time.Duration
}

// Watcher looks at the Leases while this process leads. Its methods may be called by any number of goroutines.
type Watcher struct {
	Options
	api client.Client
	log logr.Logger

	mu    sync.Mutex
	sight sight
	// told is what the log says: whether there is a gateway.
	told bool
}

// Setup adds a watcher to a manager, and who gives up the sessions of gateways that are gone.
func Setup(mgr ctrl.Manager, opts Options) (*Watcher, error) {
	// Past the cache: what a look finds must be as new as the look.
	api, err := client.New(mgr.GetConfig(), client.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return nil, fmt.Errorf("make a client for the gateways' Leases: %w", err)
	}
	w := &Watcher{Options: opts, api: api, log: mgr.GetLogger().WithName("gateways"), sight: sight{patience: opts.LeaseDuration}}
	if err := mgr.Add(w); err != nil {
		return nil, fmt.Errorf("add the watcher of gateways: %w", err)
	}
	if err := setupReaper(mgr, w); err != nil {
		return nil, fmt.Errorf("add the reaper of sessions: %w", err)
	}
	return w, nil
}

// Listened is the newest stretch of time without a break in which some gateway was alive, as was seen. Both are zero before any was.
func (w *Watcher) Listened() (from, to time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sight.from, w.sight.to
}

// Missing is since when the API server has answered without a break and shown no gateway that is alive; zero: there is one, or the API
// server does not answer.
func (w *Watcher) Missing(now time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sight.missing(now)
}

// untilGone is how long a gateway still has until it is gone, if it stays silent; 0: it is gone, as far as was seen.
func (w *Watcher) untilGone(name string, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sight.untilGone(name, now, w.Grace)
}

// gone asks the API server whether a gateway that seems to be gone is. Looks may lag behind, and show no more than maxLeases.
func (w *Watcher) gone(ctx context.Context, name string) (bool, error) {
	start, lease := time.Now().Round(0), &coordinationv1.Lease{}
	if strings.HasPrefix(name, leasePrefix) { // no gateway has another name, and other Leases are none of a gateway's
		err := w.api.Get(ctx, client.ObjectKey{Namespace: w.Namespace, Name: name}, lease)
		if client.IgnoreNotFound(err) != nil {
			return false, fmt.Errorf("get Lease %s: %w", name, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sight.found(start, name, lease.ResourceVersion) && w.sight.untilGone(name, start, w.Grace) == 0, nil
}

// Start looks until ctx ends.
func (w *Watcher) Start(ctx context.Context) error {
	tick := time.NewTicker(w.LeaseDuration / looksPerLease)
	defer tick.Stop()
	for {
		// Without the monotonic clock, which stands still while a machine sleeps.
		start := time.Now().Round(0)
		leases, err := w.look(ctx, start)
		if err == nil {
			err = w.forget(ctx, leases, start)
		}
		if ctx.Err() == nil {
			w.tell(start, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look finds the Leases as they are, at some time after start.
func (w *Watcher) look(ctx context.Context, start time.Time) ([]*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, w.LeaseDuration)
	defer cancel()
	var list coordinationv1.LeaseList
	if err := w.api.List(ctx, &list, client.InNamespace(w.Namespace), client.Limit(maxLeases)); err != nil {
		return nil, fmt.Errorf("list Leases: %w", err)
	}
	var leases []*coordinationv1.Lease
	versions := map[string]string{}
	for i := range list.Items {
		if l := &list.Items[i]; strings.HasPrefix(l.Name, leasePrefix) {
			leases = append(leases, l)
			versions[l.Name] = l.ResourceVersion
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sight.look(start, versions, list.Continue == "")
	w.sight.forget(start, keptGraces*w.Grace)
	return leases, nil
}

// forget deletes the Leases of gateways that are long gone.
func (w *Watcher) forget(ctx context.Context, leases []*coordinationv1.Lease, now time.Time) error {
	for _, l := range leases {
		if w.silence(l.Name, now) < keptGraces*w.Grace {
			continue
		}
		// On condition that it still is the version that was judged: a gateway that came back this moment keeps its Lease.
		err := w.api.Delete(ctx, l, client.Preconditions{UID: &l.UID, ResourceVersion: &l.ResourceVersion})
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("delete Lease %s of a gateway that is gone: %w", l.Name, err)
		}
		w.log.Info("A gateway is long gone: its Lease was deleted.", "gateway", l.Name)
	}
	return nil
}

func (w *Watcher) silence(name string, now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sight.silence(name, now)
}

func (w *Watcher) alive(now time.Time) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sight.alive(now)
}

// tell counts, and logs when the last gateway is lost and when there is one again.
func (w *Watcher) tell(now time.Time, err error) {
	_, to := w.Listened()
	n := w.alive(now)
	alive.Set(float64(n))
	if !to.IsZero() {
		heard.Set(float64(to.Unix()))
	}
	if err != nil {
		w.log.V(1).Info("The gateways' Leases could not be looked after.", "reason", err.Error())
	}
	if w.told == (n > 0) {
		return
	}
	if w.told = n > 0; w.told {
		w.log.Info("A gateway is alive.", "gateways", n)
		return
	}
	reason := "no Lease is renewed"
	if err != nil {
		reason = err.Error()
	}
	w.log.Info("No gateway is known to be alive: until one is, no endpoint goes offline.", "since", to.UTC().Format(time.RFC3339), "reason", reason)
}
