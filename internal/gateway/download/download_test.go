package download

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rollcall-dev/rollcall/internal/artifact"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

type everything struct{}

func (everything) Offers(store.Endpoint, string) bool { return true }

// held is an answer that is not read before it may be.
type held struct {
	*httptest.ResponseRecorder
	begun, read chan struct{}
}

func (h held) Write(b []byte) (int, error) {
	select {
	case h.begun <- struct{}{}:
	default:
	}
	<-h.read
	return h.ResponseRecorder.Write(b)
}

// What a gateway has for all endpoints together: --max-downloads, --download-rate, and what its metrics say.
func TestAllTogether(t *testing.T) {
	kept, err := artifact.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file := bytes.Repeat([]byte("x"), 3*chunk)
	digest, err := kept.Put(t.Context(), file, "text/plain")
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	s, err := New(Config{Source: everything{}, Store: kept, Most: 1, BytesPerSecond: 2 * chunk, Log: logr.Discard()}, registry)
	if err != nil {
		t.Fatal(err)
	}
	serve := func(w http.ResponseWriter, identity string) *wire.Problem {
		return s.Serve(w, httptest.NewRequest(http.MethodGet, "/", nil), store.Endpoint{IdentityID: identity}, "sha256:"+digest)
	}
	running := func() float64 {
		t.Helper()
		all, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m.GetName() == "rollcall_gateway_downloads" {
				return m.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	first := held{httptest.NewRecorder(), make(chan struct{}, 1), make(chan struct{})}
	done := make(chan *wire.Problem)
	began := time.Now()
	go func() { done <- serve(first, "one") }()
	<-first.begun
	if p := serve(httptest.NewRecorder(), "another"); p == nil || p.Name != wire.Throttled || running() != 1 {
		t.Errorf("the second of one at most is answered with %+v, and %v are under way", p, running())
	}
	close(first.read)
	if p := <-done; p != nil || !bytes.Equal(first.Body.Bytes(), file) {
		t.Errorf("the first: %+v, %d bytes", p, first.Body.Len())
	}
	if took := time.Since(began); took < 900*time.Millisecond { // the first chunk is for nothing, two cost half a second each
		t.Errorf("%d bytes took %s at %d bytes a second", len(file), took, 2*chunk)
	}
	if n := testutil.ToFloat64(s.sent); int(n) != len(file) || running() != 0 {
		t.Errorf("%v bytes are counted, and %v are under way", n, running())
	}
	if p := serve(httptest.NewRecorder(), "another"); p != nil {
		t.Errorf("after it: %+v", p)
	}
}
