// Package fetch downloads content beside the agent's engine, one file at a time: it goes on where an earlier attempt has ended, keeps to a rate, and
// says that a file is good only after it was verified as a whole. What becomes of it is the engine's.
package fetch

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Reasons of faults besides those that package content finds in a file.
const (
	ReasonNoSpace      = "NoSpace"
	ReasonNotWritable  = "NotWritable"
	ReasonInterrupted  = "Interrupted"
	chunk              = 16 << 10
	messageNoSpace     = "there is no room on the disk for it"
	messageInterrupted = "the agent was stopped, or something else was wanted"
)

// Job is one attempt at a file.
type Job struct {
	// Artifact of an offer, and the version that it must be.
	Artifact *agentv1.Artifact
	Version  string
	// Keys that may sign it.
	Keys []crypto.PublicKey
	// Dir to download to.
	Dir *state.Dir
	// Open asks for the file, from a byte on. Errors are *wire.Problem.
	Open func(ctx context.Context, from int64) (*client.Body, error)
	// Spoil, where it is set, changes what was downloaded before it is verified: for simulations of a damaged disk.
	Spoil func([]byte)
}

// Result of an attempt.
type Result struct {
	// Digest and Version of what was wanted.
	Digest, Version string
	// Here tells that the file was on the disk before, verified; otherwise a good one is the part of that digest.
	Here bool
	// Err is nil for a good file, else a *content.Fault or a *wire.Problem.
	Err error
	// Resumed tells that a part of it came with an earlier attempt, and Moved that this one brought some of it.
	Resumed, Moved bool
}

// Fetcher does one job after the other, in a goroutine of its own. Its methods are for one goroutine, but for Have.
type Fetcher struct {
	results chan Result // room for the one that is under way
	pace    *rate.Limiter
	have    atomic.Int64
	running sync.WaitGroup
	cancel  context.CancelFunc // nil while nothing is under way
	job     Job
}

// New makes one.
func New() *Fetcher {
	return &Fetcher{results: make(chan Result, 1), pace: rate.NewLimiter(rate.Inf, chunk)}
}

// Results are to be received, and told to Ended.
func (f *Fetcher) Results() <-chan Result { return f.results }

// Ended says that the result of a job was received.
func (f *Fetcher) Ended() { f.cancel(); f.cancel = nil }

// Busy tells whether a job is under way, or its result not taken yet.
func (f *Fetcher) Busy() bool { return f.cancel != nil }

// Wants tells whether the job under way is for that file.
func (f *Fetcher) Wants(a *agentv1.Artifact, version string) bool {
	return f.Busy() && f.job.Artifact.GetSha256() == a.GetSha256() && f.job.Artifact.GetSignature() == a.GetSignature() && f.job.Version == version
}

// Have is how many bytes of the file there are. It may be called from any goroutine.
func (f *Fetcher) Have() int64 { return f.have.Load() }

// Pace sets how many bytes may come in a second, 0 for as many as do.
func (f *Fetcher) Pace(bytesPerSecond uint64) {
	limit := rate.Inf
	if bytesPerSecond > 0 {
		limit = rate.Limit(bytesPerSecond)
	}
	if f.pace.Limit() != limit {
		f.pace.SetLimit(limit)
	}
}

// Start begins a job. None may be under way.
func (f *Fetcher) Start(j Job) {
	// Not the caller's context: the agent's end comes by Stop.
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.job = cancel, j
	f.have.Store(0)
	f.running.Go(func() {
		r := Result{Digest: j.Artifact.GetSha256(), Version: j.Version}
		r.Err = f.fetch(ctx, j, &r)
		f.results <- r
	})
}

// Cancel asks the job under way to end. Its result comes soon.
func (f *Fetcher) Cancel() {
	if f.cancel != nil {
		f.cancel()
	}
}

// Stop ends the job under way, and waits for that. What was downloaded stays.
func (f *Fetcher) Stop() {
	f.Cancel()
	f.running.Wait()
}

func (f *Fetcher) fetch(ctx context.Context, j Job, r *Result) error {
	size := j.Artifact.GetSize()
	if err := content.CheckSize(size); err != nil {
		return err
	}
	if file, err := j.Dir.Content(r.Digest, content.MaxBytes); err == nil && f.verify(file, j) == nil {
		r.Here = true
		return nil
	}
	part, err := j.Dir.OpenPart(r.Digest)
	if err != nil {
		return OnDisk(err)
	}
	defer func() { _ = part.Close() }() // synced where that matters
	err = f.download(ctx, j, part, r)
	if err == nil {
		err = f.check(part, j)
	}
	fault, bad := errors.AsType[*content.Fault](err)
	p, refused := errors.AsType[*wire.Problem](err)
	if bad && fault.Reason != ReasonInterrupted || refused && p.Name == wire.RangeNotSatisfiable {
		_ = part.Drop() // it is truncated at least; the next attempt begins anew
	}
	return err
}

// download brings what is missing of a part.
func (f *Fetcher) download(ctx context.Context, j Job, part *state.Part, r *Result) error {
	size := int64(j.Artifact.GetSize()) //nolint:gosec // it was bounded
	have, err := part.Size()
	if err != nil {
		return OnDisk(err)
	}
	if have > size {
		have = 0
	}
	f.have.Store(have)
	r.Resumed = have > 0
	if have == size {
		return nil
	}
	body, err := j.Open(ctx, have)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := part.From(body.From); err != nil {
		return OnDisk(err)
	}
	r.Resumed = body.From > 0
	f.have.Store(body.From)
	return f.copy(ctx, part, body, size, r)
}

// copy goes on until the end, at most one byte past the size.
func (f *Fetcher) copy(ctx context.Context, part *state.Part, body io.Reader, size int64, r *Result) error {
	buffer := make([]byte, chunk)
	for f.have.Load() <= size {
		n, err := body.Read(buffer[:min(chunk, size+1-f.have.Load())])
		if n > 0 {
			if _, err := part.Write(buffer[:n]); err != nil {
				return OnDisk(err)
			}
			f.have.Add(int64(n))
			r.Moved = true
			if f.pace.WaitN(ctx, n) != nil {
				return interrupted()
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return interrupted()
		case err != nil:
			return err
		}
	}
	return nil
}

func (f *Fetcher) check(part *state.Part, j Job) error {
	file, err := part.Whole(content.MaxBytes + 1)
	if err != nil {
		return OnDisk(err)
	}
	return f.verify(file, j)
}

func (f *Fetcher) verify(file []byte, j Job) error {
	if j.Spoil != nil {
		j.Spoil(file)
	}
	_, err := content.Verify(file, j.Artifact, j.Version, j.Keys)
	return err
}

// OnDisk is what the disk says of content, as a fault.
func OnDisk(err error) error {
	if state.IsFull(err) {
		return &content.Fault{Reason: ReasonNoSpace, Message: messageNoSpace}
	}
	return &content.Fault{Reason: ReasonNotWritable, Message: wire.CutText(fmt.Sprintf("the disk does not take it: %v", err), wire.MaxText)}
}

func interrupted() error {
	return &content.Fault{Reason: ReasonInterrupted, Message: messageInterrupted}
}
