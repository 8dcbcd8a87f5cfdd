package release

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// What a person alerts on: releases that are not as declared, and why.
func TestMetrics(t *testing.T) {
	w := start(t)
	before := testutil.ToFloat64(fetches.WithLabelValues("ok"))
	w.see(w.publish("1"), is(metav1.ConditionTrue, reasonOffered))
	_, missing := w.publisher.Release(w.ns, "2", local.Document("2"))
	w.create(missing)
	w.see(missing.Name, is(metav1.ConditionFalse, reasonSourceNotFound))
	harness.Eventually(t, patience, func() error {
		return testutil.GatherAndCompare(metrics.Registry, strings.NewReader(`
# HELP rollcall_release_endpoints Endpoints that run the content of a release (applied), or could not apply it (failed), as the leading manager sees them.
# TYPE rollcall_release_endpoints gauge
rollcall_release_endpoints{state="applied"} 0
rollcall_release_endpoints{state="failed"} 0
# HELP rollcall_releases ContentReleases by the reason of their condition Ready, as the leading manager sees them.
# TYPE rollcall_releases gauge
rollcall_releases{reason="Offered"} 1
rollcall_releases{reason="SourceNotFound"} 1
`), "rollcall_releases", "rollcall_release_endpoints")
	})
	if got := testutil.ToFloat64(fetches.WithLabelValues("ok")) - before; got < 1 {
		t.Errorf("%v fetches were good", got)
	}
	results := testutil.CollectAndCount(fetches)
	fetched(&problem{reason: reasonFetching})
	if got := testutil.CollectAndCount(fetches); got != results {
		t.Error("one that waits for its turn is counted")
	}
	failed := testutil.ToFloat64(fetches.WithLabelValues(reasonFetchFailed))
	fetched(errors.New("else"))
	if got := testutil.ToFloat64(fetches.WithLabelValues(reasonFetchFailed)); got != failed+1 {
		t.Errorf("%v failures, want one more than %v", got, failed)
	}
}
