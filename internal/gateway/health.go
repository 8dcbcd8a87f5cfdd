package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Health answers for the process, on a port that agents do not reach: /livez, /readyz and /metrics.
type Health struct {
	checks   []func() error
	draining atomic.Bool
	mux      *http.ServeMux
}

// NewHealth is ready when every check returns nil.
func NewHealth(g prometheus.Gatherer, checks ...func() error) *Health {
	h := &Health{checks: checks, mux: http.NewServeMux()}
	h.mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	h.mux.HandleFunc("GET /readyz", h.ready)
	h.mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	return h
}

// Server serves it.
func (h *Health) Server() *http.Server {
	return &http.Server{Handler: h.mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
}

// Drain makes it unready, so that no new agents are sent here.
func (h *Health) Drain() { h.draining.Store(true) }

func (h *Health) ready(w http.ResponseWriter, _ *http.Request) {
	var why []string
	if h.draining.Load() {
		why = append(why, "about to stop")
	}
	for _, check := range h.checks {
		if err := check(); err != nil {
			why = append(why, err.Error())
		}
	}
	if len(why) > 0 {
		http.Error(w, "not ready:\n"+strings.Join(why, "\n"), http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok") // a prober that is gone does not matter
}
