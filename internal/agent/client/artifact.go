package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// silence is how long a server may send nothing of an artifact.
const silence = exchangeTimeout

// Body is what comes of an artifact.
type Body struct {
	// From is where it begins: 0 where the server sends the whole although a part was asked for.
	From int64

	server Server
	body   io.ReadCloser
	cancel context.CancelCauseFunc
	done   func()
	ctx    context.Context //nolint:containedctx // of the one request that the body belongs to
}

// Artifact asks for the artifact with a SHA-256, from a byte on, of size bytes. It goes over a connection of its own, so that nothing waits for it,
// and may be called beside an exchange; that connection ends with the body. Errors, of the body too, are *wire.Problem.
func (c *Client) Artifact(ctx context.Context, m Moment, sha256 string, from, size int64) (*Body, error) {
	var b *Body
	err := m.try(&c.downloadTime, func() (err error) {
		b, err = c.artifact(ctx, sha256, from, size)
		return err
	})
	if err != nil {
		return nil, explain(c.server, err)
	}
	return b, nil
}

func (c *Client) artifact(ctx context.Context, sha256 string, from, size int64) (*Body, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server.URL.String()+wire.PathArtifacts+strings.Trim(wire.ArtifactTag(sha256), `"`), nil)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		req.Header.Set("If-Range", wire.ArtifactTag(sha256))
	}
	c.server.introduce(req.Header)
	transport := newTransport(c.server, c.download)
	b := &Body{server: c.server, ctx: ctx, cancel: cancel, done: transport.CloseIdleConnections}
	stop := b.watch()
	resp, err := (&http.Client{Transport: transport, CheckRedirect: noRedirect}).Do(req) //nolint:bodyclose // by Body.Close
	stop()
	if err != nil {
		b.Close()
		return nil, b.why(err)
	}
	b.body = resp.Body
	if err := b.judge(resp, from, size); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// judge tells whether an answer is one to what was asked.
func (b *Body) judge(resp *http.Response, from, size int64) error {
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if want := fmt.Sprintf("bytes %d-%d/%d", from, size-1, size); resp.Header.Get("Content-Range") != want {
			return problem.New(problem.ReplyMalformed, fmt.Sprintf("The server sent %.64q of the artifact, not %q.", resp.Header.Get("Content-Range"), want))
		}
		b.From = from
	case http.StatusOK:
	default:
		a := &answer{status: resp.StatusCode, contentType: resp.Header.Get("Content-Type"), retryAfter: retryAfter(resp.Header)}
		stop := b.watch()
		defer stop()
		var err error
		if a.body, err = io.ReadAll(io.LimitReader(resp.Body, wire.MaxProblemBytes)); err != nil {
			return b.why(err)
		}
		if err := a.problem(); err != nil {
			return err
		}
		return problem.New(problem.ReplyMalformed, fmt.Sprintf("The server answered the request for an artifact with %d.", resp.StatusCode))
	}
	if resp.Header.Get("Content-Encoding") != "" {
		return problem.New(problem.ReplyMalformed, "The server encoded the artifact.")
	}
	return nil
}

// Read reads on. It waits no longer than exchanges do.
func (b *Body) Read(p []byte) (int, error) {
	stop := b.watch()
	defer stop()
	n, err := b.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.why(err)
	}
	return n, err
}

// Close ends the connection.
func (b *Body) Close() {
	b.cancel(nil)
	if b.body != nil {
		_ = b.body.Close() // only read
	}
	b.done()
}

// watch gives the request up unless it is stopped in time.
func (b *Body) watch() (stop func()) {
	timer := time.AfterFunc(silence, func() { b.cancel(context.DeadlineExceeded) })
	return func() { timer.Stop() }
}

// why is the cause where the request was given up, and keeps what try looks for.
func (b *Body) why(err error) error {
	if errors.Is(context.Cause(b.ctx), context.DeadlineExceeded) {
		err = context.DeadlineExceeded
	}
	return fmt.Errorf("%w: %w", explain(b.server, err), err)
}
