package artifact

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/internal/content"
)

func TestDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "artifacts")
	s := open(t, "file://"+dir)
	digest := keeps(t, s)
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(files) != 1 {
		t.Errorf("in the directory: %v, %v", files, err)
	}
	if err := os.WriteFile(files[0], []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(t.Context(), digest, 1<<20); !errors.Is(err, ErrDamaged) {
		t.Errorf("tampered with: %v", err)
	}
	if _, err := s.Put(t.Context(), []byte(file), "text/plain"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(t.Context(), digest, 1<<20); err != nil || string(got) != file {
		t.Errorf("put again: %d bytes, %v", len(got), err)
	}
	for _, stranger := range []string{"README", digest + ".18a.tmp", strings.ToUpper(digest), "more/" + digest, "../" + digest} {
		name := filepath.Join(dir, "sha256", stranger)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	goes(t, s, digest)
}

func TestBucket(t *testing.T) {
	server := httptest.NewServer(&bucket{files: map[string][]byte{}})
	defer server.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "somebody")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	s := open(t, "s3://fleet?region=here&use_path_style=true&response_checksum_validation=when_required&endpoint="+server.URL)
	goes(t, s, keeps(t, s))
}

// goes lists the one file that was put into a store, and deletes it.
func goes(t *testing.T, s *Store, digest string) {
	t.Helper()
	all, err := s.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Digest != digest || time.Since(all[0].At) > time.Hour {
		t.Fatalf("the store has %v, %v", all, err)
	}
	for range 2 { // again, as another manager does
		if err := s.Delete(t.Context(), digest); err != nil {
			t.Error(err)
		}
	}
	if all, err := s.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("then it has %v, %v", all, err)
	}
}

var file = strings.Repeat("0123456789", 10_000)

func open(t *testing.T, address string) *Store {
	t.Helper()
	s, err := Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// keeps puts the file into a store that is empty, and reads it in every way.
func keeps(t *testing.T, s *Store) (digest string) {
	t.Helper()
	digest = content.Digest([]byte(file))
	if _, err := s.Read(t.Context(), digest, 1<<20); !errors.Is(err, ErrNotFound) {
		t.Errorf("before it was put: %v", err)
	}
	for range 2 { // again, as another manager does
		if got, err := s.Put(t.Context(), []byte(file), "text/plain"); err != nil || got != digest {
			t.Fatalf("%s, %v", got, err)
		}
	}
	if got, err := s.Read(t.Context(), digest, int64(len(file))); err != nil || string(got) != file {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := s.Read(t.Context(), digest, int64(len(file)-1)); !errors.Is(err, ErrDamaged) {
		t.Errorf("larger than its limit: %v", err)
	}
	r, err := s.Reader(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Seek(12_345, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); err != nil || string(rest) != file[12_345:] {
		t.Errorf("from the middle: %d bytes, %v", len(rest), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	return digest
}

// bucket answers what a Store asks of an object store that speaks S3. It believes everybody.
type bucket struct {
	mu    sync.Mutex
	files map[string][]byte
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, "/fleet/")
	held, ok := b.files[name]
	switch {
	case r.URL.Query().Has("list-type"):
		fmt.Fprint(w, "<ListBucketResult>")
		for name := range b.files {
			fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>1</Size><ETag>1</ETag><LastModified>%s</LastModified></Contents>", name, time.Now().UTC().Format(time.RFC3339))
		}
		fmt.Fprint(w, "</ListBucketResult>")
	case r.Method == http.MethodPut:
		b.files[name], _ = io.ReadAll(r.Body)
	case r.Method == http.MethodDelete:
		delete(b.files, name)
		w.WriteHeader(http.StatusNoContent)
	case !ok:
		http.Error(w, "<Error><Code>NoSuchKey</Code></Error>", http.StatusNotFound)
	default:
		http.ServeContent(w, r, "", time.Now(), bytes.NewReader(held))
	}
}

func TestWrongAddress(t *testing.T) {
	for _, address := range []string{"", "artifacts", "ftp://example.com/x", "file:///proc/1/nothing", "%"} {
		if s, err := Open(t.Context(), address); err == nil {
			t.Errorf("%q was opened", address)
			_ = s.Close()
		} else {
			t.Log(err)
		}
	}
}
