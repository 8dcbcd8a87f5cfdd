package artifact

import (
	"bytes"
	"errors"
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
}

func TestBucket(t *testing.T) {
	server := httptest.NewServer(&bucket{files: map[string][]byte{}})
	defer server.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "somebody")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	keeps(t, open(t, "s3://fleet?region=here&use_path_style=true&response_checksum_validation=when_required&endpoint="+server.URL))
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
	case r.Method == http.MethodPut:
		b.files[name], _ = io.ReadAll(r.Body)
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
