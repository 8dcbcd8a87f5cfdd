package store

import (
	"slices"
	"sync/atomic"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/order"
	"github.com/rollcall-dev/rollcall/internal/release"
)

// releases are the ContentReleases, and of each namespace those that are offered, the highest version first.
type releases struct {
	table *table[*v1alpha1.ContentRelease, row]
	// offered is made anew with each change: releases are few, and change seldom.
	offered atomic.Pointer[map[string][]Release]
	changed func()
}

// row is what is kept of a release. One that cannot be offered has no Offer.
type row struct {
	namespace string
	Release
}

func newReleases(changed func()) *releases {
	x := &releases{changed: changed}
	x.offered.Store(&map[string][]Release{})
	x.table = &table[*v1alpha1.ContentRelease, row]{
		key:  func(r *v1alpha1.ContentRelease) string { return string(r.UID) },
		view: rowOf, rows: map[string]row{},
		changed: func(before, now row) {
			if before.UID != now.UID || before.Sequence != now.Sequence || (before.Offer == nil) != (now.Offer == nil) || before.Selector() != now.Selector() {
				x.arrange()
			}
		},
		gone: x.arrange,
	}
	return x
}

// rowOf takes the share and the withdrawn versions from what was signed: agents judge by that.
func rowOf(r *v1alpha1.ContentRelease) row {
	out := row{namespace: r.Namespace}
	out.UID = string(r.UID)
	if r.Status.Offer == nil {
		return out
	}
	signed, offer := order.FromResource(*r.Status.Offer), &agentv1.Offer{}
	if envelope.Check(signed, envelope.Offer) != nil || envelope.Parse(signed.GetPayload(), offer) != nil {
		return out
	}
	of, ok := release.Of(r, offer.GetShare(), offer.GetWithdrawn())
	if !ok {
		return out
	}
	out.Release = Release{Release: of, Offer: signed}
	for _, a := range offer.GetArtifacts() {
		out.digests = append(out.digests, a.GetSha256())
	}
	return out
}

func (x *releases) arrange() {
	all := map[string][]Release{}
	x.table.mu.RLock()
	for _, r := range x.table.rows {
		if r.Offer != nil {
			all[r.namespace] = append(all[r.namespace], r.Release)
		}
	}
	x.table.mu.RUnlock()
	for _, of := range all {
		release.Order(of, itself)
	}
	x.offered.Store(&all)
	x.changed()
}

func itself(r Release) *release.Release { return &r.Release }

func (x *releases) of(e Endpoint, pin string) (Release, bool) {
	all := (*x.offered.Load())[e.Namespace]
	if len(all) == 0 {
		return Release{}, false
	}
	found, ok := release.For(release.Endpoint{IdentityID: e.IdentityID, Labels: e.Labels(), Pin: pin}, all, itself)
	found.Pinned = pin != ""
	return found, ok
}

func (x *releases) offers(e Endpoint, sha256 string) bool {
	of := e.Labels()
	return slices.ContainsFunc((*x.offered.Load())[e.Namespace], func(r Release) bool {
		return slices.Contains(r.digests, sha256) && r.Selects(of)
	})
}
