package action

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	transitions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rollcall_action_transitions_total", Help: "Transitions of actions that this process wrote, by the row of the table in docs/actions.md.",
	}, []string{"row", "type"})
	admissions = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "rollcall_action_admission_duration_seconds", Help: "From when the leading manager saw an action first to when it was admitted.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, 1, 5, 30, 300, 3600},
	})
	open = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "rollcall_actions_open", Help: "Actions that have not ended, as the leading manager sees it.",
	}, []string{"type"})
	lostRaces = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rollcall_action_lost_races_total", Help: "Writes that were refused because somebody else had written before: they were decided again.",
	})
	unfit = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rollcall_action_unfit_total", Help: "Events that did not fit an action as it was: nothing was written.",
	})
	badProofs = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rollcall_action_bad_proofs_total", Help: "Results that are not what their agents have signed. Look at the gateways.",
	})
)

func init() {
	metrics.Registry.MustRegister(transitions, admissions, open, lostRaces, unfit, badProofs)
}
