package release

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

var fetches = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "rollcall_release_fetches_total", Help: "Artifacts that were fetched from their sources and verified, by result: ok, or the reason of the condition Ready.",
}, []string{"result"})

func init() { metrics.Registry.MustRegister(fetches) }

// fetched counts what came of a fetch; one that waits for its turn is none.
func fetched(err error) {
	result := "ok"
	if err != nil {
		result = problemOf(err).reason
	}
	if result != reasonFetching {
		fetches.WithLabelValues(result).Inc()
	}
}

var (
	releasesDesc = prometheus.NewDesc("rollcall_releases",
		"ContentReleases by the reason of their condition Ready, as the leading manager sees them.", []string{"reason"}, nil)
	endpointsDesc = prometheus.NewDesc("rollcall_release_endpoints",
		"Endpoints that run the content of a release (applied), or could not apply it (failed), as the leading manager sees them.", []string{"state"}, nil)
)

// fleet counts at each scrape, from the cache, what the leading manager has written of releases.
type fleet struct {
	releases client.Reader
	leading  <-chan struct{}
}

// Describe implements prometheus.Collector.
func (*fleet) Describe(to chan<- *prometheus.Desc) {
	to <- releasesDesc
	to <- endpointsDesc
}

// Collect implements prometheus.Collector.
func (f *fleet) Collect(to chan<- prometheus.Metric) {
	select {
	case <-f.leading:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // a scrape has no context
	defer cancel()
	var all v1alpha1.ContentReleaseList
	if err := f.releases.List(ctx, &all); err != nil {
		to <- prometheus.NewInvalidMetric(releasesDesc, err)
		return
	}
	reasons, applied, failed := map[string]int{}, int32(0), int32(0)
	for i := range all.Items {
		s := &all.Items[i].Status
		if ready := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionReady); ready != nil {
			reasons[ready.Reason]++
		}
		if s.Rollout != nil {
			applied, failed = applied+s.Rollout.Applied, failed+s.Rollout.Failed
		}
	}
	for reason, n := range reasons {
		to <- prometheus.MustNewConstMetric(releasesDesc, prometheus.GaugeValue, float64(n), reason)
	}
	to <- prometheus.MustNewConstMetric(endpointsDesc, prometheus.GaugeValue, float64(applied), "applied")
	to <- prometheus.MustNewConstMetric(endpointsDesc, prometheus.GaugeValue, float64(failed), "failed")
}
