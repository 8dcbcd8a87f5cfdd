package release

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	decide "github.com/rollcall-dev/rollcall/internal/release"
)

// Reasons of the conditions.
const (
	reasonOffered          = "Offered"
	reasonPaused           = "Paused"
	reasonWithdrawn        = "Withdrawn"
	reasonFetching         = "Fetching"
	reasonFetchFailed      = "FetchFailed"
	reasonSourceNotFound   = "SourceNotFound"
	reasonSourceUnknown    = "SourceUnknown"
	reasonStoreUnavailable = "StoreUnavailable"
	reasonNoReleaseKey     = "NoReleaseKey"
	reasonVersionTaken     = "VersionTaken"
	reasonInvalidSelector  = "InvalidSelector"
	reasonGatewaysApart    = "GatewaysApart"
)

// setConditions says whether the release is offered as it is declared.
func setConditions(r *v1alpha1.ContentRelease, wrong *problem) {
	c := &r.Status.Conditions
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, ObservedGeneration: r.Generation}
	switch {
	case wrong == nil:
		ready.Status = metav1.ConditionTrue
		ready.Reason, ready.Message = asDeclared(r)
	case wrong.reason == reasonFetching:
		ready.Status, ready.Reason, ready.Message = metav1.ConditionUnknown, wrong.reason, wrong.message
	case wrong.passes && r.Status.Offer != nil: // verified before: it stays offered while its source or the store is away
		ready.Status, ready.Reason, ready.Message = metav1.ConditionTrue, reasonOffered, "verified, signed and offered; checking it again: "+wrong.message
	default:
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, wrong.reason, wrong.message
	}
	ready.Message = decide.Cut(ready.Message)
	meta.SetStatusCondition(c, ready)
	abnormal := map[string]bool{
		v1alpha1.ConditionReconciling: ready.Status != metav1.ConditionTrue && !wrong.stalls(),
		v1alpha1.ConditionStalled:     ready.Status == metav1.ConditionFalse && wrong.stalls(),
	}
	for kind, is := range abnormal {
		if !is {
			meta.RemoveStatusCondition(c, kind)
			continue
		}
		of := ready
		of.Type, of.Status = kind, metav1.ConditionTrue
		meta.SetStatusCondition(c, of)
	}
}

// setNotShared says that what is offered may be nowhere to be downloaded: the manager cannot see what gateways see.
func setNotShared(r *v1alpha1.ContentRelease, notShared bool) {
	if !notShared {
		meta.RemoveStatusCondition(&r.Status.Conditions, v1alpha1.ConditionStoreNotShared)
		return
	}
	meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionStoreNotShared, Status: metav1.ConditionTrue, ObservedGeneration: r.Generation, Reason: reasonGatewaysApart,
		Message: "gateways run apart from the manager, which keeps artifacts in a directory that they may not see: give both a bucket by --artifact-store, or one volume and the manager --artifact-store-shared",
	})
}

func asDeclared(r *v1alpha1.ContentRelease) (reason, message string) {
	switch decide.State(r) {
	case v1alpha1.ReleasePaused:
		return reasonPaused, "verified and signed, and offered to nobody new"
	case v1alpha1.ReleaseWithdrawn:
		return reasonWithdrawn, "taken back: who runs it is offered the highest version that remains"
	default:
		return reasonOffered, "verified, signed and offered"
	}
}
