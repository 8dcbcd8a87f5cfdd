package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-dev/rollcall/internal/gateway/listen"
)

// Metrics of a gateway. No label has a value that agents choose.
type Metrics struct {
	answers    *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	handshakes *prometheus.CounterVec
}

// Facts are what a gateway is asked for when its metrics are read.
type Facts struct {
	// Connections that are in their handshake, not authenticated, and authenticated.
	Connections func() (handshakes, strangers, known int)
	// ServingExpires is when the serving certificate does; zero while there is none.
	ServingExpires func() time.Time
	// Agents is how many are remembered.
	Agents func() int
}

// NewMetrics makes metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_gateway_answers_total", Help: "Answers to agents by route and result: ok, pending (ask again), or the name of the problem.",
		}, []string{"route", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rollcall_gateway_answer_duration_seconds", Help: "Time to make an answer, once its request's headers were read, by route.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .05, .25, 1, 5, 15},
		}, []string{"route"}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_gateway_handshakes_total", Help: "TLS handshakes by result: completed, resumed, failed, timeout, displaced (its place was given to another).",
		}, []string{"result"}),
	}
	for _, c := range []prometheus.Collector{m.answers, m.duration, m.handshakes} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	for _, result := range []listen.Result{listen.Completed, listen.Resumed, listen.Failed, listen.TimedOut, listen.Displaced} {
		m.handshakes.WithLabelValues(string(result))
	}
	return m, nil
}

// Watch registers what is read from elsewhere.
func (m *Metrics) Watch(r prometheus.Registerer, f Facts) error {
	connections := func(pick func(a, b, c int) int, state string) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rollcall_gateway_connections", Help: "Connections by state: handshake, stranger (not authenticated) or agent.",
			ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(pick(f.Connections())) })
	}
	for _, c := range []prometheus.Collector{
		connections(func(n, _, _ int) int { return n }, "handshake"),
		connections(func(_, n, _ int) int { return n }, "stranger"),
		connections(func(_, _, n int) int { return n }, "agent"),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rollcall_gateway_serving_certificate_expiration_timestamp_seconds", Help: "When the serving certificate expires; 0 while there is none.",
		}, func() float64 {
			if t := f.ServingExpires(); !t.IsZero() {
				return float64(t.Unix())
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rollcall_gateway_agents", Help: "Agents that beat here since the gateway started, and whose endpoints are still there.",
		}, func() float64 { return float64(f.Agents()) }),
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// Handshake is for listen.Config.Handshake.
func (m *Metrics) Handshake(result listen.Result) {
	m.handshakes.WithLabelValues(string(result)).Inc()
}

func (m *Metrics) answered(route, result string, took time.Duration) {
	m.answers.WithLabelValues(route, result).Inc()
	m.duration.WithLabelValues(route).Observe(took.Seconds())
}
