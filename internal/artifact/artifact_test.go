package artifact

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rollcall-dev/rollcall/internal/content"
)

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "artifacts")
	s, err := Open(t.Context(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	want := strings.Repeat("0123456789", 10_000)
	digest := content.Digest([]byte(want))
	if _, err := s.Read(t.Context(), digest, 1<<20); !errors.Is(err, ErrNotFound) {
		t.Errorf("before it was put: %v", err)
	}
	for range 2 { // again, as another manager does
		if got, err := s.Put(t.Context(), []byte(want), "text/plain"); err != nil || got != digest {
			t.Fatalf("%s, %v", got, err)
		}
	}
	if got, err := s.Read(t.Context(), digest, int64(len(want))); err != nil || string(got) != want {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := s.Read(t.Context(), digest, int64(len(want)-1)); !errors.Is(err, ErrDamaged) {
		t.Errorf("larger than its limit: %v", err)
	}
	r, err := s.Reader(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Seek(12_345, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); err != nil || string(rest) != want[12_345:] {
		t.Errorf("from the middle: %d bytes, %v", len(rest), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
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
	if _, err := s.Put(t.Context(), []byte(want), "text/plain"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(t.Context(), digest, 1<<20); err != nil || string(got) != want {
		t.Errorf("put again: %d bytes, %v", len(got), err)
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
