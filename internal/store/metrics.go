package store

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one store. None has a label for an endpoint.
type metrics struct {
	writes  *prometheus.CounterVec
	renewed prometheus.Gauge
	waiting *prometheus.Desc
	oldest  *prometheus.Desc
	open    *prometheus.Desc
	pacer   *pacer
	actions *actions
}

var laneNames = [laneCount]string{"sessions", "facts"}

func newMetrics() *metrics {
	return &metrics{
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_gateway_status_writes_total",
			Help: "Blocks of Endpoint status by what became of their writing: written, unchanged, superseded, gone, refused or failed (and tried again).",
		}, []string{"block", "result"}),
		renewed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rollcall_gateway_lease_renewed_timestamp_seconds", Help: "When this gateway's Lease was last renewed.",
		}),
		waiting: prometheus.NewDesc("rollcall_gateway_pending_writes", "Endpoints whose newest state is not written yet.", []string{"lane"}, nil),
		oldest: prometheus.NewDesc("rollcall_gateway_pending_writes_oldest_age_seconds",
			"How long the oldest of the pending writes has waited.", nil, nil),
		open: prometheus.NewDesc("rollcall_gateway_open_actions", "EndpointActions that are admitted and have not ended.", nil, nil),
	}
}

func (m *metrics) count(blocks []string, result string) {
	for _, b := range blocks {
		m.writes.WithLabelValues(b, result).Inc()
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	m.writes.Describe(ch)
	m.renewed.Describe(ch)
	ch <- m.waiting
	ch <- m.oldest
	ch <- m.open
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	m.writes.Collect(ch)
	m.renewed.Collect(ch)
	waiting, oldest := m.pacer.depth()
	for l, n := range waiting {
		ch <- prometheus.MustNewConstMetric(m.waiting, prometheus.GaugeValue, float64(n), laneNames[l])
	}
	age := 0.0
	if !oldest.IsZero() {
		age = time.Since(oldest).Seconds()
	}
	ch <- prometheus.MustNewConstMetric(m.oldest, prometheus.GaugeValue, age)
	ch <- prometheus.MustNewConstMetric(m.open, prometheus.GaugeValue, float64(m.actions.count()))
}
