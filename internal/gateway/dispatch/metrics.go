package dispatch

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/action"
)

// Metrics of actions. No label has a value that agents or people choose.
type Metrics struct {
	transitions *prometheus.CounterVec
	unfit       prometheus.Counter
	queue       prometheus.Gauge
	latency     *prometheus.HistogramVec
}

// NewMetrics makes metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_gateway_action_transitions_total", Help: "Transitions of actions that were written here, by row of the table in docs/actions.md.",
		}, []string{"row"}),
		unfit: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_gateway_action_unfit_total", Help: "Events that did not fit the action as it was, so that nothing was written.",
		}),
		queue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rollcall_gateway_action_queue", Help: "Agents for whose actions something is to be done, and no worker is at it yet.",
		}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rollcall_gateway_action_dispatch_seconds", Help: "Time from an action's admission by the manager until it was sent first, by channel.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 300, 900, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600},
		}, []string{"channel"}),
	}
	for _, c := range []prometheus.Collector{m.transitions, m.unfit, m.queue, m.latency} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Metrics) transition(row action.Arrow) { m.transitions.WithLabelValues(string(row)).Inc() }

func (m *Metrics) sent(a *v1alpha1.EndpointAction) {
	took := a.Status.Delivery.SentTime.Sub(a.Status.Admission.Time.Time)
	m.latency.WithLabelValues(string(a.Status.Delivery.Channel)).Observe(took.Seconds())
}
