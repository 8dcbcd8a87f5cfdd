// Package release decides about ContentReleases: which one an endpoint should have, what of it is signed, and what its status says. It does no
// I/O; times and keys are passed in.
package release

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/policy"
)

// Release is what matters of a ContentRelease where endpoints are matched with it.
type Release struct {
	UID, Name string
	Version   content.Version
	Sequence  int64
	Share     uint32
	// Withdrawn are versions that an endpoint may leave for this lower one.
	Withdrawn []content.Version
	selector  labels.Selector
}

// Endpoint is what matters of an endpoint.
type Endpoint struct {
	IdentityID string
	Labels     labels.Set
	// Pin is the version that its policy pins; empty: none.
	Pin string
}

// Of is what matters of r; ok is false where it cannot be offered to anybody.
func Of(r *v1alpha1.ContentRelease, share uint32, withdrawn []string) (out Release, ok bool) {
	version, err := content.ParseVersion(r.Spec.Version)
	if err != nil {
		return Release{}, false
	}
	selector, err := policy.Selector(r.Spec.Selector)
	if err != nil {
		return Release{}, false
	}
	out = Release{UID: string(r.UID), Name: r.Name, Version: version, Sequence: r.Status.Sequence, Share: share, selector: selector}
	for _, text := range withdrawn {
		if v, err := content.ParseVersion(text); err == nil {
			out.Withdrawn = append(out.Withdrawn, v)
		}
	}
	return out, r.DeletionTimestamp == nil && r.Status.Offer != nil && State(r) == v1alpha1.ReleaseActive
}

// State that is wanted of r.
func State(r *v1alpha1.ContentRelease) v1alpha1.ReleaseState {
	return cmp.Or(r.Spec.State, v1alpha1.ReleaseActive)
}

// Selects tells whether an endpoint with these labels may have it at all.
func (r *Release) Selects(of labels.Set) bool { return r.selector.Matches(of) }

// Selector of the endpoints that may have it, as text that can be compared.
func (r *Release) Selector() string {
	if r.selector == nil {
		return ""
	}
	return r.selector.String()
}

// Order sorts releases as For wants them: the highest version first.
func Order[R any](all []R, of func(R) *Release) {
	slices.SortFunc(all, func(a, b R) int { return of(b).Version.Compare(of(a).Version) })
}

// For finds in releases that are offered, the highest version first, the one that an endpoint should have; false where there is none.
func For[R any](e Endpoint, all []R, of func(R) *Release) (found R, ok bool) {
	pin, err := content.ParseVersion(e.Pin)
	pinned := e.Pin != ""
	if pinned && err != nil {
		return found, false
	}
	for _, one := range all {
		r := of(one)
		if (!pinned || r.Version == pin) && r.Selects(e.Labels) && content.InShare(r.UID, e.IdentityID, r.Share) {
			return one, true
		}
	}
	return found, false
}

// Offers tells whether an endpoint that runs a version lacks the offer of the release that it should have; sequence is that of the newest offer that
// it has judged. One that runs a newer version goes back only to a pinned version, whatever its sequence, or from one that was withdrawn: any
// other offer it would refuse.
func (r *Release) Offers(pinned bool, running string, sequence int64) bool {
	now, err := content.ParseVersion(running)
	switch {
	case err == nil && now == r.Version, err != nil && !pinned:
		return sequence < r.Sequence
	case pinned:
		return true
	default:
		return sequence < r.Sequence && (r.Version.Compare(now) > 0 || slices.Contains(r.Withdrawn, now))
	}
}
