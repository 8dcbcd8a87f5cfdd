package action

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/action"
)

// verifyFor is how long after it was reported a result is still verified that this process sees for the first time: for as long an endpoint's
// previous key is kept. When one that it had been waiting for was reported is the gateway's word, which counts for nothing.
const verifyFor = 24 * time.Hour

// verify looks at what a gateway says that an agent has reported. A good result costs no write; one that the agent has not signed is marked, and
// nothing counts it.
func (r *reconciler) verify(ctx context.Context, a *v1alpha1.EndpointAction, now time.Time) error {
	doubt, err := r.doubt(ctx, a, now)
	if err != nil || doubt == nil {
		return err
	}
	status, row := decide.Disbelieve(a, doubt, now)
	if err := r.write(ctx, a, status, row, nil); err != nil {
		return err
	}
	badProofs.Inc()
	log.FromContext(ctx).Info("A result is not what its agent has signed.", "reason", doubt.Error(), "endpoint", a.Spec.EndpointName)
	said := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionResultVerified)
	r.events.Eventf(a, r.related(ctx, a), corev1.EventTypeWarning, said.Reason, "Verify", "%s", said.Message)
	return nil
}

// doubt is why a result is not to be believed; nil if nothing speaks against it, if that was said already, or if nobody can tell any more.
func (r *reconciler) doubt(ctx context.Context, a *v1alpha1.EndpointAction, now time.Time) (doubt, failure error) {
	result := a.Status.Result
	if result == nil || !decide.Verified(&a.Status) || !now.Before(reportedTime(a).Add(verifyFor)) && !r.seen.awaited(a) {
		return nil, nil
	}
	for _, from := range []client.Reader{r.client, r.live} { // the cache may not have the key yet that the agent has just got
		ep, err := getEndpoint(ctx, from, a)
		if err != nil || ep == nil {
			return nil, err
		}
		if doubt = decide.Doubt(a, r.FleetID, ep.Status.Identity); doubt == nil {
			return nil, nil
		}
	}
	return doubt, nil
}

// reportedTime is when a result was reported, by the gateway's word as far as that can be: not before the action was admitted.
func reportedTime(a *v1alpha1.EndpointAction) time.Time {
	said := a.Status.Result.ReportedTime.Time
	if admission := a.Status.Admission; admission != nil && admission.Time.After(said) {
		return admission.Time.Time
	}
	return said
}
