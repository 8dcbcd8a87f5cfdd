// Package download serves the artifacts of releases to agents: to whom an offer names them, so many at once, and so fast in all.
package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/rollcall-dev/rollcall/internal/artifact"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

const (
	// perEndpoint downloads at once: one that was cut off on the way may still be open here.
	perEndpoint = 2
	// chunk is what is written at once, in bytes, and what a download may be ahead of its turn.
	chunk = 32 << 10
	// minRetry to maxRetry is when one that found no place may come again, apart from each other.
	minRetry, maxRetry = 2 * time.Second, 10 * time.Second
)

// Source knows what is offered. *store.Store is one.
type Source interface {
	Offers(e store.Endpoint, sha256 string) bool
}

// Config of a Service.
type Config struct {
	Source Source
	Store  *artifact.Store
	// Most downloads at once.
	Most int
	// BytesPerSecond of all of them together; 0 is unlimited.
	BytesPerSecond int
	Log            logr.Logger
}

// Service serves artifacts.
type Service struct {
	config Config
	pace   *rate.Limiter
	sent   prometheus.Counter

	mu      sync.Mutex
	running map[string]int // by identity
	total   int
}

// New makes a service and registers its metrics.
func New(config Config, r prometheus.Registerer) (*Service, error) {
	s := &Service{config: config, pace: rate.NewLimiter(rate.Inf, chunk), running: map[string]int{}}
	if config.BytesPerSecond > 0 {
		s.pace = rate.NewLimiter(rate.Limit(config.BytesPerSecond), max(chunk, config.BytesPerSecond/100))
	}
	s.sent = prometheus.NewCounter(prometheus.CounterOpts{Name: "rollcall_gateway_download_bytes_total", Help: "Bytes of artifacts that were sent to agents."})
	count := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "rollcall_gateway_downloads", Help: "Downloads of artifacts that are under way."}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.total)
	})
	return s, errors.Join(r.Register(s.sent), r.Register(count))
}

// Serve answers a request for an artifact of an endpoint whose agent was authenticated. name is what follows wire.PathArtifacts in the path.
func (s *Service) Serve(w http.ResponseWriter, r *http.Request, e store.Endpoint, name string) *wire.Problem {
	digest, ok := strings.CutPrefix(name, "sha256:")
	if !ok || !wire.IsDigest(digest) {
		return &wire.Problem{Name: wire.Malformed, Detail: "An artifact is named sha256: and the 64 lower-case hexadecimal digits of its digest."}
	}
	if !s.config.Source.Offers(e, digest) {
		return &wire.Problem{Name: wire.ArtifactNotOffered, Detail: "No release that is offered to this endpoint has this artifact."}
	}
	if !s.enter(e.IdentityID) {
		return &wire.Problem{Name: wire.Throttled, Detail: "Too many downloads are under way.", RetryAfter: minRetry + rand.N(maxRetry-minRetry)} //nolint:gosec // a turn is no secret
	}
	defer s.leave(e.IdentityID)
	file, err := s.config.Store.Reader(r.Context(), digest)
	if err != nil {
		s.config.Log.Error(err, "An artifact that is offered cannot be served.", "sha256", digest, "endpoint", e.Name, "namespace", e.Namespace)
		return &wire.Problem{Name: wire.StoreUnavailable, Detail: "The artifact store of this gateway does not have it yet, or does not answer.", RetryAfter: minRetry + rand.N(maxRetry-minRetry)} //nolint:gosec // likewise
	}
	defer func() { _ = file.Close() }() // only read
	return s.send(w, r, file, digest)
}

func (s *Service) send(w http.ResponseWriter, r *http.Request, file io.ReadSeeker, digest string) *wire.Problem {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return &wire.Problem{Name: wire.StoreUnavailable, Detail: "The artifact store does not answer.", RetryAfter: minRetry}
	}
	h := w.Header()
	h.Set("ETag", wire.ArtifactTag(digest))
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "private, immutable")
	to := &paced{ResponseWriter: w, ctx: r.Context(), service: s}
	http.ServeContent(to, r, "", time.Time{}, file)
	if to.refused {
		return &wire.Problem{Name: wire.RangeNotSatisfiable, Detail: fmt.Sprintf("The artifact has %d bytes.", size)}
	}
	return nil
}

func (s *Service) enter(identityID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.config.Most || s.running[identityID] >= perEndpoint {
		return false
	}
	s.total++
	s.running[identityID]++
	return true
}

func (s *Service) leave(identityID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.running[identityID]--; s.running[identityID] == 0 {
		delete(s.running, identityID)
	}
}

// paced writes no faster than all downloads together may.
type paced struct {
	http.ResponseWriter
	ctx     context.Context //nolint:containedctx // of the one request that it answers
	service *Service
	refused bool // the range; the answer is to be a problem, and not what net/http says
}

// WriteHeader implements http.ResponseWriter.
func (p *paced) WriteHeader(status int) {
	if p.refused = status == http.StatusRequestedRangeNotSatisfiable; !p.refused {
		p.ResponseWriter.WriteHeader(status)
	}
}

// Write implements io.Writer.
func (p *paced) Write(b []byte) (written int, err error) {
	if p.refused {
		return len(b), nil
	}
	for len(b) > 0 {
		part := b[:min(len(b), chunk)]
		if err := p.service.pace.WaitN(p.ctx, len(part)); err != nil {
			return written, err
		}
		n, err := p.ResponseWriter.Write(part)
		written += n
		p.service.sent.Add(float64(n))
		if err != nil {
			return written, err
		}
		b = b[n:]
	}
	return written, nil
}
