package store

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

// writer is the part of the API server that the pacer needs.
type writer interface {
	PatchStatus(ctx context.Context, at Ref, patch []byte) (*v1alpha1.Endpoint, error)
	Get(ctx context.Context, at Ref) (*v1alpha1.Endpoint, error)
}

const (
	// writeTimeout of one request.
	writeTimeout = 10 * time.Second
	// maxDecisions about one change in one go: others may be writing the same endpoint at the same moment.
	maxDecisions = 4
)

// Results of a change, for the metric.
const (
	resultWritten    = "written"
	resultUnchanged  = "unchanged"  // the API server has it already
	resultSuperseded = "superseded" // by a newer instance
	resultGone       = "gone"       // the Endpoint was deleted
	resultRefused    = "refused"    // the API server never takes it
	resultFailed     = "failed"     // to be tried again
)

// flight is one change on its way.
type flight struct {
	entry *entry
	at    Ref
	// taken is the change as it was taken from the entry, content what is left of it to be written.
	taken, content change
	patch          []byte
	blocks         []string
}

// outcome of a flight: settled, one way or the other, or to be tried again; err says so of the API server.
type outcome struct {
	settled bool
	err     error
}

// deliver writes f. Where the API server holds something else than was assumed, it looks there and decides again.
func (f *flight) deliver(ctx context.Context, p *pacer) outcome {
	for range maxDecisions {
		stored, err := f.request(ctx, func(ctx context.Context) (*v1alpha1.Endpoint, error) {
			return p.api.PatchStatus(ctx, f.at, f.patch)
		})
		switch {
		case err == nil:
			p.endpoints.answered(stored)
			p.metrics.count(f.blocks, resultWritten)
			return outcome{settled: true}
		case !apierrors.IsNotFound(err) && !refused(err):
			p.metrics.count(f.blocks, resultFailed)
			return outcome{err: err}
		}
		result, err := f.reconsider(ctx, p, err)
		if result != "" {
			p.metrics.count(f.content.blocks(), result)
			return outcome{settled: err == nil, err: err}
		}
	}
	p.metrics.count(f.blocks, resultFailed) // others write the same Endpoint all the time
	return outcome{}
}

// reconsider decides by what is stored now, after the API server refused a patch for cause. The result is empty if f is to be tried once
// more.
func (f *flight) reconsider(ctx context.Context, p *pacer, cause error) (result string, err error) {
	stored, err := f.request(ctx, func(ctx context.Context) (*v1alpha1.Endpoint, error) { return p.api.Get(ctx, f.at) })
	switch {
	case apierrors.IsNotFound(err) || err == nil && string(stored.UID) != f.at.UID:
		return resultGone, nil
	case err != nil:
		return resultFailed, err
	}
	p.endpoints.answered(stored)
	s := stateOf(stored)
	if stored.Status.Identity == nil || !f.at.names(stored.Status.Identity.ID) || !f.content.stands(s.connection) {
		return resultSuperseded, nil
	}
	tried := f.patch
	f.patch, f.blocks = f.content.patch(f.at, s)
	switch {
	case f.patch == nil:
		return resultUnchanged, nil
	case !bytes.Equal(f.patch, tried) || apierrors.IsConflict(cause):
		return "", nil
	}
	// No test has failed: it is what is in it.
	p.log.Error(cause, "The API server does not take what was reported of an endpoint.", "namespace", f.at.Namespace, "endpoint", f.at.Name)
	lesser, dropped := f.content.lesser()
	p.metrics.count(dropped, resultRefused)
	f.content = lesser
	if f.patch, f.blocks = f.content.patch(f.at, s); f.patch == nil || bytes.Equal(f.patch, tried) {
		return resultRefused, nil
	}
	return "", nil
}

func (f *flight) request(ctx context.Context, do func(context.Context) (*v1alpha1.Endpoint, error)) (*v1alpha1.Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return do(ctx)
}

// refused tells a no to this very patch from a failure of the API server: a test that did not hold, a conflict, or invalid content.
func refused(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	switch status.Status().Code {
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return true
	}
	return false
}
