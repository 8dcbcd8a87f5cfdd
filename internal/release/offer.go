package release

import (
	"cmp"
	"crypto"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/envelope"
)

// maxWithdrawn is how many withdrawn versions an offer names.
const maxWithdrawn = 16

// Content is the offer of a release whose artifact was verified. others are the releases of its namespace.
func Content(fleetID string, r *v1alpha1.ContentRelease, mediaType string, others []v1alpha1.ContentRelease) *agentv1.Offer {
	return &agentv1.Offer{
		FleetId: fleetID, Namespace: r.Namespace, ReleaseUid: string(r.UID), Kind: agentv1.ReleaseKind_RELEASE_KIND_CONTENT, Version: r.Spec.Version,
		Share: content.Everybody, ReleasedAt: timestamppb.New(r.CreationTimestamp.Time), Withdrawn: withdrawn(r, others),
		Artifacts: []*agentv1.Artifact{{
			Sha256: string(r.Status.Artifact.SHA256), Size: uint64(max(0, r.Status.Artifact.SizeBytes)), MediaType: mediaType, Signature: r.Spec.Source.Signature,
		}},
	}
}

// withdrawn are the versions above r's that were taken back, the highest first, as long as no other release has them.
func withdrawn(r *v1alpha1.ContentRelease, others []v1alpha1.ContentRelease) (versions []string) {
	own, err := content.ParseVersion(r.Spec.Version)
	if err != nil {
		return nil
	}
	above := map[content.Version]string{}
	for i := range others {
		o := &others[i]
		if v, err := content.ParseVersion(o.Spec.Version); err == nil && o.Spec.State == v1alpha1.ReleaseWithdrawn && v.Compare(own) > 0 && TakenBy(o, others) == nil {
			above[v] = o.Spec.Version
		}
	}
	parsed := make([]content.Version, 0, len(above))
	for v := range above {
		parsed = append(parsed, v)
	}
	slices.SortFunc(parsed, func(a, b content.Version) int { return b.Compare(a) })
	for _, v := range parsed[:min(len(parsed), maxWithdrawn)] {
		versions = append(versions, above[v])
	}
	return versions
}

// TakenBy is the release whose version r has too, and which counts because it is older; nil if r counts itself.
func TakenBy(r *v1alpha1.ContentRelease, others []v1alpha1.ContentRelease) (by *v1alpha1.ContentRelease) {
	own, err := content.ParseVersion(r.Spec.Version)
	if err != nil {
		return nil
	}
	first := r
	for i := range others {
		o := &others[i]
		if v, err := content.ParseVersion(o.Spec.Version); err == nil && v == own && older(o, first) {
			first = o
		}
	}
	if first.UID == r.UID {
		return nil
	}
	return first
}

func older(a, b *v1alpha1.ContentRelease) bool {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) < 0
}

// Floor is the highest sequence of the releases below r's version that are offered. r's own must be above it: an agent takes no offer with a lower
// sequence than that of what it runs, and one whose policy had pinned an older version is to come back.
func Floor(r *v1alpha1.ContentRelease, others []v1alpha1.ContentRelease) (floor int64) {
	own, err := content.ParseVersion(r.Spec.Version)
	if err != nil {
		return 0
	}
	for i := range others {
		o := &others[i]
		if v, err := content.ParseVersion(o.Spec.Version); err == nil && o.Status.Offer != nil && v.Compare(own) < 0 {
			floor = max(floor, o.Status.Sequence)
		}
	}
	return floor
}

// Sign is an offer as agents get it, and its sequence. It is before, unless what is offered has changed since, before was signed by another key, or
// its sequence is not above floor: then its sequence is higher than last, the highest of the namespace. Sequences follow the clock, so that they go
// on rising where the release that had the highest is deleted.
func Sign(orders crypto.Signer, before *agentv1.Envelope, offer *agentv1.Offer, floor, last int64, now time.Time) (*agentv1.Envelope, int64, error) {
	was := &agentv1.Offer{}
	if before != nil && envelope.Open(before, envelope.Offer, was, orders.Public()) == nil {
		same := proto.CloneOf(offer)
		same.Sequence, same.IssuedAt = was.GetSequence(), was.GetIssuedAt()
		if had := int64(was.GetSequence()); proto.Equal(was, same) && had > floor { //nolint:gosec // below 2^53
			return before, had, nil
		}
	}
	now = now.Truncate(time.Millisecond)
	next, sequence := proto.CloneOf(offer), max(last+1, now.UnixMilli())
	next.Sequence, next.IssuedAt = uint64(sequence), timestamppb.New(now)
	e, err := envelope.Seal(orders, envelope.Offer, next)
	return e, sequence, err
}
