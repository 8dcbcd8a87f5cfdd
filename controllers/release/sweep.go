package release

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/artifact"
)

// grace is how long a file that no release names stays in the store. A file comes after the release that names it, and files are listed before releases
// are, so none that is just being added is ever unnamed. The hour is for a store whose clock differs from ours, and for whoever deletes a release and
// applies it again. A release that names an old file between the look and the deletion loses it, and fetches it when it is verified again.
const grace = time.Hour

// sweeper deletes from the store beside it what no release names any more. As the filler, every replica runs one.
type sweeper struct {
	*artifacts
	log logr.Logger
}

// NeedLeaderElection tells the manager that every replica runs it.
func (*sweeper) NeedLeaderElection() bool { return false }

// Start sweeps until ctx ends.
func (s *sweeper) Start(ctx context.Context) error {
	tick := time.NewTicker(s.Recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.Error(err, "Artifacts that no release names are not deleted; this is tried again.", "in", s.Recheck.String())
			}
		}
	}
}

// sweep asks the API server itself: a cache that lags, of a replica that was cut off for hours for instance, would cost others a file of a store that they
// share. The files are listed first, so that whatever is there has its release by then.
func (s *sweeper) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	all, err := s.Store.List(ctx)
	if err != nil {
		return err
	}
	var releases v1alpha1.ContentReleaseList
	if err := s.Sources.Live.List(ctx, &releases); err != nil {
		return fmt.Errorf("list the ContentReleases of all namespaces: %w", err)
	}
	named, here := sets.New[string](), sets.New[types.UID]()
	for i := range releases.Items {
		r := &releases.Items[i]
		here.Insert(r.UID)
		named.Insert(string(r.Spec.Source.SHA256))
		if r.Status.Artifact != nil {
			named.Insert(string(r.Status.Artifact.SHA256))
		}
	}
	s.mu.Lock()
	maps.DeleteFunc(s.good, func(uid types.UID, _ verified) bool { return !here.Has(uid) })
	s.mu.Unlock()
	for _, digest := range unnamed(all, named, s.Now()) {
		if err := s.Store.Delete(ctx, digest); err != nil {
			s.log.Error(err, "An artifact that no release names is not deleted; this is tried again.", "sha256", digest)
			continue
		}
		s.log.Info("An artifact that no release names is deleted.", "sha256", digest)
	}
	return nil
}

// unnamed are the digests of the files that no release names, and that are older than the grace.
func unnamed(all []artifact.Kept, named sets.Set[string], now time.Time) (digests []string) {
	for _, k := range all {
		if !named.Has(k.Digest) && now.Sub(k.At) > grace {
			digests = append(digests, k.Digest)
		}
	}
	return digests
}
