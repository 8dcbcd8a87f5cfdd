package release

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/content"
)

// problem is why a release is not offered: a reason in CamelCase, words for people, and whether trying again may help.
type problem struct {
	reason, message string
	passes          bool
}

func (p *problem) Error() string { return p.reason + ": " + p.message }

// stalls tells whether a person must do something. A source that holds another file is theirs to mend, and is looked at again all the same.
func (p *problem) stalls() bool { return !p.passes || p.reason == content.ReasonDigestDiffers }

const (
	// workers of each of the two controllers: so many artifacts are fetched at once, of at most content.MaxBytes each.
	workers = 8
	// perNamespace is how many fetches a namespace may have under way: sources that hang hold up none but their neighbours.
	perNamespace = 2
)

// artifacts fetches, verifies and keeps. What was found good is not looked at again for a while.
type artifacts struct {
	Options
	verifying sync.Mutex // one at a time: a document that is parsed takes several times its size
	mu        sync.Mutex
	good      map[types.UID]verified // by release: one that is made anew looks whether its file is still there
	fetching  map[string]int         // by namespace
}

// verified is a file that the store has, and by when that was last seen. by is what vouched for it.
type verified struct {
	at   time.Time
	size int64
	by   string
}

func newArtifacts(o Options) *artifacts {
	return &artifacts{Options: o, good: map[types.UID]verified{}, fetching: map[string]int{}}
}

// ensure makes sure that the store has the artifact of a release, and that its digest and its signature are good. The error is a *problem. Several may
// fetch one file at once: the store takes it again.
func (a *artifacts) ensure(ctx context.Context, r *v1alpha1.ContentRelease) (*v1alpha1.ReleaseArtifact, error) {
	from, digest := r.Spec.Source, string(r.Spec.Source.SHA256)
	by := r.Spec.Version + " " + from.Signature + " " + fmt.Sprint(a.Keys())
	a.mu.Lock()
	known, ok := a.good[r.UID]
	a.mu.Unlock()
	if ok && known.by == by && a.Now().Sub(known.at) < a.Recheck {
		return &v1alpha1.ReleaseArtifact{SHA256: from.SHA256, SizeBytes: known.size}, nil
	}
	file, err := a.Store.Read(ctx, digest, content.MaxBytes)
	here := err == nil
	if !here {
		file, err = a.fetch(ctx, r)
	}
	if err == nil {
		err = a.verify(file, r)
	}
	if !here {
		fetched(err)
	}
	if err != nil {
		return nil, err
	}
	if !here {
		if _, err := a.Store.Put(ctx, file, content.MediaType); err != nil {
			return nil, &problem{reason: reasonStoreUnavailable, message: err.Error(), passes: true}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.good[r.UID] = verified{a.Now(), int64(len(file)), by}
	return &v1alpha1.ReleaseArtifact{SHA256: from.SHA256, SizeBytes: int64(len(file))}, nil
}

// fetch fetches when it is the namespace's turn: reasonFetching, when it is not.
func (a *artifacts) fetch(ctx context.Context, r *v1alpha1.ContentRelease) ([]byte, error) {
	a.mu.Lock()
	busy := a.fetching[r.Namespace] >= perNamespace
	if !busy {
		a.fetching[r.Namespace]++
	}
	a.mu.Unlock()
	if busy {
		return nil, &problem{reason: reasonFetching, message: "others of its namespace are being fetched", passes: true}
	}
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.fetching[r.Namespace]--; a.fetching[r.Namespace] == 0 {
			delete(a.fetching, r.Namespace)
		}
	}()
	return a.Sources.fetch(ctx, r.Namespace, r.Spec.Source)
}

// verify tells why a file is not what the release says, or not content.
func (a *artifacts) verify(file []byte, r *v1alpha1.ContentRelease) error {
	a.verifying.Lock()
	defer a.verifying.Unlock()
	from, keys := r.Spec.Source, a.Keys()
	if len(keys) == 0 {
		return &problem{reason: reasonNoReleaseKey, message: "there is no release key: put the publisher's minisign public key into the ConfigMap rollcall-release-keys"}
	}
	_, err := content.Verify(file, &agentv1.Artifact{Sha256: string(from.SHA256), Size: uint64(len(file)), Signature: from.Signature}, r.Spec.Version, keys)
	fault, ok := errors.AsType[*content.Fault](err)
	if !ok {
		return err
	}
	p := &problem{reason: fault.Reason, message: fault.Message}
	switch fault.Reason {
	case content.ReasonDigestDiffers:
		p.message, p.passes = fmt.Sprintf("%s has the digest %s, not the one that the release names", where(from), content.Digest(file)), true
	case content.ReasonSignatureInvalid:
		p.message = "no release key of the fleet (ConfigMap rollcall-release-keys) signed this file"
	}
	return p
}

// problemOf is what went wrong, in the words of a condition.
func problemOf(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	return &problem{reason: reasonFetchFailed, message: err.Error(), passes: true}
}
