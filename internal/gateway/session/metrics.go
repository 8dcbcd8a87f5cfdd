package session

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Metrics of sessions. No label has a value that agents choose.
type Metrics struct {
	up             prometheus.Gauge
	opened, orders prometheus.Counter
	ends           *prometheus.CounterVec
	messages       *prometheus.CounterVec
	sweep          prometheus.Histogram

	heartbeats, pings, updates, unknown prometheus.Counter
}

// codes that have a series of their own. An agent may close with any.
var codes = []wire.CloseCode{
	wire.CloseNormal, wire.CloseGoingAway, wire.CloseProtocol, wire.CloseUnsupportedData, wire.CloseNoStatus, wire.CloseAbnormal,
	wire.CloseInvalidPayload, wire.ClosePolicy, wire.CloseTooBig, wire.CloseInternal, wire.CloseDraining, wire.CloseOverloaded,
	wire.CloseCertificate, wire.CloseNotActive, wire.CloseTimeout, wire.CloseReplaced, wire.CloseUnknown, wire.CloseVersion,
}

// NewMetrics makes metrics and registers them.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		up: prometheus.NewGauge(prometheus.GaugeOpts{Name: "rollcall_gateway_sessions", Help: "Sessions that are up: the agent's first heartbeat was accepted."}),
		opened: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_gateway_sessions_opened_total", Help: "Websockets that were opened.",
		}),
		orders: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_gateway_session_orders_total", Help: "Messages with orders that were sent without being asked for.",
		}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_gateway_sessions_closed_total", Help: "Websockets that ended, by close code, whoever closed; 1006: the connection broke off.",
		}, []string{"code"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rollcall_gateway_session_messages_total", Help: "Messages of agents on sessions by kind: heartbeat, ping, update (of an action), or unknown.",
		}, []string{"kind"}),
		sweep: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rollcall_gateway_session_sweep_duration_seconds", Help: "Time to look at all sessions' times once.",
			Buckets: []float64{.0001, .001, .01, .1, 1},
		}),
	}
	for _, c := range []prometheus.Collector{m.up, m.opened, m.orders, m.ends, m.messages, m.sweep} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	for _, code := range codes {
		m.ends.WithLabelValues(label(code))
	}
	m.heartbeats, m.pings = m.messages.WithLabelValues("heartbeat"), m.messages.WithLabelValues("ping")
	m.updates, m.unknown = m.messages.WithLabelValues("update"), m.messages.WithLabelValues("unknown")
	return m, nil
}

func (m *Metrics) closed(code wire.CloseCode) { m.ends.WithLabelValues(label(code)).Inc() }

func label(code wire.CloseCode) string {
	for _, c := range codes {
		if c == code {
			return strconv.Itoa(int(code))
		}
	}
	return "other"
}
