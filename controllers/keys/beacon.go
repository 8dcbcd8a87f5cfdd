package keys

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// maxSkew between this machine's clock and the API server's beyond which no beacon is signed: agents would take a wrong time from it.
const maxSkew = 30 * time.Second

// beaconKey is where the ConfigMap holds the newest beacon.
const beaconKey = "beacon.json"

var (
	beaconIssued = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rollcall_beacon_issued_timestamp_seconds", Help: "Time that the newest beacon tells to agents.",
	})
	clockSkew = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rollcall_clock_skew_seconds", Help: "This machine's clock minus the API server's; beyond 30 s no beacon is signed.",
	})
)

func init() { metrics.Registry.MustRegister(beaconIssued, clockSkew) }

// ServerClock learns the API server's time from the answers that pass through it.
type ServerClock struct{ skew atomic.Pointer[time.Duration] }

// Wrap is for rest.Config.Wrap.
func (c *ServerClock) Wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(req)
		if err == nil {
			c.observe(resp.Header.Get("Date"), time.Now())
		}
		return resp, err
	})
}

func (c *ServerClock) observe(date string, now time.Time) {
	server, err := http.ParseTime(date)
	if err != nil {
		return
	}
	skew := now.Sub(server.Add(time.Second / 2)) // Date is cut to seconds
	c.skew.Store(&skew)
	clockSkew.Set(skew.Seconds())
}

// Skew is this machine's clock minus the API server's, to about a second; ok is false before the first answer.
func (c *ServerClock) Skew() (skew time.Duration, ok bool) {
	p := c.skew.Load()
	if p == nil {
		return 0, false
	}
	return *p, true
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Publisher keeps trust and beacon published while this process is the leader.
type Publisher struct {
	Store    Store
	Fleet    *Fleet
	Clock    *ServerClock
	Interval time.Duration
	// Advanced is called when another trust bundle is published; nil: nobody is told.
	Advanced func()
	Log      logr.Logger

	nudged chan struct{} // nil: nobody nudges
}

// errKeysReplaced ends the process: everything in it signs with what it loaded at its start.
var errKeysReplaced = errors.New("the keys in the Secrets are not the ones that this process started with: start it again to use them")

// retryInterval after a failure; also how long a new leader's clock error stays unnoticed at most.
const retryInterval = 5 * time.Second

// Start publishes until ctx ends. It fails only if the keys were replaced since this process loaded them.
func (p *Publisher) Start(ctx context.Context) error {
	taken := false
	for {
		err := error(nil)
		if !taken {
			err = p.take(ctx)
		}
		if errors.Is(err, errKeysReplaced) {
			return err
		}
		if taken = err == nil; taken {
			err = p.beat(ctx)
			taken = !p.overlapEnds(p.Store.now())
		}
		wait := p.Interval
		if err != nil && ctx.Err() == nil {
			p.Log.Error(err, "No beacon was signed: agents see its age, and take no new time until there is one.")
			wait = min(wait, retryInterval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		case <-p.nudged:
			taken = false
		}
	}
}

// take makes sure that the keys are still the ones that were loaded, and that the published trust says so.
func (p *Publisher) take(ctx context.Context) error {
	now, err := p.Store.Ensure(ctx)
	if err != nil {
		return err
	}
	if !p.Fleet.same(now) {
		return errKeysReplaced
	}
	before := p.Fleet.Trust().Version
	if err := p.Store.Advance(ctx, p.Fleet); err != nil {
		return err
	}
	if p.Advanced != nil && p.Fleet.Trust().Version != before {
		p.Advanced()
	}
	return nil
}

// overlapEnds tells whether a replaced order key has been believed for long enough.
func (p *Publisher) overlapEnds(now time.Time) bool {
	trust := p.Fleet.Trust()
	return len(trust.Orders) > 1 && !now.Before(trust.IssuedAt.Add(p.Store.Overlap))
}

func (p *Publisher) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(p.Interval/2, time.Second))
	defer cancel()
	cm, found := &corev1.ConfigMap{}, true
	err := p.Store.Client.Get(ctx, client.ObjectKey{Namespace: p.Store.Namespace, Name: Beacons}, cm)
	if apierrors.IsNotFound(err) {
		found = false
		cm.Namespace, cm.Name = p.Store.Namespace, Beacons
	} else if err != nil {
		return fmt.Errorf("read the last beacon: %w", err)
	}
	skew, known := p.Clock.Skew()
	beacon, err := p.next(p.Store.now(), skew, known, lastBeacon(cm))
	if err != nil {
		return err
	}
	e, err := envelope.Seal(p.Fleet.Orders, envelope.Beacon, beacon)
	if err != nil {
		return err
	}
	text, err := envelope.MarshalJSON(e)
	if err != nil {
		return err
	}
	cm.Data = map[string]string{beaconKey: string(text)}
	write := p.Store.Client.Create
	if found {
		write = func(ctx context.Context, o client.Object, _ ...client.CreateOption) error {
			return p.Store.Client.Update(ctx, o)
		}
	}
	if err := write(ctx, cm); err != nil {
		return fmt.Errorf("publish the beacon: %w", err)
	}
	beaconIssued.Set(float64(beacon.GetIssuedAt().AsTime().Unix()))
	return nil
}

// next is the beacon to sign now, or why none may be.
func (p *Publisher) next(now time.Time, skew time.Duration, known bool, last *agentv1.Beacon) (*agentv1.Beacon, error) {
	now = now.Truncate(time.Millisecond)
	switch {
	case !known:
		return nil, errors.New("the API server's time is not known yet")
	case skew.Abs() > maxSkew:
		return nil, fmt.Errorf("this machine's clock differs from the API server's by %s: set one of them", skew.Round(time.Second))
	case last.GetIssuedAt().IsValid() && !now.After(last.GetIssuedAt().AsTime()):
		return nil, fmt.Errorf("the last beacon told %s, which is not past yet: agents' time never goes back", last.GetIssuedAt().AsTime().Format(time.RFC3339))
	}
	return &agentv1.Beacon{FleetId: p.Fleet.ID, IssuedAt: timestamppb.New(now), TrustVersion: p.Fleet.Trust().Version}, nil
}

// lastBeacon reads what was published last; nil where nothing readable was.
func lastBeacon(cm *corev1.ConfigMap) *agentv1.Beacon {
	e, err := envelope.UnmarshalJSON([]byte(cm.Data[beaconKey]))
	if err != nil {
		return nil
	}
	b := &agentv1.Beacon{}
	if envelope.Parse(e.GetPayload(), b) != nil {
		return nil
	}
	return b
}
