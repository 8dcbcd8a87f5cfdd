package gateway

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// offer puts a file into the store, and offers it.
func (w *world) offer(file []byte) (path string) {
	w.Helper()
	digest, err := w.store.Put(w.Context(), file, "text/plain")
	if err != nil {
		w.Fatal(err)
	}
	defer w.book.lock()()
	w.book.offered = digest
	return wire.PathArtifacts + strings.Trim(wire.ArtifactTag(digest), `"`)
}

// agentClient is an agent's, and downloads over connections of its own.
func (w *world) agentClient() *http.Client {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{w.agent}, MaxVersion: tls.VersionTLS12}}
	w.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func (w *world) get(c *http.Client, path string, headers ...string) *http.Response {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, "https://"+w.addr+path, nil)
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set(wire.HeaderAgentVersion, "8.0.0")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestDownload(t *testing.T) {
	w := newWorld(t)
	file := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	path, c := w.offer(file), w.agentClient()
	etag := wire.ArtifactTag(content.Digest(file))
	for name, tc := range map[string]struct {
		path    string
		headers []string
		status  int
		want    []byte // the file, or the name of the problem
	}{
		"whole":                        {path, nil, http.StatusOK, file},
		"from the middle":              {path, []string{"Range", "bytes=1000000-", "If-Range", etag}, http.StatusPartialContent, file[1_000_000:]},
		"of another file":              {path, []string{"Range", "bytes=1000000-", "If-Range", `"sha256:0"`}, http.StatusOK, file},
		"a part":                       {path, []string{"Range", "bytes=5-9"}, http.StatusPartialContent, file[5:10]},
		"that it has":                  {path, []string{"If-None-Match", etag}, http.StatusNotModified, nil},
		"from behind its end":          {path, []string{"Range", "bytes=1600000-", "If-Range", etag}, http.StatusRequestedRangeNotSatisfiable, []byte(wire.RangeNotSatisfiable)},
		"of another file, from behind": {path, []string{"Range", "bytes=1600000-", "If-Range", `"sha256:0"`}, http.StatusOK, file},
		"as parts behind its end":      {path, []string{"Range", "bytes=1600000-,1700000-"}, http.StatusRequestedRangeNotSatisfiable, []byte(wire.RangeNotSatisfiable)},
		"a part that is none":          {path, []string{"Range", "bytes=9-5"}, http.StatusRequestedRangeNotSatisfiable, []byte(wire.RangeNotSatisfiable)},
		"that was not offered":         {wire.PathArtifacts + "sha256:" + strings.Repeat("0", 64), nil, http.StatusNotFound, []byte(wire.ArtifactNotOffered)},
		"by no digest":                 {wire.PathArtifacts + "sha256:../../etc/passwd", nil, http.StatusBadRequest, []byte(wire.Malformed)},
		"by a digest in capitals":      {path[:len(path)-1] + "F", nil, http.StatusBadRequest, []byte(wire.Malformed)},
		"without a name":               {wire.PathArtifacts, nil, http.StatusBadRequest, []byte(wire.Malformed)},
		"as a collection is asked for": {strings.TrimSuffix(wire.PathArtifacts, "/"), nil, http.StatusNotFound, []byte(wire.NotFound)},
	} {
		t.Run(name, func(t *testing.T) {
			resp := w.get(c, tc.path, tc.headers...)
			got, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tc.status {
				t.Fatalf("%s, %v: %s", resp.Status, err, got[:min(len(got), 200)])
			}
			if tc.status < 300 && !bytes.Equal(got, tc.want) {
				t.Errorf("%d bytes came, want %d", len(got), len(tc.want))
			}
			if tc.status < 300 && (resp.Header.Get("ETag") != etag || resp.ContentLength != int64(len(tc.want))) {
				t.Errorf("headers are %v", resp.Header)
			}
			if tc.status >= 400 && (resp.Header.Get("Content-Type") != "application/problem+json" || !bytes.Contains(got, fmt.Appendf(nil, `/%s",`, tc.want))) {
				t.Errorf("refused by %s, %v", got, resp.Header)
			}
		})
	}
	t.Run("by nobody", func(t *testing.T) {
		stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
		if resp := w.get(stranger, path); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("answered with %s", resp.Status)
		}
	})
	t.Run("that is offered, and not here", func(t *testing.T) {
		func() { defer w.book.lock()(); w.book.offered = strings.Repeat("0", 64) }()
		resp := w.get(c, wire.PathArtifacts+"sha256:"+strings.Repeat("0", 64))
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("answered with %s, %v", resp.Status, resp.Header)
		}
	})
}

// One endpoint has two downloads at once, and whoever finds no place is told when to come again.
func TestDownloadsAtOnce(t *testing.T) {
	w := newWorld(t)
	path := w.offer(bytes.Repeat([]byte("x"), 64<<20)) // more than what the kernel takes ahead
	var open []*http.Response
	for range 2 {
		open = append(open, w.get(w.agentClient(), path))
	}
	resp := w.get(w.agentClient(), path)
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("the third is answered with %s, %v", resp.Status, resp.Header)
	}
	for _, r := range open {
		if r.StatusCode != http.StatusOK {
			t.Errorf("answered with %s", r.Status)
		}
		_ = r.Body.Close() // cut off
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		resp := w.get(w.agentClient(), path)
		if resp.StatusCode == http.StatusOK {
			_ = resp.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(fmt.Errorf("places are never free again: %s", resp.Status))
		}
	}
}
